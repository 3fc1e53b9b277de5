"""The simulated audience before the running service: it asks for slates, reacts, and what it does is posted.

Everything goes through the API, as a site would do it. A day is played in parts: viewers who come ask for slates side
by side; what they do, and what happens without any slate, is posted as far as its time has come; and every worker has
taken it in before the next part begins. So no slate knows what comes after it, the home's clock is never ahead of a
viewer, and weeks pass as fast as slates are made.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from urllib.parse import quote

import aiohttp

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from events.event import AnyEvent, Click, Rating, Watch
from events.reading import reached
from events.sources.audience import Audience, Visit
from events.state import Acts
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Ledger
from serving.report import WorkerReport, reports
from serving.router import arm_of

PARTS = 2  # of a day
DAY_MS = 86_400_000
PART_MS = DAY_MS // PARTS
CONNECTIONS = 8
BATCH = 2000  # events of one post
K = 10
POPULAR = 100  # movies of the ranking, so that ten are left for those who have seen the first ones
PATIENCE_S = 60.0  # for the workers to take in what was posted
TRIES = 3  # of a request whose connection was dropped, as HTTP clients do for idempotent ones


class StageError(PlainError):
    """The service is away, or did not take in what viewers did."""


@dataclass
class Played:
    """What came of some days. worth: by arm, the true value of its slates, summed."""

    slates: Counter[str] = field(default_factory=Counter)  # by arm
    failures: Counter[str] = field(default_factory=Counter)
    events: int = 0
    clicks: int = 0
    worth: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    yardstick: float = 0.0  # what the popularity ranking would have been worth to the same viewers, summed
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.slates.values())

    def mean_worth(self, arm: str) -> float:
        """Likings that a slate of this arm is expected to bring, by the simulator's truth."""
        return self.worth[arm] / max(1, self.slates[arm])

    @property
    def over_popularity(self) -> float | None:
        """The true value of all that was served, as a multiple of the popularity ranking's; None where nobody is in the
        popularity arm, so that its ranking is not known."""
        return sum(self.worth.values()) / self.yardstick if self.yardstick else None

    @property
    def sentence(self) -> str:
        failed = ", ".join(f"{count} {why}" for why, count in self.failures.items()) or "0"
        rate = self.total / self.seconds if self.seconds else 0.0
        return (
            f"{self.total:,} slates, {failed} failed, {self.clicks / max(1, self.total):.2f} clicks a slate, "
            f"{self.events:,} events; {rate:,.0f} viewers a second"
        )


class Stage:
    """Plays an audience's days, one after the other, before the service at `url`.

    key: of the API, with the scopes read and events.
    """

    def __init__(self, audience: Audience, home: Home, settings: Settings, url: str, key: str) -> None:
        self.audience, self.home, self.settings, self.url = audience, home, settings, url
        self.day = 0  # the next one
        self._headers = {"X-API-Key": key}
        self._held: list[AnyEvent] = []  # whose time has not come
        self._met = met_so_far(home, settings)
        self._nobody = _in_popularity_arm(settings.serving.popularity_share)
        self._longest = min(POPULAR, settings.serving.max_k)

    def play(self, days: int, after_day: Callable[[Played], None] = lambda played: None) -> Played:
        """The next days; `after_day` is told what came of them so far.

        StageError where the service is away, or does not take in what viewers do.
        """
        played = Played()
        for _ in range(days):
            try:
                asyncio.run(self._play_day(played))
            except (aiohttp.ClientError, TimeoutError) as why:
                raise StageError(f"the service at {self.url} does not answer: {why or type(why).__name__}") from why
            self.day += 1
            after_day(played)
        return played

    async def _play_day(self, played: Played) -> None:
        begun = time.monotonic()
        starts_ms = self.audience.begins_ms // DAY_MS * DAY_MS + self.day * DAY_MS
        visits = {part: list(some) for part, some in groupby(self.audience.visits(self.day), _part_of(starts_ms))}
        self._held += self.audience.organic(self.day)
        connector = aiohttp.TCPConnector(limit=CONNECTIONS)
        async with aiohttp.ClientSession(self.url, headers=self._headers, connector=connector) as session:
            await self._taken_over()
            await self._post_until(session, starts_ms, played)
            for part in range(PARTS):
                await self._taken_in()
                self._held += await self._ask(session, visits.get(part, []), played)
                await self._post_until(session, starts_ms + (part + 1) * PART_MS, played)
        await self._taken_in()
        played.seconds += time.monotonic() - begun

    async def _ask(self, session: aiohttp.ClientSession, visits: Sequence[Visit], played: Played) -> list[AnyEvent]:
        """A slate for each visit, and what the viewers do with it."""
        waiting, found = iter(visits), list[AnyEvent]()
        popular = await self._popular(session)

        async def ask() -> None:
            for visit in waiting:
                unseen = [movie for movie in popular if movie not in self._met[visit.user_id]][:K]
                played.yardstick += self.audience.value(visit.user_id, unseen, visit.ts)
                found.extend(await self._meet(session, visit, played))

        await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
        return found

    async def _popular(self, session: aiohttp.ClientSession) -> list[str]:
        """The popularity ranking of the moment, as the service gives it to somebody in the popularity arm."""
        if not self._nobody:
            return []
        async with session.get(f"/recommend/{self._nobody}", params={"k": self._longest}) as answer:
            return (await answer.text()).strip().split(",")

    async def _meet(self, session: aiohttp.ClientSession, visit: Visit, played: Played) -> list[AnyEvent]:
        for attempt in range(TRIES):
            try:
                async with session.get(f"/recommend/{quote(visit.user_id, safe='')}", params={"k": K}) as answer:
                    slate = (await answer.text()).strip().split(",")
                    told = answer.headers
                    status = answer.status
                break
            except aiohttp.ClientError as why:
                if attempt == TRIES - 1:
                    played.failures[type(why).__name__] += 1
                    return []
        if status != 200:
            played.failures[f"status {status}"] += 1
            return []
        arm = told["X-Arm"]
        played.slates[arm] += 1
        played.worth[arm] += self.audience.value(visit.user_id, slate, visit.ts)
        deeds = self.audience.react(visit.user_id, slate, visit.ts, told["X-Request-Id"])
        played.clicks += sum(deed.kind == "click" for deed in deeds)
        return list(deeds)

    async def _post_until(self, session: aiohttp.ClientSession, moment_ms: int, played: Played) -> None:
        """Post what has happened before a moment, by time; the rest waits for its own."""
        events = sorted((event for event in self._held if event.ts < moment_ms), key=lambda event: event.ts)
        self._held = [event for event in self._held if event.ts >= moment_ms]
        for event in events:
            if isinstance(event, Click | Rating | Watch):
                self._met[event.user_id].add(event.movie_id)
        for start in range(0, len(events), BATCH):
            some = events[start : start + BATCH]
            body = "[" + ",".join(event.model_dump_json() for event in some) + "]"
            async with session.post("/v1/events", data=body, headers={"Content-Type": "application/json"}) as answer:
                told = await answer.json(content_type=None)
            if answer.status != 200 or told["accepted"] != len(some):
                raise StageError(f"the service took {told} of {len(some)} events (status {answer.status})")
        played.events += len(events)

    async def _taken_over(self) -> None:
        """Until every worker serves whom the ledger names, or refuses it. By the wall that takes seconds, in which days
        of an audience would pass: viewers of the new arm would meet the old one first, and count for neither."""
        held = in_charge(Ledger.to_read(self.home.ledger, self.home.keys))
        wanted: dict[str, str] = {
            alias: held[alias].body["release"] for alias in ("champion", "challenger") if alias in held
        }
        await self._until(lambda worker: _serves(worker, wanted), "take over who is in charge")

    async def _taken_in(self) -> None:
        """Until every worker has followed the log to its end."""
        until = time.monotonic() + PATIENCE_S
        while (end := reached(self.home, self.settings)) is None:
            if time.monotonic() > until:
                raise StageError(f"what was posted did not come through Kafka within {PATIENCE_S:g} s")
            await asyncio.sleep(0.1)
        await self._until(lambda worker: worker.offset >= end, "take in what viewers did")

    async def _until(self, done: Callable[[WorkerReport], bool], what: str) -> None:
        """StageError where a worker does not say so in time, or none lives."""
        until = time.monotonic() + PATIENCE_S
        while not (told := reports(self.home)) or not all(map(done, told)):
            if time.monotonic() > until:
                raise StageError(f"the workers did not {what} within {PATIENCE_S:g} s")
            await asyncio.sleep(0.02)


def _serves(worker: WorkerReport, wanted: dict[str, str]) -> bool:
    """Whether a worker has these releases in these arms, and no others; one that it refuses it will not have."""
    served = {alias: arm.release for alias, arm in worker.arms.items()}
    return served.keys() <= wanted.keys() and all(
        served.get(alias) == release or release in worker.refused for alias, release in wanted.items()
    )


def _in_popularity_arm(share: float) -> str:
    """Somebody who never did anything and is in the popularity arm; empty where nobody is."""
    names = (f"nobody-{number}" for number in range(round(20 / share) if share else 0))
    return next((name for name in names if arm_of(name, share, None) == "popularity"), "")


def met_so_far(home: Home, settings: Settings) -> dict[str, set[str]]:
    """The movies that each viewer of a home has had to do with."""
    met: dict[str, set[str]] = defaultdict(set)
    acts, after, more = Acts(home, settings), 0, True
    while more:
        batch = acts.since(after, BATCH)
        for act in batch.acts:
            met[act.user_id].add(act.movie_id)
        after, more = batch.offset, batch.more
    acts.close()
    return met


def _part_of(starts_ms: int) -> Callable[[Visit], int]:
    """The part of the day in which a visit falls."""
    return lambda visit: (visit.ts - starts_ms) // PART_MS

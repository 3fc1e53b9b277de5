"""Recorded traffic through a running service, by its API, as the site would send it.

As fast as possible, time passes in steps: first the slates of a step are asked for, side by side, then what viewers did
in it is posted, and every worker has taken that in before the next step. So no slate knows what came after it. At a
given speed everything is sent when it is due, and nobody waits for anybody, as in life.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

from conf.errors import PlainError
from pipelines.recorded import Did, Wish

CONNECTIONS = 8
BATCH = 1000  # events of one post
PATIENCE_S = 120.0  # for the workers to take in what was posted
TRIES = 3  # of a request whose connection was dropped, as HTTP clients do for idempotent ones
TIMEOUT_S = 30.0
STEPS = 200  # of the whole, at the most, as fast as possible
LEAST_STEP_MS = 60_000
LAG = re.compile(r'^greenlight_lag_messages\{group="(?!archive")[^}]*\} ([0-9.]+(?:e[+-]?[0-9]+)?)$', re.MULTILINE)


class SendingError(PlainError):
    """The service is away, refuses, or does not take in what viewers did; the message says which, and what to do."""


Answered = Callable[[Wish, list[str], float, str], None]  # a wish, its slate, how many ms it took, the rung
Failed = Callable[[str], None]
Posted = Callable[[list[Did], dict[str, int]], None]  # some events, and what the service said


class Service:
    """A service at `url`, called with an API key that may read, post events and look at /metrics."""

    def __init__(
        self, url: str, key: str, answered: Answered, failed: Failed, posted: Posted, *, check: bool = True
    ) -> None:
        """check: whether its certificate must be one that is trusted."""
        self.url, self._headers, self._check = url, {"X-API-Key": key} if key else {}, check
        self._answered, self._failed, self._posted = answered, failed, posted
        self._request_ids: dict[str, str] = {}  # of the recorded answers, and of those that came now

    def play(
        self,
        traffic: Iterable[Wish | Did],
        since_ms: int,
        until_ms: int,
        speed: float | None,
        k_of: Callable[[Wish], int],
        at: Callable[[int], None],
    ) -> None:
        """Send it. speed: recorded seconds per second, None as fast as possible; at: is told up to which moment."""
        try:
            asyncio.run(self._play(traffic, since_ms, until_ms, speed, k_of, at))
        except (aiohttp.ClientError, TimeoutError) as why:
            raise SendingError(f"the service at {self.url} does not answer: {why or type(why).__name__}") from why

    async def _play(
        self,
        traffic: Iterable[Wish | Did],
        since_ms: int,
        until_ms: int,
        speed: float | None,
        k_of: Callable[[Wish], int],
        at: Callable[[int], None],
    ) -> None:
        step_ms = max(LEAST_STEP_MS, (until_ms - since_ms) // STEPS) if speed is None else max(1, round(speed * 100))
        limits = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, ssl=self._check)
        begun = time.monotonic()
        async with aiohttp.ClientSession(headers=self._headers, connector=connector, timeout=limits) as session:
            await self._allowed(session)
            for number, moments in groupby(traffic, key=lambda moment: (moment.ts - since_ms) // step_ms):
                if speed is not None:
                    await asyncio.sleep(begun + number * step_ms / 1000 / speed - time.monotonic())
                some = list(moments)
                await self._ask([one for one in some if isinstance(one, Wish)], session, k_of)
                stored = await self._post([one for one in some if isinstance(one, Did)], session)
                if stored and speed is None:
                    await self._taken_in(session)
                at(some[-1].ts)

    async def _allowed(self, session: aiohttp.ClientSession) -> None:
        """SendingError where the key does not open what will be asked for."""
        async with session.get(f"{self.url}/metrics") as answer:
            if answer.status in (401, 403):
                raise SendingError(
                    f"the service at {self.url} refuses the key: it needs one with the scopes read, events and admin "
                    "(greenlight keys create replay --scope read --scope events --scope admin)"
                )

    async def _ask(self, wishes: list[Wish], session: aiohttp.ClientSession, k_of: Callable[[Wish], int]) -> None:
        waiting = iter(wishes)

        async def some() -> None:
            for wish in waiting:
                await self._one(session, wish, k_of(wish))

        await asyncio.gather(*(some() for _ in range(min(CONNECTIONS, len(wishes)))))

    async def _one(self, session: aiohttp.ClientSession, wish: Wish, k: int) -> None:
        for attempt in range(TRIES):
            begun = time.perf_counter()
            try:
                where = f"{self.url}/recommend/{quote(wish.user_id, safe='')}"
                async with session.get(where, params={"k": k}) as answer:
                    text = (await answer.text(errors="replace")).strip()
                break
            except (aiohttp.ClientError, TimeoutError) as why:
                if attempt == TRIES - 1:
                    return self._failed(type(why).__name__)
        if answer.status != 200:
            return self._failed(f"status {answer.status}")
        if wish.request_id and (made := answer.headers.get("X-Request-Id")):
            self._request_ids[wish.request_id] = made
        slate = [movie for movie in text.split(",") if movie]
        self._answered(wish, slate, 1000 * (time.perf_counter() - begun), answer.headers.get("X-Rung", "?"))

    async def _post(self, acts: list[Did], session: aiohttp.ClientSession) -> int:
        """How many of them were new to the service."""
        new = 0
        for start in range(0, len(acts), BATCH):
            some = acts[start : start + BATCH]
            body = orjson.dumps([self._as_of_now(act.fields) for act in some])
            kind = {"Content-Type": "application/json"}
            async with session.post(f"{self.url}/v1/events", data=body, headers=kind) as answer:
                text = await answer.text(errors="replace")
            if answer.status != 200:
                why = "".join(letter if letter.isprintable() else " " for letter in text[:200]).strip()
                raise SendingError(f"the service at {self.url} takes no events (status {answer.status}): {why}")
            told = self._counts(text)
            self._posted(some, told)
            new += told["stored"]
        return new

    def _counts(self, text: str) -> dict[str, int]:
        """What came of a post."""
        try:
            told = orjson.loads(text)
            return {name: int(told[name]) for name in ("stored", "duplicates", "quarantined")}
        except (ValueError, TypeError, KeyError):
            raise SendingError(
                f"the service at {self.url} does not say what became of events: is it Greenlight?"
            ) from None

    def _as_of_now(self, fields: dict[str, Any]) -> dict[str, Any]:
        """An event that names a request names the one that was made in its place; one that was not made is nobody's."""
        if "request_id" not in fields:
            return fields
        known = self._request_ids.get(fields["request_id"])
        kept = {name: value for name, value in fields.items() if name != "request_id"}
        return {**kept, "request_id": known} if known else kept

    async def _taken_in(self, session: aiohttp.ClientSession) -> None:
        """Until no reader but the archive is behind the service's log."""
        until = time.monotonic() + PATIENCE_S
        while True:
            async with session.get(f"{self.url}/metrics") as answer:
                behind = LAG.findall(await answer.text(errors="replace"))
            if behind and not any(map(float, behind)):
                return
            if time.monotonic() > until:
                raise SendingError(
                    f"the workers of the service at {self.url} did not take in what was posted in {PATIENCE_S:g} s: "
                    "greenlight status there says why"
                )
            await asyncio.sleep(0.05)

"""`replay`: recorded traffic once more, in the order of time, through a running service or through a candidate in the
shadow, and what came of it beside what was recorded.

Recorded viewers do not react to a new slate. What that means for the numbers stands in the result, in words.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import numpy as np

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from events.clock import when
from events.event import POSITIVE
from mlflow_server.ledger import Ledger
from monitoring.comparison import Compared, Comparison
from pipelines.experiment import kept
from pipelines.loop import read_json
from pipelines.recorded import Did, Recorded, Wish
from pipelines.sending import SendingError, Service
from pipelines.shadow import Shadow, ShadowError
from serving.keys import KeyStore

HOUR_MS = 3_600_000
SAY_S = 0.5  # between two words about how far it is
PART = 1000  # acts that a candidate is told of at once, before the period begins
REACT = (
    "recorded viewers chose among what they were shown then and never react to another slate: overlap and hits say how "
    "near the new slates come to what was chosen, not what viewers would choose from them; an A/B says that"
)

Progress = Callable[[str], None]


class ReplayError(PlainError):
    """A replay cannot be done; the message says why and what to do."""


@dataclass(frozen=True)
class Replayed:
    """What came of a replay. Shares and gains: see `monitoring.comparison`; None where they cannot be told."""

    since: str
    until: str
    through: str
    requests: int
    requests_are: Literal["recorded slates", "visits"]
    failed: dict[str, int]  # requests without a slate, by reason
    rungs: dict[str, int]
    events: int
    events_known: int  # that the service had already
    events_refused: int  # that it put into its dead letter
    compared: int
    overlap_at_10: float | None
    same_first: float | None
    followed: int
    hit_rate_at_10: float | None
    ndcg_at_10: float | None
    recorded_followed: int
    recorded_hit_rate_at_10: float | None
    recorded_ndcg_at_10: float | None
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    recorded_latency_p50_ms: float | None
    recorded_latency_p99_ms: float | None
    seconds: float
    notes: tuple[str, ...]


@dataclass
class _Tally:
    """What is counted on the way."""

    comparison: Comparison
    progress: Progress
    failed: Counter[str] = field(default_factory=Counter)
    rungs: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    recorded_latencies: list[float] = field(default_factory=list)
    events: int = 0
    known: int = 0
    refused: int = 0
    said_s: float = 0.0

    @property
    def requests(self) -> int:
        return len(self.latencies) + self.failed.total()

    def answered(self, wish: Wish, slate: list[str], latency_ms: float, rung: str) -> None:
        self.rungs[rung] += 1
        self.latencies.append(latency_ms)
        if wish.latency_ms is not None:
            self.recorded_latencies.append(wish.latency_ms)
        self.comparison.slate(wish.ts, wish.user_id, slate, wish.items)

    def fail(self, why: str) -> None:
        self.failed[why] += 1

    def did(self, act: Did) -> None:
        self.events += 1
        if movie := act.fields.get("movie_id"):
            liked = act.fields["kind"] == "rating" and act.fields["rating"] / act.fields["scale"] >= POSITIVE
            self.comparison.did(act.ts, act.fields["user_id"], movie, liked=liked)

    def posted(self, acts: list[Did], told: dict[str, int]) -> None:
        self.known += told["duplicates"]
        self.refused += told["quarantined"]
        for act in acts:
            self.did(act)

    def at(self, moment_ms: int) -> None:
        if time.monotonic() - self.said_s > SAY_S:
            self.said_s = time.monotonic()
            self.progress(f"{self.requests:,} requests, {self.events:,} events; at {when(moment_ms)}")


def moment(text: str) -> int:
    """ms since 1970 of a day or a time, in UTC where it names no zone. ReplayError where it is neither."""
    try:
        found = datetime.fromisoformat(text)
        ms = round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
        when(ms)  # in UTC too, it is of a year that can be written
        return ms
    except (ValueError, OverflowError):
        raise ReplayError(
            f"{text!r} is no time: write a day or a time, such as 2013-10-01 or 2013-10-01T12:30"
        ) from None


def replay(
    home: Home,
    settings: Settings,
    since: str,
    until: str,
    *,
    against: int | None = None,
    speed: float | None = None,
    service: str = "",
    key_file: Path | None = None,
    progress: Progress = lambda words: None,
) -> Replayed:
    """Replay what was recorded from one moment up to another. PlainError where that cannot be done.

    against: a version, which is opened in the shadow; else the service at the address, or this home's own. speed:
    recorded seconds per second; as fast as possible where none is named. key_file: of an API key for that address.
    """
    since_ms, until_ms = moment(since), moment(until)
    if since_ms >= until_ms:
        raise ReplayError(f"--from {since} is not before --to {until}")
    if speed is not None and not 0 < speed < float("inf"):
        raise ReplayError(f"speed {speed:g} is out of range: 1 is as recorded, 60 a minute a second")
    if against is not None and (service or key_file):
        raise ReplayError("--against asks a candidate in the shadow and --service a running service: name one of them")
    way = _Candidate(home, settings, against) if against is not None else _Sent(home, settings, service, key_file)
    recorded = Recorded(home, settings, since_ms, until_ms)
    tally = _Tally(Comparison(round(settings.experiment.window_hours * HOUR_MS), way.honest_from_ms), progress)

    def k_of(wish: Wish) -> int:
        return min(wish.k or settings.serving.default_k, settings.serving.max_k)

    begun = time.monotonic()
    way.play(recorded, speed, k_of, tally)
    return _replayed(way, recorded, tally, time.monotonic() - begun)


class _Candidate:
    """Through a version in the shadow: nothing is served, nothing is written down."""

    def __init__(self, home: Home, settings: Settings, version: int) -> None:
        self._shadow = Shadow(home, settings, _release_of(home, version))
        self.through = f"version {version} ({self._shadow.model_name}), in the shadow"
        self.honest_from_ms: int | None = self._shadow.learned_until_ms

    def play(self, recorded: Recorded, speed: float | None, k_of: Callable[[Wish], int], tally: _Tally) -> None:
        shadow = self._shadow
        tally.progress("bringing the candidate up to the beginning of the period")
        shadow.open_catalogue(recorded.store)
        shadow.take(recorded.acts(shadow.learned_until_ms, recorded.since_ms))
        begun = time.monotonic()
        for one in recorded:
            if speed is not None:
                time.sleep(max(0.0, begun + (one.ts - recorded.since_ms) / 1000 / speed - time.monotonic()))
            if isinstance(one, Did):
                shadow.take([one])
                tally.did(one)
            else:
                self._ask(one, k_of(one), tally)
            tally.at(one.ts)

    def _ask(self, wish: Wish, k: int, tally: _Tally) -> None:
        try:
            slate, took_ms = self._shadow.slate(wish, k)
        except ShadowError as why:
            return tally.fail(str(why))
        tally.answered(wish, slate, took_ms, "model")

    def notes(self, recorded: Recorded, tally: _Tally) -> Iterator[str]:
        learned = self._shadow.learned_until_ms
        if learned >= recorded.until_ms:
            yield f"the candidate learned from data up to {when(learned)}, all of this period: hits cannot be told"
        elif learned > recorded.since_ms:
            yield f"the candidate learned from data up to {when(learned)}: hits are of slates from then on"


class _Sent:
    """Through a running service."""

    def __init__(self, home: Home, settings: Settings, url: str, key_file: Path | None) -> None:
        self._home, self._settings, self._own, self._key_file = home, settings, not url, key_file
        self.url = _address(url) if url else _own_service(home)
        self.through = f"the service at {self.url}"
        self.honest_from_ms: int | None = None if self._own else 0  # its own service knows all that is recorded

    def play(self, recorded: Recorded, speed: float | None, k_of: Callable[[Wish], int], tally: _Tally) -> None:
        with self._key() as key:
            service = Service(self.url, key, tally.answered, tally.fail, tally.posted, check=not self._own)
            service.play(recorded, recorded.since_ms, recorded.until_ms, speed, k_of, tally.at)

    def notes(self, recorded: Recorded, tally: _Tally) -> Iterator[str]:
        yield "the service wrote these slates down like any others; where it explores, some are in random order"
        if self._own:
            yield "the service knows what viewers did after these slates, so hits cannot be told: use --against"
        else:
            yield "where its model learned from this period, hits flatter it"
        if tally.known and not self._own:
            yield f"{tally.known:,} of {tally.events:,} events were known to the service before: hits cannot be told"
        if tally.refused:
            yield f"the service put {tally.refused:,} events into its dead letter: its clock is not where they are"

    @contextmanager
    def _key(self) -> Iterator[str]:
        """The key of the file; for this home's own service one that lives as long as it is needed."""
        if not self._own:
            yield _first_line(self._key_file) if self._key_file else ""
            return
        store = KeyStore(self._home, self._settings.door.environment)
        text, made = store.create("replay", ("read", "events", "admin"))
        try:
            yield text
        finally:
            store.revoke(made.id)


def _own_service(home: Home) -> str:
    """The address at which `greenlight up` of this home serves. ReplayError where it does not, or must not be asked."""
    told = read_json(home.up) or {}
    urls = [c.get("url") for c in told.get("children", []) if c.get("name") == "api" and c.get("state") == "up"]
    if not urls or not urls[0]:
        raise ReplayError(
            "the service of this home does not run: greenlight up, or --service URL, or --against VERSION"
        )
    standing = kept(home)
    if standing.state == "running":
        raise ReplayError(
            f"{standing.sentence}: requests that are replayed through the service would count in it; use --against, or "
            "--service with another home's"
        )
    return str(urls[0])


def _address(url: str) -> str:
    """An address as it was named, without a slash at its end."""
    try:
        found = urlsplit(url)
        alone = not (found.username or found.password or found.query or found.fragment or found.port == 0)
    except ValueError:
        alone = False
    if not alone or found.scheme not in ("http", "https") or not found.hostname or not url.isprintable() or " " in url:
        what = "must not hold a password (see --key-file)" if "@" in url else f"{url} is no address"
        raise ReplayError(f"--service {what}: write one such as http://localhost:3000")
    return url.rstrip("/")


def _first_line(path: Path) -> str:
    try:
        key = path.read_text(encoding="ascii").split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError) as why:
        cause = why.strerror if isinstance(why, OSError) else "not ASCII"
        raise ReplayError(f"--key-file {path} cannot be read: {cause}") from None
    if not key.isprintable():
        raise ReplayError(f"--key-file {path} has control characters in its first line, which no key has")
    return key


def _release_of(home: Home, version: int) -> str:
    """The newest release that was registered under a number."""
    found = {e.body["version"]: e.body["release"] for e in Ledger.to_read(home.ledger, home.keys).entries("registered")}
    if version not in found:
        words = (
            f"the ledger knows {', '.join(map(str, sorted(found)))}" if found else "greenlight train makes the first"
        )
        raise ReplayError(f"there is no version {version}: {words}")
    return str(found[version])


def _replayed(way: _Candidate | _Sent, recorded: Recorded, tally: _Tally, seconds: float) -> Replayed:
    compared = tally.comparison.result()
    if tally.requests and not tally.latencies:
        why = ", ".join(f"{count} {reason}" for reason, count in tally.failed.items())
        raise SendingError(f"{way.through} answered none of {tally.requests:,} requests: {why}")
    notes = [REACT]
    if not recorded.slates:
        notes.append("no slate is recorded in this period: each viewer's first act of a day is taken for a visit")
    notes += way.notes(recorded, tally)
    if tally.known:
        compared = _without_hits(compared)
    return Replayed(
        since=when(recorded.since_ms),
        until=when(recorded.until_ms),
        through=way.through,
        requests=tally.requests,
        requests_are="recorded slates" if recorded.slates else "visits",
        failed=dict(tally.failed),
        rungs=dict(tally.rungs),
        events=tally.events,
        events_known=tally.known,
        events_refused=tally.refused,
        **vars(compared),
        latency_p50_ms=_quantile(tally.latencies, 0.5),
        latency_p99_ms=_quantile(tally.latencies, 0.99),
        recorded_latency_p50_ms=_quantile(tally.recorded_latencies, 0.5),
        recorded_latency_p99_ms=_quantile(tally.recorded_latencies, 0.99),
        seconds=round(seconds, 2),
        notes=tuple(notes),
    )


def _without_hits(compared: Compared) -> Compared:
    shown = Comparison(0, None).result()
    kept_apart = ("compared", "overlap_at_10", "same_first")
    return Compared(**{**vars(shown), **{name: getattr(compared, name) for name in kept_apart}})


def _quantile(values: list[float], share: float) -> float | None:
    return round(float(np.quantile(values, share)), 2) if values else None

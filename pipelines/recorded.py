"""Recorded traffic of a home between two moments, in the order of time: who asked for a slate and got which one, and
what viewers did. Where no slate was recorded, each viewer's first act of a day stands for a visit."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from events.archive import SCHEMAS, catch_up, read_between, read_topic
from events.clock import when
from events.event import EVENTS, IMPRESSIONS
from events.store import history_store

ROWS = 10_000  # of a day, taken out of its table at a time
DAY_MS = 86_400_000
SLATE = ("offset", "event_id", "ts", "user_id", "items", "k", "latency_ms")


class NothingRecorded(PlainError):
    """Nobody did anything between the two moments; the message says when somebody did."""


class Wish(NamedTuple):
    """Somebody asked for a slate. k: 0 where that is not recorded; items: what was served then, empty where nothing was
    or it is not known; request_id and latency_ms: of the recorded answer."""

    ts: int
    user_id: str
    k: int = 0
    items: tuple[str, ...] = ()
    request_id: str = ""
    latency_ms: float | None = None


class Did(NamedTuple):
    """An event of a viewer: its fields as they were stored, and its offset in the log."""

    ts: int
    offset: int
    fields: dict[str, Any]


class Recorded:
    """Iterating gives `Wish` and `Did`, of one millisecond the wish first."""

    def __init__(self, home: Home, settings: Settings, since_ms: int, until_ms: int) -> None:
        """What the log holds is archived first. NothingRecorded where there is nothing from `since_ms` up to, not with,
        `until_ms`; LogError, StoreError where it cannot be read."""
        self.store, self.since_ms, self.until_ms = history_store(home, settings.storage), since_ms, until_ms
        catch_up(home, settings, self.store)
        self.slates = self._count(IMPRESSIONS)
        self.events = self._count(EVENTS)
        if not self.slates and not self.events:
            raise NothingRecorded(
                f"nothing is recorded in {home.root} between {when(since_ms)} and {when(until_ms)}: {self._span()}"
            )

    def __iter__(self) -> Iterator[Wish | Did]:
        acts = self.acts(self.since_ms, self.until_ms)
        if not self.slates:
            return _with_visits(acts)
        return heapq.merge(self._wishes(), acts, key=lambda moment: (moment.ts, isinstance(moment, Did)))

    def acts(self, since_ms: int, until_ms: int) -> Iterator[Did]:
        """What viewers did from one moment up to, not with, another."""
        for row in self._rows(EVENTS, tuple(SCHEMAS[EVENTS].names), since_ms, until_ms):
            offset = row.pop("offset")
            yield Did(row["ts"], offset, {name: value for name, value in row.items() if value is not None})

    def _wishes(self) -> Iterator[Wish]:
        for row in self._rows(IMPRESSIONS, SLATE, self.since_ms, self.until_ms):
            items = tuple(row["items"] or ())
            yield Wish(row["ts"], row["user_id"], row["k"] or 0, items, row["event_id"], row["latency_ms"])

    def _rows(self, topic: str, columns: Sequence[str], since_ms: int, until_ms: int) -> Iterator[dict[str, Any]]:
        for day in read_between(self.store, topic, columns, since_ms, until_ms - 1):
            for part in day.sort_by([("ts", "ascending"), ("offset", "ascending")]).to_batches(ROWS):
                yield from part.to_pylist()

    def _count(self, topic: str) -> int:
        return sum(len(day) for day in read_between(self.store, topic, ("ts",), self.since_ms, self.until_ms - 1))

    def _span(self) -> str:
        times = read_topic(self.store, EVENTS, ("ts",))["ts"].to_numpy()
        if not len(times):
            return "it holds no events yet"
        return f"its events go from {when(int(times.min()))} to {when(int(times.max()))}"


def _with_visits(acts: Iterable[Did]) -> Iterator[Wish | Did]:
    today, come = -1, set[str]()
    for act in acts:
        if act.ts // DAY_MS != today:
            today, come = act.ts // DAY_MS, set()
        user = act.fields["user_id"]
        if user not in come:
            come.add(user)
            yield Wish(act.ts, user)
        yield act

"""Which slate an event counts for: at most one, which its viewer got before it and which showed its movie.

* An event that names a request counts for that slate, however much later it came; or for none, if the slate is not so.
* Any other counts for the latest such slate, unless that is longer ago than the declared window.

Slates that the site made itself, and requests that got none, are no slates here. A slate and an event of the same
millisecond count as one after the other.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from events.archive import SCHEMAS
from events.event import EVENTS, IMPRESSIONS

ROWS = 50_000  # slates whose movies are looked at together
NOT_OURS = "site"  # the arm of slates that the site itself logged
SLATE = ("offset", "event_id", "ts", "user_id", "arm", "rung")
ACT = ("offset", "event_id", "kind", "ts", "user_id", "movie_id", "minute", "rating", "scale", "request_id")
KINDS = RATING, WATCH, CLICK = ("rating", "watch", "click")

Days = Callable[[Sequence[str]], Iterable[pa.Table]]  # columns of a topic of the archive -> their rows, some at a time


class Acts(NamedTuple):
    """What viewers did with movies that slates showed them; all (n,)."""

    offset: np.ndarray  # int64
    ts: np.ndarray  # int64 ms
    kind: np.ndarray  # int8, places in `KINDS`
    pair: np.ndarray  # int64, a number for each viewer and movie
    minute: np.ndarray  # int32, of a watch
    strength: np.ndarray  # float32, of a rating
    slate: np.ndarray  # int64, the row of the slate for which it counts

    def rows(self, kind: str) -> np.ndarray:
        return np.flatnonzero(self.kind == KINDS.index(kind))

    def take(self, rows: np.ndarray) -> "Acts":
        return Acts(*(column[rows] for column in self))


class Joined(NamedTuple):
    """slates: columns `SLATE`, as they were read. acts: those that count for one, by time and then offset."""

    slates: pa.Table
    acts: Acts


def join(impressions: Days, events: Days, window_ms: int) -> Joined:
    """Find the slate of each click, watched minute and rating. Of equal event ids the one stored first counts.

    `events` are read twice. Memory grows with the slates and with what is done with their movies, not with all else.
    """
    pairs = Pairs(events)
    slates, shown = _slates(impressions, pairs)
    acts = _attributed(slates, shown, _acts(events, pairs, slates, shown), window_ms)
    return Joined(slates, acts.take(np.lexsort((acts.offset, acts.ts))))


class Pairs:
    """The pairs of viewer and movie between which something happened, numbered: only these are looked for in slates."""

    def __init__(self, events: Days) -> None:
        names = ["user_id", "movie_id"]
        parts = [_empty(EVENTS, names)]
        for day in events(("ts", *names)):
            named = day.filter(pc.is_valid(day["movie_id"]))
            parts.append(named.group_by(names).aggregate([]).select(names))
        found = pa.concat_tables(parts)
        self.users, self.movies = (pc.unique(found[name]) for name in names)
        keys = np.sort(self._key(found["user_id"], found["movie_id"]))
        self._keys = keys[np.diff(keys, prepend=-1) > 0]  # np.unique takes far longer

    def __len__(self) -> int:
        return len(self._keys)

    def number(self, users: pa.Array, movies: pa.Array) -> np.ndarray:
        """(n,) int64 numbers of pairs; -1 where nothing happened between the two."""
        return _places(self._keys, self._key(users, movies))

    def _key(self, users: pa.Array, movies: pa.Array) -> np.ndarray:
        user, movie = _index_in(users, self.users), _index_in(movies, self.movies)
        return np.where((user < 0) | (movie < 0), -1, user * len(self.movies) + movie)


class Shown(NamedTuple):
    """The movies of slates with which their viewers did something, at some time: row and number; both (n,) int64."""

    slate: np.ndarray
    pair: np.ndarray


def _slates(impressions: Days, pairs: Pairs) -> tuple[pa.Table, Shown]:
    """The slates, in the order in which they are read, and which of them showed which pair's movie."""
    parts, shown, count = [_empty(IMPRESSIONS, SLATE)], [Shown(*np.zeros((2, 0), np.int64))], 0
    for day in impressions((*SLATE, "items", "failure")):
        whole = pc.equal(pc.fill_null(day["failure"], ""), "")
        ours = day.filter(pc.and_(whole, pc.not_equal(day["arm"], NOT_OURS)))
        for batch in ours.to_batches(max_chunksize=ROWS):
            slate, pair = _shown_in(batch, pairs)
            shown.append(Shown(slate + count, pair))
            count += len(batch)
        parts.append(ours.select(SLATE))
    return pa.concat_tables(parts), Shown(*map(np.concatenate, zip(*shown, strict=True)))


def _shown_in(batch: pa.RecordBatch, pairs: Pairs) -> Shown:
    users = pc.is_in(batch["user_id"], value_set=pairs.users).to_numpy(zero_copy_only=False)
    active = np.flatnonzero(users)
    items = batch["items"].take(pa.array(active))
    row = active[pc.list_parent_indices(items).to_numpy()]
    number = pairs.number(batch["user_id"].take(pa.array(row)), pc.list_flatten(items))
    return Shown(row[number >= 0], number[number >= 0])


NAMES_NONE, NOT_THERE = -2, -1  # instead of a slate's row: no request is named; the slate is not there


def _acts(events: Days, pairs: Pairs, slates: pa.Table, shown: Shown) -> Acts:
    """What viewers did with movies that some slate showed them, each event id once. slate: whose request is named."""
    wanted = np.zeros(len(pairs) + 1, bool)  # the last is for -1
    wanted[shown.pair] = True
    parts, texts = [Acts(*(np.zeros(0, kind) for kind in ("i8", "i8", "i1", "i8", "i4", "f4", "i8")))], []
    for day in events(ACT):
        number = np.where(
            _index_in(day["kind"], pa.array(KINDS)) < 0, -1, pairs.number(day["user_id"], day["movie_id"])
        )
        rows = np.flatnonzero(wanted[number])
        day = day.take(pa.array(rows))
        parts.append(_acts_of(day, number[rows]))
        texts.append(day.select(["event_id", "request_id"]))
    acts = Acts(*map(np.concatenate, zip(*parts, strict=True)))
    ids = pa.concat_tables([_empty(EVENTS, ["event_id", "request_id"]), *texts])
    named = pc.is_valid(ids["request_id"]).to_numpy()
    slate = np.where(named, _index_in(ids["request_id"], slates["event_id"]), NAMES_NONE)
    return acts._replace(slate=slate).take(_stored_first(ids["event_id"], acts.offset))


def _acts_of(day: pa.Table, pair: np.ndarray) -> Acts:
    return Acts(
        day["offset"].to_numpy(),
        day["ts"].to_numpy(),
        _index_in(day["kind"], pa.array(KINDS)).astype(np.int8),
        pair,
        pc.fill_null(day["minute"], 0).to_numpy().astype(np.int32),
        pc.divide(day["rating"], day["scale"]).to_numpy().astype(np.float32),
        np.full(len(day), NAMES_NONE),
    )


def _stored_first(ids: pa.ChunkedArray, offsets: np.ndarray) -> np.ndarray:
    """(acts,) rows: of each event id the one with the lowest offset."""
    codes = ids.cast(pa.large_string()).combine_chunks().dictionary_encode()
    if len(codes.dictionary) == len(ids):
        return np.arange(len(ids))
    order = np.argsort(offsets)
    _, firsts = np.unique(codes.indices.to_numpy()[order], return_index=True)
    return order[firsts]


def _attributed(slates: pa.Table, shown: Shown, acts: Acts, window_ms: int) -> Acts:
    """The acts that count for a slate, with its row."""
    if not len(shown.slate):
        return acts.take(np.zeros(0, np.int64))
    times, named, place = slates["ts"].to_numpy(), acts.slate != NAMES_NONE, np.empty_like(acts.slate)
    place[named] = _if_shown(shown, acts.take(named))
    place[~named] = _latest(slates, shown, acts.take(~named))
    since = acts.ts - times[place]
    counts = np.flatnonzero((place >= 0) & (since >= 0) & (named | (since <= window_ms)))
    return acts._replace(slate=place).take(counts)


def _if_shown(shown: Shown, acts: Acts) -> np.ndarray:
    """(acts,) int64: the slate whose request is named, if it showed the viewer the movie; -1 where not."""
    pairs = int(shown.pair.max()) + 1
    there = _places(np.sort(shown.slate * pairs + shown.pair), acts.slate * pairs + acts.pair)
    return np.where(there >= 0, acts.slate, NOT_THERE)


def _latest(slates: pa.Table, shown: Shown, acts: Acts) -> np.ndarray:
    """(acts,) int64: the newest slate that had shown the pair's movie by then, of equal ones the last; -1: none."""
    first_act = len(shown.slate)
    pair = np.concatenate([shown.pair, acts.pair])
    moment = np.concatenate([slates["ts"].to_numpy()[shown.slate], acts.ts])
    stored = np.concatenate([slates["offset"].to_numpy()[shown.slate], np.full(len(acts.ts), np.iinfo(np.int64).max)])
    order = np.lexsort((stored, moment, pair))  # an act stands behind the slates of its pair and moment
    is_slate = order < first_act
    before = order[np.maximum.accumulate(np.where(is_slate, np.arange(len(order)), 0))]
    of_pair = (before < first_act) & (pair[before] == pair[order])
    place = np.full(len(order), NOT_THERE)
    place[order[of_pair]] = shown.slate[before[of_pair]]
    return place[first_act:]


def _places(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(n,) int64 places of the values among those known, which ascend; -1 where one is not there."""
    if not len(known):
        return np.full(len(values), -1)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.where(known[places] == values, places, -1)


def _index_in(column: pa.Array, known: pa.Array) -> np.ndarray:
    """(n,) int64 places in `known`; -1 where it is not there, or null."""
    if isinstance(known, pa.ChunkedArray):
        known = known.combine_chunks()
    found = pc.fill_null(pc.index_in(column, value_set=known, skip_nulls=True), -1)
    return found.to_numpy(**{} if isinstance(found, pa.ChunkedArray) else {"zero_copy_only": False}).astype(np.int64)


def _empty(topic: str, columns: Iterable[str]) -> pa.Table:
    return pa.schema([SCHEMAS[topic].field(name) for name in columns]).empty_table()

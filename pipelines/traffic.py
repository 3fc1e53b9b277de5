"""Traffic sampled from the history by hash of viewer: a viewer is in the sample with all they did, or not at all.

The same viewers are drawn at every rate and in every window, so windows are sampled alike. Days are read one at a time
and only what is sampled is kept: memory follows the sample, not the traffic.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from events.archive import SCHEMAS, read_between, read_topic
from events.event import CATALOGUE, EVENTS, IMPRESSIONS
from events.store import Store
from monitoring.columns import Window

SALT = b"drift"  # the sample is not the half of any experiment
ACTS = ("ts", "kind", "user_id", "movie_id", "minute", "rating", "scale")
SLATES = ("ts", "user_id", "arm", "rung", "items")
MINUTES = 100_001  # a watched minute is below this
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Span:
    """From one moment up to, not with, another: ms on the home's clock."""

    since_ms: int
    until_ms: int


@dataclass(frozen=True, eq=False)
class Genres:
    """Of every movie, as the catalogue says today. index: row of a movie id; flags: (movies + 1, names) bool, the last
    row, of all others, empty."""

    index: pa.Array
    flags: np.ndarray
    names: tuple[str, ...]

    def of(self, movies: pa.Array) -> np.ndarray:
        """(n, names) bool."""
        rows = pc.fill_null(pc.index_in(movies, self.index), len(self.flags) - 1)
        return self.flags[rows.to_numpy(zero_copy_only=False)]


def genres(store: Store) -> Genres:
    """The catalogue's genres; the newest line of a movie counts."""
    movies = read_topic(store, CATALOGUE, ("offset", "movie_id", "genres")).sort_by("offset")
    newest = dict(zip(movies["movie_id"].to_pylist(), movies["genres"].to_pylist(), strict=True))
    names = tuple(sorted({name for found in newest.values() for name in found or () if name}))
    place = {name: n for n, name in enumerate(names)}
    flags = np.zeros((len(newest) + 1, len(names)), bool)
    for row, found in enumerate(newest.values()):
        flags[row, [place[name] for name in found or () if name]] = True
    return Genres(pa.array(list(newest), pa.string()), flags, names)


def rate_for(store: Store, spans: Iterable[Span], max_rows: int) -> float:
    """The largest share of viewers, in steps of 0.001, with which the spans hold about `max_rows` rows together."""
    rows = 0
    for span in spans:
        for table in read_between(store, EVENTS, ("ts", "user_id", "movie_id"), span.since_ms, span.until_ms - 1):
            rows += len(table.drop_columns("ts").group_by(["user_id", "movie_id"]).aggregate([]))
    return 1.0 if rows <= max_rows else max(0.001, math.floor(1000 * max_rows / rows) / 1000)


def window(store: Store, known: Genres, span: Span, rate: float) -> Window:
    """The sampled rows of a span: of each viewer and movie, what was done in it."""
    acts = _sampled(store, EVENTS, ACTS, span, rate)
    acts = acts.filter(pc.is_valid(acts["movie_id"]))
    viewers, users = _codes(acts["user_id"])
    movies, items = _codes(acts["movie_id"])
    pairs, rows = np.unique(users.astype(np.int64) * max(1, len(movies)) + items, return_inverse=True)
    user, item = np.divmod(pairs, max(1, len(movies)))
    times = acts["ts"].to_numpy()
    first = np.full(len(pairs), np.iinfo(np.int64).max)
    np.minimum.at(first, rows, times)
    return Window(
        viewers=np.array(viewers.to_pylist(), dtype=str),
        users=user.astype(np.int32),
        movies=item,
        times=first,
        ratings=_newest_rating(acts, rows, times, len(pairs)),
        minutes=_distinct_minutes(acts, rows, len(pairs)),
        genres=known.of(movies)[item],
    )


def slates(store: Store, known: Genres, span: Span, rate: float) -> dict[str, float]:
    """What we ourselves recommended to the sampled viewers, in numbers and shares by name: shown, never tested."""
    rows = _sampled(store, IMPRESSIONS, SLATES, span, rate)
    items = pc.list_flatten(rows["items"]).combine_chunks()
    found: dict[str, float] = {"slates": len(rows), "different movies": pc.count_distinct(items).as_py()}
    for name in ("rung", "arm"):
        counts = Counter(rows[name].to_pylist())
        found |= {f"{name} {value}": n / len(rows) for value, n in sorted(counts.items())}
    flags = known.of(items)
    spread = (flags / np.maximum(1, flags.sum(axis=1, keepdims=True))).sum(axis=0)
    total = max(1e-9, float(spread.sum()))
    return found | {f"genre {known.names[n]}": float(spread[n]) / total for n in np.argsort(-spread)[:5] if spread[n]}


def _sampled(store: Store, topic: str, columns: Sequence[str], span: Span, rate: float) -> pa.Table:
    days = [_of_sample(rows, rate) for rows in read_between(store, topic, columns, span.since_ms, span.until_ms - 1)]
    empty = pa.schema([SCHEMAS[topic].field(name) for name in columns]).empty_table()
    return pa.concat_tables([empty, *days])


def _of_sample(rows: pa.Table, rate: float) -> pa.Table:
    if rate >= 1:
        return rows
    ids = rows["user_id"].combine_chunks().dictionary_encode()
    drawn = np.fromiter((drawn_by(user) < rate for user in ids.dictionary.to_pylist()), bool, len(ids.dictionary))
    return rows.filter(pa.array(drawn[ids.indices.to_numpy()]))


def drawn_by(user: str) -> float:
    """A viewer's place in 0 to 1: a rate above it has the viewer in the sample."""
    return int.from_bytes(blake2b(SALT + user.encode(), digest_size=8).digest()) / 2**64


def _codes(ids: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """The different ids, and the place of each one's id among them, (n,) int."""
    encoded = ids.combine_chunks().dictionary_encode()
    return encoded.dictionary, encoded.indices.to_numpy()


def _newest_rating(acts: pa.Table, rows: np.ndarray, times: np.ndarray, count: int) -> np.ndarray:
    """(count,) the strength of each row's newest rating, NaN where it has none."""
    strengths = pc.divide(acts["rating"], acts["scale"]).to_numpy().astype(float)
    rated = np.flatnonzero(np.isfinite(strengths))
    rated = rated[np.argsort(times[rated], kind="stable")]
    found = np.full(count, np.nan)
    found[rows[rated]] = strengths[rated]  # of equal places the last one stays
    return found


def _distinct_minutes(acts: pa.Table, rows: np.ndarray, count: int) -> np.ndarray:
    """(count,) how many different minutes of each row were watched, NaN where none was."""
    watched = pc.is_valid(acts["minute"]).to_numpy()
    minutes = pc.fill_null(acts["minute"], 0).to_numpy()[watched]
    each = np.unique(rows[watched] * MINUTES + minutes) // MINUTES
    found = np.bincount(each, minlength=count).astype(float)
    return np.where(found > 0, found, np.nan)

"""What models see: the catalogue, the interactions of the past, histories of viewers, live counts. Plain NumPy.

Times are int64 milliseconds since 1970 (UTC), named `*_ms` or `times`; half-lives and ages are in days.
Users and items are integer codes into `user_ids` and `catalogue.ids`. A catalogue only ever grows at its end, so a code
given when a model was fitted still means the same movie today.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from hashlib import blake2b
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array

from events.event import POSITIVE
from models.pieces import listed, pieces

DAY_MS = 86_400_000


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The movies that exist, in a fixed order.

    ids: (items,) str; titles: (items,) str; genres: (items, len(genre_names)) bool.
    """

    ids: np.ndarray
    titles: np.ndarray
    genres: np.ndarray
    genre_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def index(self) -> dict[str, int]:
        """Code of each movie id."""
        return {movie: code for code, movie in enumerate(listed(self.ids))}

    @cached_property
    def tie_breaks(self) -> np.ndarray:
        """(items,) int64 rank used among equal scores: a hash of the id, so neither order nor popularity leaks in."""
        return np.argsort(np.argsort(self._hashes, kind="stable"), kind="stable")

    @cached_property
    def _hashes(self) -> np.ndarray:
        return _hashes(listed(self.ids))

    def extended(
        self, ids: Sequence[str], titles: Sequence[str], genres: np.ndarray, genre_names: tuple[str, ...]
    ) -> "Catalogue":
        """This catalogue with newer movies at its end, and what is known of all movies today.

        ids: of the newer movies only; titles, genres and genre_names: of all.
        """
        longer = Catalogue(np.concatenate([self.ids, np.array(ids, np.str_)]), np.array(titles), genres, genre_names)
        longer.__dict__["_hashes"] = np.concatenate([self._hashes, _hashes(ids)])  # spares hashing the older ones again
        return longer


def _hashes(ids: Sequence[str]) -> np.ndarray:
    found = np.empty(len(ids), np.int64)
    for part in pieces(len(ids)):
        found[part] = [_hash(movie) for movie in ids[part]]
    return found


@lru_cache(maxsize=1 << 18)  # a release is opened beside one that has nearly the same movies: that takes 2 ms, not 40
def _hash(movie_id: str) -> int:
    return int.from_bytes(blake2b(movie_id.encode(), digest_size=8).digest()[:7])


@dataclass(frozen=True, eq=False)
class Unrated:
    """Pairs of viewer and movie without a rating, by viewer and movie: which minutes were watched. The rest is rated.

    users, items: (n,) int32 codes. Pair p was watched in `runs[indptr[p]:indptr[p+1]]`: minutes from the first up to,
    not with, the second, from the third up to the fourth, and so on; it was only clicked where there are none.
    """

    users: np.ndarray
    items: np.ndarray
    indptr: np.ndarray
    runs: np.ndarray


@dataclass(frozen=True, eq=False)
class Shown:
    """Slates that viewers were served, oldest first.

    users: (s,) int32 codes; times: (s,) int64; items: (s, places) int32 codes, best first, -1 where a place was empty.
    """

    users: np.ndarray
    times: np.ndarray
    items: np.ndarray

    def before(self, moment_ms: int) -> "Shown":
        n = int(np.searchsorted(self.times, moment_ms, side="left"))
        return Shown(self.users[:n], self.times[:n], self.items[:n])


@dataclass(frozen=True, eq=False)
class Interactions:
    """Everything viewers did up to `end_ms`, oldest first. A pair may recur (a re-rating): the latest counts.

    users: (n,) int32 codes into user_ids; items: (n,) int32 codes into catalogue.ids; times: (n,) int64, ascending;
    strengths: (n,) float32 in 0..1 (from `events.event.POSITIVE` = 0.7 on, liked); user_ids: (users,) str.
    unrated: what strengths without a rating come from, where this is a whole history: a part would tell its future.
    shown: the slates that were served; None where none are known. brought_by: (n,) int32 row in it of the slate that
    had shown the movie to the viewer shortly before; -1 where none had.
    """

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    strengths: np.ndarray
    user_ids: np.ndarray
    catalogue: Catalogue
    end_ms: int
    unrated: Unrated | None = None
    shown: Shown | None = None
    brought_by: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)

    @property
    def own(self) -> np.ndarray:
        """(n,) bool: what viewers did by themselves. What a slate brought says little about any other slate."""
        return np.ones(len(self), bool) if self.brought_by is None else self.brought_by < 0

    @property
    def liked_places(self) -> np.ndarray:
        """(s, places) bool: the movies of each slate that its viewer liked; nothing where no slates are known."""
        if self.shown is None or self.brought_by is None:
            return np.zeros((0, 0), bool)
        liked = np.zeros(self.shown.items.shape, bool)
        rows = np.flatnonzero((self.brought_by >= 0) & (self.strengths >= POSITIVE))
        slates = self.brought_by[rows]
        row, place = np.nonzero(self.shown.items[slates] == self.items[rows, None])
        liked[slates[row], place] = True
        return liked

    def before(self, moment_ms: int) -> "Interactions":
        """The part that was known at `moment_ms` (exclusive), same codes."""
        n = int(np.searchsorted(self.times, moment_ms, side="left"))
        if n == len(self) and moment_ms >= self.end_ms:
            return self
        part = self._rows(slice(n), min(moment_ms, self.end_ms))
        if self.latest() is self:  # no pair recurs here, so none does in a part: spare it the sort
            part.__dict__["_latest"] = part
            part.__dict__["by_viewer"] = self.by_viewer[self.by_viewer < n]
        return part

    def latest(self) -> "Interactions":
        """One interaction for each (user, item): the newest; still ascending in time. Computed once."""
        return self._latest

    @cached_property
    def _latest(self) -> "Interactions":
        pairs = self.users.astype(np.int64) * len(self.catalogue) + self.items
        _, last = np.unique(pairs[::-1], return_index=True)
        if len(last) == len(self):
            return self
        part = self._rows(np.sort(len(self) - 1 - last), self.end_ms)
        part.__dict__["_latest"] = part
        return part

    @cached_property
    def by_viewer(self) -> np.ndarray:
        """(n,) row numbers ordered by viewer, oldest first within a viewer."""
        return np.argsort(self.users, kind="stable")

    def _rows(self, rows: slice | np.ndarray, end_ms: int) -> "Interactions":
        return replace(
            self,
            users=self.users[rows],
            items=self.items[rows],
            times=self.times[rows],
            strengths=self.strengths[rows],
            end_ms=end_ms,
            unrated=None,
            shown=self.shown and self.shown.before(end_ms),
            brought_by=None if self.brought_by is None else self.brought_by[rows],
        )

    def matrix(self, positive_from: float = 0.0, half_life_days: float | None = None) -> csr_array:
        """(users, items) float32: 1, or the decay at `end_ms`, for each pair of strength `positive_from` or more."""
        part = self.latest()
        keep = part.strengths >= positive_from
        values = decay(part.end_ms - part.times[keep], half_life_days).astype(np.float32)
        shape = (len(self.user_ids), len(self.catalogue))
        return csr_array((values, (part.users[keep], part.items[keep])), shape=shape)


def decay(age_ms: np.ndarray, half_life_days: float | None) -> np.ndarray:
    """2^(-age / half-life); 1 where no half-life is given. Ages below zero count as zero."""
    if half_life_days is None:
        return np.ones(len(age_ms))
    return np.exp2(-np.maximum(age_ms, 0) / (half_life_days * DAY_MS))


@dataclass(frozen=True, eq=False)
class Histories:
    """A batch of viewers' recent interactions, and everything each has seen.

    Viewer v did `items[indptr[v]:indptr[v+1]]` (int32 codes into `catalogue`) at `times` (int64 ms, ascending within
    a viewer) with `strengths` (float32): at most the last `RECENT` (50) interactions. `seen_items[seen_indptr[v]:...]`
    holds every item the viewer has ever interacted with. A viewer never seen before has an empty history.
    """

    viewer_ids: Sequence[str]
    indptr: np.ndarray
    items: np.ndarray
    times: np.ndarray
    strengths: np.ndarray
    seen_indptr: np.ndarray
    seen_items: np.ndarray
    catalogue: Catalogue

    def __len__(self) -> int:
        return len(self.viewer_ids)

    def decayed(self, now_ms: int, half_life_days: float | None = None, positive_from: float = 0.0) -> csr_array:
        """(viewers, items) float32: each recent interaction of at least that strength, decayed to `now_ms`."""
        values = decay(now_ms - self.times, half_life_days).astype(np.float32)
        if positive_from > 0:
            values *= self.strengths >= positive_from
        return csr_array((values, self.items, self.indptr), shape=(len(self), len(self.catalogue)))

    def seen(self, viewer: int) -> np.ndarray:
        """Codes of all the items that viewer number `viewer` of the batch has interacted with."""
        return self.seen_items[self.seen_indptr[viewer] : self.seen_indptr[viewer + 1]]


def weighted_sums(weights: np.ndarray, codes: np.ndarray, indptr: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(viewers, m): for each viewer the sum of `rows` (items, m) at the viewer's part of `codes`, by weight.

    One viewer at a time and not by BLAS, which rounds one row and many differently: nobody's sums depend on who else is
    in the batch. For one viewer this takes a quarter of the time of a sparse matrix, which is mostly making one.
    """
    sums = np.empty((len(indptr) - 1, rows.shape[1]), rows.dtype)
    for viewer, (start, stop) in enumerate(pairwise(indptr.tolist())):
        np.einsum("n,nm->m", weights[start:stop], rows.take(codes[start:stop], axis=0), out=sums[viewer])
    return sums


RECENT = 50  # interactions of a viewer that a history carries


@dataclass(frozen=True, eq=False)
class LiveCounts:
    """How often each movie of today's catalogue was liked, decayed to `as_of_ms`, one row per declared half-life.

    counts: (len(half_lives_days), items) float64 = sum over interactions with strength >= 0.7 of 2^(-age / half-life).
    """

    half_lives_days: tuple[float, ...]
    counts: np.ndarray
    as_of_ms: int
    catalogue: Catalogue

    def decayed(self, half_life_days: float) -> np.ndarray:
        """(items,) counts at one declared half-life; KeyError names the declared ones."""
        try:
            return self.counts[self.half_lives_days.index(half_life_days)]
        except ValueError:
            raise KeyError(
                f"half-life {half_life_days} days is not declared; declared: {self.half_lives_days}"
            ) from None


def live_counts(
    history: Interactions, half_lives_days: Iterable[float], now_ms: int, positive_from: float = 0.7
) -> LiveCounts:
    """Decayed counts as of `now_ms` of what `history` holds before it."""
    half_lives = tuple(dict.fromkeys(half_lives_days))
    none = np.zeros((len(half_lives), len(history.catalogue)))
    return LiveCounts(
        half_lives,
        _add(none, half_lives, history.before(now_ms).latest(), now_ms, positive_from),
        now_ms,
        history.catalogue,
    )


def roll_forward(live: LiveCounts, history: Interactions, now_ms: int, positive_from: float = 0.7) -> LiveCounts:
    """The same as `live_counts` at a later moment: fades what was counted and adds what came since.

    Where a pair recurs its newest interaction alone counts, so there everything is counted anew.
    """
    past = history.before(now_ms)
    if past.latest() is not past:
        return live_counts(history, live.half_lives_days, now_ms, positive_from)
    faded = live.counts * np.exp2(-(now_ms - live.as_of_ms) / (np.array(live.half_lives_days) * DAY_MS))[:, None]
    since = past._rows(slice(int(np.searchsorted(past.times, live.as_of_ms)), None), past.end_ms)
    counts = _add(faded, live.half_lives_days, since, now_ms, positive_from)
    return LiveCounts(live.half_lives_days, counts, now_ms, history.catalogue)


def _add(
    counts: np.ndarray, half_lives: tuple[float, ...], part: Interactions, now_ms: int, positive_from: float
) -> np.ndarray:
    liked = part.strengths >= positive_from
    items, ages = part.items[liked], now_ms - part.times[liked]
    for row, half_life in enumerate(half_lives):
        counts[row] += np.bincount(items, weights=decay(ages, half_life), minlength=counts.shape[1])
    return counts


def histories_of(history: Interactions, viewer_codes: np.ndarray, now_ms: int, recent: int = RECENT) -> Histories:
    """Histories as of `now_ms` for viewers given by their codes in `history`; unknown viewers are code -1."""
    part = history.before(now_ms).latest()
    users = part.users[part.by_viewer]
    starts, ends = (np.searchsorted(users, viewer_codes, side=side) for side in ("left", "right"))
    kept = part.by_viewer[_spans(np.maximum(starts, ends - recent), ends)]
    return Histories(
        viewer_ids=[str(history.user_ids[code]) if code >= 0 else "" for code in viewer_codes],
        indptr=_bounds(np.minimum(ends - starts, recent)),
        items=part.items[kept],
        times=part.times[kept],
        strengths=part.strengths[kept],
        seen_indptr=_bounds(ends - starts),
        seen_items=part.items[part.by_viewer[_spans(starts, ends)]],
        catalogue=history.catalogue,
    )


def _spans(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The integers of [start, end) for each pair, one after the other."""
    bounds = _bounds(ends - starts)
    return np.arange(bounds[-1]) + np.repeat(starts - bounds[:-1], ends - starts)


def _bounds(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

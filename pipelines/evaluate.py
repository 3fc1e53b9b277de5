"""Evaluation as deployed: day by day, full catalogue, nothing sampled.

Each morning the model sees the histories and counts of that moment, and ranks every movie the viewer has not seen for
each viewer who comes that day. Right are the movies the viewer then likes (strength 0.7 or more) and had not seen
before the day. Recall divides by all of those. Metrics are per viewer and day, averaged per viewer, then over viewers.

What a slate brought does not count. Of the movies that were shown a viewer finds many, of the others few, so whoever
ranks as the model in charge did would win, and a better one lose: the selection bias of recommendations (Schnabel,
Swaminathan, Singh, Chandak and Joachims, "Recommendations as treatments", ICML 2016).
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from conf.sections.training import Evaluate
from events.event import POSITIVE
from models import ranking
from models.base import Recommender
from models.interactions import DAY_MS, Interactions, LiveCounts, Shown, histories_of, live_counts, roll_forward
from models.ranking import Interval, Windows

CUTS = (10, 20)
SLICES = ("new", "light", "heavy")  # viewers without history, with 1 to 9 interactions, with more, as of the day
HEAVY_FROM = 10
CHUNK = 512  # viewers scored at once: bounds memory at chunk x catalogue


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One row per viewer and day with something to find; `values` by metric (`ndcg@10`), `chance` of a random order.

    viewers: (n,) int32 codes; days: (n,) int64 start of the day in ms; slices: (n,) int8 index into SLICES.
    """

    viewers: np.ndarray
    days: np.ndarray
    slices: np.ndarray
    values: dict[str, np.ndarray]
    chance: dict[str, np.ndarray]
    coverage: float  # share of the catalogue in the first ten places of any slate
    novelty: float  # bits
    popularity_share: float
    non_finite: int  # NaN or infinite scores that were dropped
    scored: int  # slates made
    seconds: float = field(default=0.0)  # spent in making them

    def per_viewer(
        self, metric: str, among: tuple[str, ...] = SLICES, *, by_chance: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes of the viewers of those slices, ascending, and the mean of their days."""
        keep = np.isin(self.slices, [SLICES.index(name) for name in among])
        codes, row = np.unique(self.viewers[keep], return_inverse=True)
        values = (self.chance if by_chance else self.values)[metric][keep]
        return codes, np.bincount(row, weights=values, minlength=len(codes)) / np.bincount(row, minlength=len(codes))

    def mean(self, metric: str, among: tuple[str, ...] = SLICES) -> float:
        return _mean(self.per_viewer(metric, among)[1])

    def random(self, metric: str, among: tuple[str, ...] = SLICES) -> float:
        """What a random order of the unseen movies is expected to reach."""
        return _mean(self.per_viewer(metric, among, by_chance=True)[1])

    def interval(self, metric: str, conf: Evaluate, seed: int = 0) -> Interval:
        return ranking.bootstrap(self.per_viewer(metric)[1], conf.level, conf.bootstrap, seed)

    def summary(self) -> dict[str, Any]:
        """Everything but the rows, as plain values."""
        return {
            "viewers": len(np.unique(self.viewers)),
            "viewer_days": len(self.viewers),
            "metrics": {metric: self.mean(metric) for metric in self.values},
            "random": {metric: self.random(metric) for metric in self.values},
            "slices": {name: self._slice(name) for name in SLICES},
            "coverage@10": self.coverage,
            "novelty": self.novelty,
            "popularity_share": self.popularity_share,
            "non_finite": self.non_finite,
            "viewers_per_second": self.scored / self.seconds if self.seconds > 0 else None,
        }

    def _slice(self, name: str) -> dict[str, float | int]:
        codes, values = self.per_viewer("ndcg@10", (name,))
        return {"viewers": len(codes), "ndcg@10": _mean(values), "recall@10": self.mean("recall@10", (name,))}


def windows(interactions: Interactions, conf: Evaluate) -> Windows:
    """The validation and the test window of a history."""
    return ranking.split(interactions, conf.validation_days, conf.test_days, conf.min_viewers)


def evaluate(
    model: Recommender,
    interactions: Interactions,
    start_ms: int,
    end_ms: int,
    *,
    daily: bool = True,
    refreshed: bool = True,
    each_day: Callable[[int, float], None] | None = None,
) -> Evaluation:
    """Quality over [start, end) of a model that was fitted on `interactions.before(start_ms)`.

    daily=False: the whole window is one day, everything as of its start. refreshed=False: days, but counts and
    histories stay as they were at the start (seen movies are still masked). `each_day` is told the number of each day
    and the mean NDCG@10 so far; what it raises ends the evaluation.
    """
    days: list[_Day] = []
    live = live_counts(interactions, model.half_lives_days, start_ms)
    for day in _days(interactions, start_ms, end_ms) if daily else [start_ms]:
        until = min(day + DAY_MS, end_ms) if daily else end_ms
        if refreshed:
            live = roll_forward(live, interactions, day)
        days.append(_one_day(model, interactions, day, until, live))
        if each_day:
            each_day(len(days) - 1, _mean(np.concatenate([day.values["ndcg@10"] for day in days])))
    return _gather(days, interactions.before(start_ms))


def difference(
    a: Evaluation,
    b: Evaluation,
    metric: str,
    level: float,
    resamples: int,
    seed: int,
    among: tuple[str, ...] = SLICES,
) -> Interval:
    """Mean of a - b over the viewers that both have, with its paired bootstrap interval over viewers."""
    (codes_a, values_a), (codes_b, values_b) = a.per_viewer(metric, among), b.per_viewer(metric, among)
    _, in_a, in_b = np.intersect1d(codes_a, codes_b, assume_unique=True, return_indices=True)
    return ranking.bootstrap(values_a[in_a] - values_b[in_b], level, resamples, seed)


def disguise(interactions: Interactions, seed: int) -> Interactions:
    """The same history with viewers, movies and titles renamed and renumbered by a keyed hash.

    An honest model does as well on it. One that recognises viewers or movies, from a file or from the order of codes,
    does not.
    """
    users, user_ids = _renamed(interactions.user_ids, f"viewer {seed}")
    movies, movie_ids = _renamed(interactions.catalogue.ids, f"movie {seed}")
    order = np.argsort(movies)  # old code of each new one
    catalogue = replace(
        interactions.catalogue,
        ids=movie_ids,
        titles=np.array([f"Movie {name}" for name in movie_ids]),
        genres=interactions.catalogue.genres[order],
    )
    return replace(
        interactions,
        users=users[interactions.users].astype(np.int32),
        items=movies[interactions.items].astype(np.int32),
        user_ids=user_ids,
        catalogue=catalogue,
        unrated=None,
        shown=_renamed_slates(interactions.shown, users, movies),
    )


@dataclass(frozen=True, eq=False)
class _Day:
    viewers: np.ndarray
    start_ms: int
    history_lengths: np.ndarray
    items: np.ndarray  # (viewers, 20) slates
    values: dict[str, np.ndarray]
    chance: dict[str, np.ndarray]
    non_finite: int
    seconds: float


def _days(interactions: Interactions, start_ms: int, end_ms: int) -> list[int]:
    """Starts of the days in [start, end) on which anything happened."""
    low, high = np.searchsorted(interactions.times, [start_ms, end_ms])
    return (start_ms + np.unique((interactions.times[low:high] - start_ms) // DAY_MS) * DAY_MS).tolist()


def _one_day(model: Recommender, interactions: Interactions, start_ms: int, end_ms: int, live: LiveCounts) -> _Day:
    past = interactions.before(start_ms)
    viewers, found, row = _to_find(interactions, past, start_ms, end_ms)
    known = past if live.as_of_ms == start_ms else interactions.before(live.as_of_ms)
    items, faults, began = [np.zeros((0, max(CUTS)), np.int32)], 0, time.perf_counter()
    lengths = [np.zeros(0, np.int64)]
    for chunk in range(0, len(viewers), CHUNK):
        histories = histories_of(known, viewers[chunk : chunk + CHUNK], live.as_of_ms)
        if known is not past:
            today = histories_of(past, viewers[chunk : chunk + CHUNK], start_ms)
            histories = replace(histories, seen_indptr=today.seen_indptr, seen_items=today.seen_items)
        answer = model.slates(histories, live, live.as_of_ms, max(CUTS))
        items.append(answer.items)
        lengths.append(np.diff(histories.seen_indptr))
        faults += answer.non_finite
    seconds = time.perf_counter() - began
    slate, length = np.concatenate(items), np.concatenate(lengths)
    values, chance = _measure(slate, found, row, length, len(interactions.catalogue))
    return _Day(viewers, start_ms, length, slate, values, chance, faults, seconds)


def _to_find(
    interactions: Interactions, past: Interactions, start_ms: int, end_ms: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Viewers of the window with something to find; the items to find; the row of the viewer of each."""
    size = len(interactions.catalogue)
    low, high = np.searchsorted(interactions.times, [start_ms, end_ms])
    users, items = interactions.users[low:high].astype(np.int64), interactions.items[low:high]
    liked = (interactions.strengths[low:high] >= POSITIVE) & interactions.own[low:high]
    pairs = np.unique(users[liked] * size + items[liked])
    if len(past):
        mine = np.isin(past.users, pairs // size)
        pairs = np.setdiff1d(pairs, past.users[mine].astype(np.int64) * size + past.items[mine], assume_unique=False)
    viewers, row = np.unique(pairs // size, return_inverse=True)
    return viewers.astype(np.int32), pairs % size, row


def _measure(
    items: np.ndarray, found: np.ndarray, row: np.ndarray, seen: np.ndarray, size: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    hit = ranking.hits(items, found, row, size)
    relevant = np.bincount(row, minlength=len(items))
    values, chance = {}, {}
    for k in CUTS:
        by_chance = ranking.chance(relevant, size - seen, k)
        for metric in ranking.METRICS:
            values[f"{metric}@{k}"] = getattr(ranking, metric)(hit, relevant, k)
            chance[f"{metric}@{k}"] = by_chance[metric]
    return values, chance


def _gather(days: list[_Day], known: Interactions) -> Evaluation:
    names = [f"{metric}@{k}" for k in CUTS for metric in ranking.METRICS]
    size = len(known.catalogue)
    viewers_of = np.bincount(known.latest().items, minlength=size)
    first_ten = _join([day.items[:, :10] for day in days], np.int32).reshape(-1, 10)
    lengths = _join([day.history_lengths for day in days], np.int64)
    return Evaluation(
        viewers=_join([day.viewers for day in days], np.int32),
        days=_join([np.full(len(day.viewers), day.start_ms) for day in days], np.int64),
        slices=np.where(lengths == 0, 0, np.where(lengths < HEAVY_FROM, 1, 2)).astype(np.int8),
        values={name: _join([day.values[name] for day in days], np.float64) for name in names},
        chance={name: _join([day.chance[name] for day in days], np.float64) for name in names},
        coverage=ranking.coverage(first_ten, size),
        novelty=ranking.novelty(first_ten, viewers_of, len(np.unique(known.users))),
        popularity_share=ranking.popularity_share(first_ten, viewers_of),
        non_finite=sum(day.non_finite for day in days),
        scored=sum(len(day.viewers) for day in days),
        seconds=sum(day.seconds for day in days),
    )


def _join(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _renamed_slates(shown: Shown | None, users: np.ndarray, movies: np.ndarray) -> Shown | None:
    if shown is None:
        return None
    items = np.append(movies, -1)[shown.items].astype(np.int32)  # the last is for -1
    return Shown(users[shown.users].astype(np.int32), shown.times, items)


def _renamed(names: np.ndarray, key: str) -> tuple[np.ndarray, np.ndarray]:
    """New code of each old one, and the new names in the order of the new codes."""
    digests = [hashlib.blake2b(f"{key}\x00{name}".encode(), digest_size=8).hexdigest() for name in names.tolist()]
    order = np.argsort(digests, kind="stable")
    codes = np.empty(len(names), np.int64)
    codes[order] = np.arange(len(names))
    return codes, np.array([f"x{digests[code]}" for code in order], dtype=str)

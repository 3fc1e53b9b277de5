"""A two-stage ranker: hot movies by popularity, ordered by log popularity plus a learned personal lift.

By time, popularity beats every collaborative model alone, and a plain learner only learns which hits were hits. So the
lift is trained with each movie's own rate that day as offset: what is left to learn is who deviates
(models/lift.py) by signals that are centred per movie (models/signals.py). Training repeats what happens in service:
signals learned at the start of a window, histories and counts of each morning in it.

How much popularity counts beside the lift is another thing for who chooses among all movies and for who is shown ten:
those are looked at because they are there. So, once enough slates were served, both weights are learned from what
viewers took of them (models/choice.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from events.event import POSITIVE
from models import signals
from models.base import Recommender
from models.choice import fit_choice
from models.ease import most_popular
from models.interactions import (
    DAY_MS,
    Catalogue,
    Histories,
    Interactions,
    LiveCounts,
    decay,
    histories_of,
    live_counts,
    roll_forward,
)
from models.lift import fit_curves, lift
from models.shared import Shared
from models.signals import Signals, SignalsConfig, Stage

if TYPE_CHECKING:
    import optuna

GAP = 50.0  # in log popularity, between the last hot movie and the first other one; lifts stay far below it
KEPT_SHARE = 0.25  # of the movies a viewer did not like, in training: a quarter of the time, hardly less accurate
CHOICE_DAYS = 28  # active days on which half-lives are compared; fewer make the choice jump about
SMALLEST = 1e-12  # added to counts before the logarithm
HALF_LIVES_DAYS = (0.5, 1.05, 2.0, 4.0, 14.0, 60.0, 365.0, 3650.0)  # among which `fit` chooses

LEAST_POPULARITY = 0.1  # weight of log popularity: where the lift knows nothing, it alone orders

Examples = tuple[np.ndarray, np.ndarray, np.ndarray]  # signals (n, 4), liked (n,), rate (n,): viewers and movies
Choices = tuple[np.ndarray, np.ndarray, np.ndarray]  # as `fit_choice` takes them


@dataclass(frozen=True)
class RankerConfig:
    """Defaults: a few values of each were compared on MovieTweetings, in the two windows of 25.75 days before the test
    window. Near the defaults daily NDCG@10 moves by less than its noise of 0.003; where it does not, a comment says so.
    """

    half_life_days: float | None = None  # of the popularity that orders; None: what predicted the last days best
    hot_half_lives_days: tuple[float, ...] = (0.25, 4.0, 14.0, 28.0, 90.0)  # where else hot movies come from
    hot_first: int = 60  # hot movies by `half_life_days`
    hot_each: int = 40  # and by each of the others
    lift_weight: float = 0.75  # of the personal lift against log popularity, before slates tell; 1.25 is worse (-0.004)
    windows: int = 3  # training windows, back from the end
    window_days: int = 14  # 25 are no better and a quarter slower to fit
    days_each: int = 7  # days of each window, evenly spread: half of them teach as much as all
    l2: float = 30.0  # pulls the lift's curves towards 0, in likings; 300 is worse on one window (-0.002)
    min_positives: int = 300  # likings among the rows; with fewer there is nothing to learn and popularity is served;
    # and likings that slates brought, without which they do not tell the weights
    discovery: bool = True  # the tenth place shows a movie near the viewer's history that is not hot
    discovery_items: int = 3500  # it is chosen among the most popular ones: the fewest that, with so many neighbours,
    neighbours: int = 15  # of each movie, covered a tenth of the catalogue in both windows (static)
    discovery_half_life_days: float = 365.0  # of that popularity; not compared
    max_items: int = 1500  # history side of the signals; 2,500 are no better (+0.0002) and slower to fit

    @classmethod
    def suggest(cls, trial: "optuna.Trial") -> Self:
        return cls(
            lift_weight=trial.suggest_float("lift_weight", 0.25, 1.5),
            l2=trial.suggest_float("l2", 1.0, 300.0, log=True),
            hot_each=trial.suggest_int("hot_each", 20, 80),
        )


class Ranker(Recommender):
    """Learns the signals' arrays (models/signals.py), the lift's curves, and each movie's neighbours."""

    Config = RankerConfig
    config: RankerConfig
    half_life_days: float  # the one that was chosen
    genre_names: list[str]
    knots: np.ndarray  # (4, knots) of the lift's curves
    heights: np.ndarray  # (4, knots); zero where there was too little to learn from
    weights: Sequence[float] = (1.0, RankerConfig.lift_weight)  # of log popularity and of the lift
    similar: csr_array  # (items of the fit, same) cosine of the nearest neighbours
    _signals: Signals
    _stages: "Shared[HotStage]"

    @property
    def half_lives_days(self) -> tuple[float, ...]:
        chosen = getattr(self, "half_life_days", self.config.half_life_days)
        return (1.0 if chosen is None else chosen, *self.config.hot_half_lives_days)

    def fit(self, history: Interactions) -> Self:
        self.half_life_days = self.config.half_life_days or best_half_life(history, CHOICE_DAYS)
        self.genre_names = list(history.catalogue.genre_names)
        with threadpool_limits(1, "blas"):  # small products: a second thread only waits, by spinning
            mornings = [at for start, end in self._windows(history) for at in self._mornings(history, start, end)]
            self.knots, self.heights = self._learn_lift(history, mornings)
            self.weights = self._weigh(history, mornings)
        self._signals = signals.learn(history, self._signals_config())
        liked = live_counts(history, (self.config.discovery_half_life_days,), history.end_ms).counts[0]
        among = most_popular(liked, self.config.discovery_items, history.catalogue.tie_breaks)
        self.similar = nearest(history, among, self.config.neighbours)
        self._stages = Shared()
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        """(viewers, items) float32: log popularity; at hot movies, where there is a history, weighed with the lift."""
        at = self._at(live)
        scores = np.tile(at.base, (len(histories), 1))
        known = np.flatnonzero(np.diff(histories.indptr))
        if len(known) and len(at.hot):
            popular, personal = self.weights
            lifts = lift(self._features(at, histories, now_ms)[known], self.knots, self.heights)
            logs = at.base[at.hot]
            extra = personal * lifts + (popular - 1.0) * (logs - logs.min())
            scores[known[:, None], at.hot] += extra.astype(np.float32)
        return scores

    def discover(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray | None:
        """(viewers, items) float32: how near a movie outside the hot ones is to the viewer's recent history."""
        if not self.config.discovery:
            return None
        weights = decay(now_ms - histories.times, SignalsConfig.history_half_life_days)
        scores = np.full((len(histories), len(live.catalogue)), -np.inf, np.float32)
        for viewer, (start, stop) in enumerate(pairwise(histories.indptr.tolist())):
            near = self._near(histories.items[start:stop], weights[start:stop], scores.shape[1])
            np.copyto(scores[viewer], near, where=near > 0, casting="same_kind")
        scores[:, self._at(live).hot] = -np.inf
        return scores

    def _near(self, items: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
        """(size,) the sum of how near each movie is to `items`, by weight: a product of sparse matrices, which takes
        longer to be made than to be computed."""
        similar = self.similar
        known = np.flatnonzero(items < similar.shape[0])
        starts, ends = similar.indptr[items[known]], similar.indptr[items[known] + 1]
        count = ends - starts
        places = np.arange(count.sum()) + np.repeat(ends - np.cumsum(count), count)
        return np.bincount(similar.indices[places], np.repeat(weights[known], count) * similar.data[places], size)

    def save(self, folder: Path) -> None:
        super().save(folder)
        for field in fields(Signals):
            np.save(folder / f"signals-{field.name}.npy", getattr(self._signals, field.name), allow_pickle=False)

    def load(self, folder: Path) -> Self:
        super().load(folder)
        self._signals = Signals(
            **{f.name: np.load(folder / f"signals-{f.name}.npy", allow_pickle=False) for f in fields(Signals)}
        )
        self._stages = Shared()
        return self

    def _signals_config(self) -> SignalsConfig:
        return SignalsConfig(max_items=self.config.max_items)

    def _features(self, at: "HotStage", histories: Histories, now_ms: int) -> np.ndarray:
        return signals.read(at.stage, histories, now_ms, SignalsConfig.history_half_life_days)

    def _at(self, live: LiveCounts) -> "HotStage":
        return self._stages.at(live, lambda: self._set_up(live, self._signals, self._stages.newest))

    def _set_up(self, live: LiveCounts, learned: Signals, before: "HotStage | None" = None) -> "HotStage":
        """before: one with the same signals. Counts change by the second, hot movies hardly by the minute."""
        first, *others = self.half_lives_days
        ties, popularity = live.catalogue.tie_breaks, live.decayed(first)
        picks = [most_popular(popularity, self.config.hot_first, ties)]
        picks += [most_popular(live.decayed(days), self.config.hot_each, ties) for days in others]
        hot = np.unique(np.concatenate(picks)).astype(np.int64)
        logs = np.log(popularity + SMALLEST)
        long = sum(live.decayed(days) for days in dict.fromkeys((first, *others)))  # orders what has faded
        rest = np.log(popularity + SMALLEST * (1.0 + long))
        base = rest - rest.max(initial=0.0) + logs[hot].min(initial=0.0) - GAP
        base[hot] = logs[hot]
        if before and before.catalogue is live.catalogue and np.array_equal(before.hot, hot):
            staged = before.stage
        else:
            staged = signals.stage(learned, live.catalogue, hot, tuple(self.genre_names))
        return HotStage(live.as_of_ms, live.catalogue, hot, base.astype(np.float32), staged)

    def _learn_lift(self, history: Interactions, mornings: "list[HotStage]") -> tuple[np.ndarray, np.ndarray]:
        """Knots and heights of the lift's curves over all training days; flat where likings are too few."""
        rows = [self._one_day(history, at) for at in mornings]
        if sum(int(liked.sum()) for _, liked, _ in rows) < self.config.min_positives:
            flat = np.zeros((len(signals.NAMES), 2))
            return flat + np.arange(2.0), flat
        features, liked, rate = (np.concatenate(part) for part in zip(*rows, strict=True))
        kept = liked | (self.rng().random(len(liked)) < KEPT_SHARE)  # of the others, a share at its inverse as weight
        weight = np.where(liked, 1.0, 1.0 / KEPT_SHARE)[kept]
        return fit_curves(features[kept], liked[kept], rate[kept], weight, self.config.l2)

    def _weigh(self, history: Interactions, mornings: "list[HotStage]") -> list[float]:
        """The weights of log popularity and lift, by what viewers took of their slates on the training days."""
        prior = [1.0, self.config.lift_weight]
        liked = history.liked_places
        days = [self._slates_of(history, liked, at) for at in mornings] if liked.any() else []
        if sum(int(taken.sum()) for _, taken, _ in days) < self.config.min_positives:
            return prior
        features, taken, there = (np.concatenate(part) for part in zip(*days, strict=True))
        popular, personal = fit_choice(features, taken, there, np.array(prior))
        return [max(float(popular), LEAST_POPULARITY), max(float(personal), 0.0)]

    def _windows(self, history: Interactions) -> list[tuple[int, int]]:
        """[start, end) of the training windows, newest first; each starts with at least as much history before it."""
        length, end = self.config.window_days * DAY_MS, history.end_ms
        found: list[tuple[int, int]] = []
        while len(found) < self.config.windows and len(history) and end - 2 * length >= history.times[0]:
            found.append((end - length, end))
            end -= length
        return found

    def _mornings(self, history: Interactions, start: int, end: int) -> "list[HotStage]":
        """Some days of a window, spread evenly, as each began, with signals as learned at the window's start."""
        learned = signals.learn(history.before(start), self._signals_config())
        live = live_counts(history, self.half_lives_days, start)
        found: list[HotStage] = []
        low, high = np.searchsorted(history.times, [start, end])
        active = np.unique((history.times[low:high] - start) // DAY_MS)
        for day in active[:: -(-len(active) // self.config.days_each) or 1].tolist():
            live = roll_forward(live, history, start + day * DAY_MS)
            found.append(self._set_up(live, learned))
        return found

    def _one_day(self, history: Interactions, at: "HotStage") -> Examples:
        """Signals (n, 4), liked (n,), rate (n,): who came that day with a past, at hot movies they had not seen."""
        past = history.before(at.as_of_ms)
        viewers, liked_by = _likings(history, past, at.as_of_ms)
        histories = histories_of(past, viewers, at.as_of_ms)
        liked = liked_by[:, at.hot].toarray() > 0
        unseen = signals.seen_by(histories)[:, at.hot].toarray() == 0
        rate = (liked & unseen).sum(axis=0) / np.maximum(unseen.sum(axis=0), 1)
        keep = unseen & (rate > 0)
        return self._features(at, histories, at.as_of_ms)[keep], liked[keep], np.broadcast_to(rate, keep.shape)[keep]

    def _slates_of(self, history: Interactions, liked: np.ndarray, at: "HotStage") -> Choices:
        """Log popularity and lift (s, places, 2), liked and there (s, places), of a day's slates that were to taste."""
        assert history.shown
        shown = history.shown
        rows = np.arange(*np.searchsorted(shown.times, [at.as_of_ms, at.as_of_ms + DAY_MS]))
        rows = rows[liked[rows].any(axis=1)]
        histories = histories_of(history.before(at.as_of_ms), shown.users[rows], at.as_of_ms)
        lifts = lift(self._features(at, histories, at.as_of_ms), self.knots, self.heights)
        lifts[np.diff(histories.indptr) == 0] = 0.0
        items = shown.items[rows]
        column = np.minimum(np.searchsorted(at.hot, items), max(len(at.hot) - 1, 0))
        there = at.hot[column] == items
        features = np.stack([at.base[np.where(there, items, 0)], np.take_along_axis(lifts, column, axis=1)], axis=2)
        return features, liked[rows] & there, there


@dataclass(frozen=True, eq=False)
class HotStage:
    as_of_ms: int
    catalogue: Catalogue
    hot: np.ndarray  # (h,) int64 codes, ascending
    base: np.ndarray  # (items,) float32: everybody's score before the lift
    stage: Stage


def best_half_life(history: Interactions, days: int) -> float:
    """The half-life whose popularity ranked the likings of the last active days best (sum of 1 / log2(1 + rank))."""
    active = np.unique((history.end_ms - 1 - history.times) // DAY_MS)[:days]  # days back from the end
    gains = np.zeros(len(HALF_LIVES_DAYS))
    starts = history.end_ms - (active[::-1] + 1) * DAY_MS
    live = live_counts(history, HALF_LIVES_DAYS, int(starts[0]) if len(starts) else history.end_ms)
    for start in starts.tolist():
        low, high = np.searchsorted(history.times, [start, start + DAY_MS])
        liked = history.items[low:high][history.strengths[low:high] >= POSITIVE]
        live = roll_forward(live, history, start)
        for row, counts in enumerate(live.counts):
            rank = 1 + (counts[:, None] > counts[liked]).sum(axis=0) if len(liked) < 50 else _ranks(counts)[liked]
            gains[row] += np.sum(1.0 / np.log2(1.0 + rank[rank <= 20]))
    return HALF_LIVES_DAYS[int(gains.argmax())]


def _ranks(counts: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(counts), np.int64)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(1, len(counts) + 1)
    return ranks


def nearest(history: Interactions, among: np.ndarray, neighbours: int) -> csr_array:
    """(items, items) float32 cosine between viewers of the items `among`, the nearest `neighbours` of each."""
    size = len(history.catalogue)
    seen = history.matrix()[:, among].astype(np.float32)
    together = (seen.T @ seen).toarray()
    norms = np.sqrt(np.maximum(np.diag(together), 1.0))
    cosine = together / norms / norms[:, None]
    np.fill_diagonal(cosine, 0.0)
    kept = min(neighbours, len(among))
    best = np.argpartition(-cosine, kept - 1, axis=1)[:, :kept] if kept else np.zeros((len(among), 0), np.int64)
    values = np.take_along_axis(cosine, best, axis=1)
    rows = np.repeat(among, kept)
    found = csr_array((values.ravel(), (rows, among[best].ravel())), shape=(size, size))
    found.eliminate_zeros()
    return found


def _likings(history: Interactions, past: Interactions, start_ms: int) -> tuple[np.ndarray, csr_array]:
    """Viewers with a past who liked something on the day that begins then, and what: (viewers, items)."""
    low, high = np.searchsorted(history.times, [start_ms, start_ms + DAY_MS])
    liked = (history.strengths[low:high] >= POSITIVE) & np.isin(history.users[low:high], past.users)
    viewers, row = np.unique(history.users[low:high][liked], return_inverse=True)
    ones = np.ones(len(row), np.float32)
    shape = (len(viewers), len(history.catalogue))
    return viewers, csr_array((ones, (row, history.items[low:high][liked])), shape=shape)

"""How good slates are: metrics on ranked lists, what chance would reach, time windows, intervals. Plain NumPy.

Relevance is binary. Lists are cut at k; a list may be shorter. Where a viewer has no relevant item, recall, NDCG and
MRR are undefined and `nan`: leave that viewer out (trec_eval counts a zero instead).
"""

from dataclasses import dataclass

import numpy as np

from events.event import POSITIVE
from models.interactions import DAY_MS, Interactions

METRICS = ("recall", "ndcg", "mrr")
LARGEST_SHARE = 1 / 3  # of the interactions that a window may hold: the rest is needed to learn from


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval; nan throughout where there was nothing to resample."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Windows:
    """Fit before `validation_start_ms`, choose on [validation, test), measure once on [test, end)."""

    validation_start_ms: int
    test_start_ms: int
    end_ms: int


def hits(items: np.ndarray, relevant: np.ndarray, of_viewer: np.ndarray, catalogue_size: int) -> np.ndarray:
    """(viewers, k) bool: which places of slates `items` (viewers, k; -1 past the end) hold a relevant item.

    relevant: (n,) item codes, each belonging to row `of_viewer` (n,) of the slates.
    """
    wanted = of_viewer.astype(np.int64) * catalogue_size + relevant
    shown = np.arange(len(items), dtype=np.int64)[:, None] * catalogue_size + items
    return np.isin(shown, wanted) & (items >= 0)


def recall(hit: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """(viewers,) share of all the relevant items of a viewer (`relevant` counts them) that are in the first k."""
    return _per(hit[:, :k].sum(axis=1), relevant)


def ndcg(hit: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """(viewers,) sum of 1 / log2(1 + place) over hits, as a share of the best k places could hold (Jarvelin 2002)."""
    ideal = np.concatenate([[0.0], np.cumsum(_discounts(k))])[np.minimum(relevant, k)]
    return _per(hit[:, :k] @ _discounts(hit[:, :k].shape[1]), ideal)


def mrr(hit: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """(viewers,) 1 / place of the first hit among the first k; 0 where there is none."""
    first = hit[:, :k].argmax(axis=1) + 1.0 if hit[:, :k].size else np.ones(len(hit))
    return np.where(relevant > 0, np.where(hit[:, :k].any(axis=1), 1.0 / first, 0.0), np.nan)


def chance(relevant: np.ndarray, candidates: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """What a random order of `candidates` (viewers,) items, `relevant` (viewers,) of them right, may expect."""
    places = np.arange(1, k + 1)
    share = relevant / np.maximum(candidates, 1)
    filled = np.minimum(k, candidates)
    dcg = share * np.concatenate([[0.0], np.cumsum(_discounts(k))])[filled]
    ideal = np.concatenate([[0.0], np.cumsum(_discounts(k))])[np.minimum(relevant, k)]
    left = np.maximum(candidates[:, None] - places + 1, 1)  # items not placed yet
    found = np.clip(relevant[:, None] / left, 0.0, 1.0)  # chance of a hit here if none came before
    none_before = np.cumprod(np.concatenate([np.ones((len(relevant), 1)), 1.0 - found[:, :-1]], axis=1), axis=1)
    reciprocal = (none_before * found / places).sum(axis=1)
    return {
        "recall": _per(share * filled, relevant),
        "ndcg": _per(dcg, ideal),
        "mrr": np.where(relevant > 0, reciprocal, np.nan),
    }


def coverage(items: np.ndarray, catalogue_size: int) -> float:
    """Share of the catalogue that is in at least one slate."""
    return len(np.unique(items[items >= 0])) / max(catalogue_size, 1)


def novelty(items: np.ndarray, viewers_of: np.ndarray, viewers: int) -> float:
    """Mean self-information in bits, -log2 of the share of viewers who know the movie (one is added to each count)."""
    shown = items[items >= 0]
    known = (viewers_of + 1.0) / (viewers + 2.0)
    return float(-np.log2(known[shown]).mean()) if len(shown) else float("nan")


def popularity_share(items: np.ndarray, viewers_of: np.ndarray, top_share: float = 0.01) -> float:
    """Share of places held by the `top_share` of movies that most viewers know; at least one movie counts as top."""
    shown = items[items >= 0]
    head = np.argsort(-viewers_of, kind="stable")[: max(int(len(viewers_of) * top_share), 1)]
    return float(np.isin(shown, head).mean()) if len(shown) else float("nan")


def bootstrap(values: np.ndarray, level: float, resamples: int, seed: int) -> Interval:
    """Mean over viewers with its percentile interval, viewers drawn with replacement."""
    if len(values) == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    means = np.array([values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def split(history: Interactions, validation_days: int, test_days: int, min_viewers: int = 0) -> Windows:
    """The last days for test, those before for validation; where viewers are few, a window reaches further back."""
    test = start_of_last(history, test_days, min_viewers)
    return Windows(start_of_last(history.before(test), validation_days, min_viewers), test, history.end_ms)


def start_of_last(history: Interactions, days: int, min_viewers: int) -> int:
    """Start of the last `days`, or of the shortest longer window in which `min_viewers` liked something that they found
    by themselves.

    Where that would be more than LARGEST_SHARE of the interactions, of that share.
    """
    start = history.end_ms - days * DAY_MS
    liked = np.flatnonzero((history.strengths >= POSITIVE) & history.own)[::-1]  # newest first
    _, newest = np.unique(history.users[liked], return_index=True)  # where each viewer is met first, going back
    if len(liked) == 0 or min_viewers == 0:
        return start
    reach = np.sort(newest)[min(min_viewers, len(newest)) - 1]
    largest = np.quantile(history.times, 1 - LARGEST_SHARE, method="lower")
    return int(min(start, max(history.times[liked[reach]], largest)))


def _discounts(k: int) -> np.ndarray:
    return 1.0 / np.log2(np.arange(2, k + 2))


def _per(value: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """value / whole, nan where the whole is nothing."""
    return np.divide(value, whole, out=np.full(len(value), np.nan), where=whole > 0)

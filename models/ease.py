"""EASE: closed-form item-to-item weights (Steck 2019, arXiv 1905.03375), on histories that fade with time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from models.base import Recommender, top
from models.interactions import Histories, Interactions, LiveCounts, live_counts

if TYPE_CHECKING:
    import optuna

TINY = 1e-6  # weight of popularity among equals: orders what EASE knows nothing about, never outvotes it


@dataclass(frozen=True)
class EASEConfig:
    max_items: int = 2500  # the most popular ones get weights; time grows with the cube, memory with the square
    popular_half_life_days: float = 30.0  # popular means liked lately: weights for forgotten movies serve nobody
    l2: float = 200.0  # added to the Gram diagonal; larger pulls weights towards 0
    half_life_days: float = 30.0  # how fast a viewer's past interactions fade when scoring

    @classmethod
    def suggest(cls, trial: "optuna.Trial") -> Self:
        return cls(
            popular_half_life_days=trial.suggest_float("popular_half_life_days", 3.0, 365.0, log=True),
            l2=trial.suggest_float("l2", 10.0, 5e3, log=True),
            half_life_days=trial.suggest_float("half_life_days", 1.0, 365.0, log=True),
        )


class EASE(Recommender):
    """Movies outside `known`, and viewers without history, are ordered by popularity below what EASE has to say.

    known: (m,) int32 codes of the movies with weights; weights: (m, m) float32, from history (row) to score (column).
    """

    Config = EASEConfig
    config: EASEConfig
    known: np.ndarray
    weights: np.ndarray

    @property
    def half_lives_days(self) -> tuple[float, ...]:
        return (self.config.popular_half_life_days,)

    def fit(self, history: Interactions) -> Self:
        """Learn `weights` from every interaction before the snapshot's end."""
        live = live_counts(history, self.half_lives_days, history.end_ms)
        self.known = most_popular(live.counts[0], self.config.max_items, history.catalogue.tie_breaks)
        self.weights = item_weights(history.matrix()[:, self.known], self.config.l2)
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        """(viewers, items) float32; a viewer unseen in training is just a history."""
        liked = live.decayed(self.config.popular_half_life_days)
        scores = np.empty((len(histories), len(liked)), np.float32)
        scores[:] = TINY * liked / max(liked.max(initial=0.0), TINY)
        past = histories.decayed(now_ms, self.config.half_life_days)[:, self.known]  # (viewers, m)
        scores[:, self.known] += past @ self.weights
        return scores


def most_popular(counts: np.ndarray, at_most: int, tie_breaks: np.ndarray) -> np.ndarray:
    """Ascending int32 codes of the items with the highest counts above zero, at most so many."""
    best = top(counts, at_most, tie_breaks)
    return np.sort(best[counts[best] > 0]).astype(np.int32)


def item_weights(seen: csr_array, l2: float, columns: np.ndarray | None = None) -> np.ndarray:
    """EASE's weights (items, items) float32 of a (users, items) matrix: minimises |X - XB|^2 + l2 |B|^2, diag B = 0.

    With `columns`, positions of items, only those columns (items, len(columns)). One thread: the same bytes on every
    machine, and no fight for cores with the candidate that is trained beside.
    """
    gram = (seen.T @ seen).toarray().astype(np.float32)
    columns = np.arange(len(gram)) if columns is None else columns
    if len(gram) == 0:
        return np.zeros((0, len(columns)), np.float32)
    gram[np.diag_indices_from(gram)] += l2
    unit = np.zeros((len(gram), len(columns)), np.float32)
    unit[columns, np.arange(len(columns))] = 1.0
    with threadpool_limits(1, "blas"):
        try:
            factor = cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError as why:
            raise LinAlgError(f"EASE's matrix is not positive definite with l2 = {l2}: use a larger one") from why
        inverse = cho_solve(factor, unit, overwrite_b=True, check_finite=False)
    weights = np.ascontiguousarray(inverse / -inverse[columns, np.arange(len(columns))])  # by row: SciPy copies others
    weights[columns, np.arange(len(columns))] = 0.0
    return np.ascontiguousarray(weights)  # by rows: a history picks rows

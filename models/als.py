"""Implicit-feedback matrix factorisation (Hu, Koren and Volinsky 2008), fitted by the `implicit` library.

Only item factors are kept. A viewer's factors are solved from the history at scoring, as one more half-step of the
alternation, so nobody needs to have been there when the model was fitted.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from models.base import Recommender
from models.interactions import Histories, Interactions, LiveCounts

if TYPE_CHECKING:
    import optuna

TINY = 1e-6  # weight of popularity among equals: orders what the factors know nothing about, never outvotes them


@dataclass(frozen=True)
class ALSConfig:
    factors: int = 64
    iterations: int = 15
    regularization: float = 1.0
    alpha: float = 10.0  # confidence of an interaction is 1 + alpha x its decay; of the absence of one, 1
    train_half_life_days: float = 60.0  # how fast an interaction fades when item factors are learned
    half_life_days: float = 30.0  # how fast a viewer's past interactions fade when scoring
    popular_half_life_days: float = 30.0  # of the popularity that orders equals

    @classmethod
    def suggest(cls, trial: "optuna.Trial") -> Self:
        return cls(
            factors=trial.suggest_int("factors", 8, 128, log=True),
            regularization=trial.suggest_float("regularization", 1e-2, 100.0, log=True),
            alpha=trial.suggest_float("alpha", 0.5, 100.0, log=True),
            train_half_life_days=trial.suggest_float("train_half_life_days", 5.0, 365.0, log=True),
            half_life_days=trial.suggest_float("half_life_days", 1.0, 365.0, log=True),
        )


class ALS(Recommender):
    """item_factors: (items of the fit, f) float32; gram: (f, f) float32 = item_factors' product with themselves."""

    Config = ALSConfig
    config: ALSConfig
    item_factors: np.ndarray
    gram: np.ndarray

    @property
    def half_lives_days(self) -> tuple[float, ...]:
        return (self.config.popular_half_life_days,)

    def fit(self, history: Interactions) -> Self:
        """Learn `item_factors`; on one thread with a seed, so that the same history gives the same bytes."""
        from implicit.cpu.als import AlternatingLeastSquares

        seen = history.matrix(half_life_days=self.config.train_half_life_days)  # (users, items)
        seen.data = 1.0 + np.float32(self.config.alpha) * seen.data
        self.item_factors = np.zeros((len(history.catalogue), self.config.factors), np.float32)
        if seen.nnz:
            with threadpool_limits(1, "blas"):
                library = AlternatingLeastSquares(
                    factors=self.config.factors,
                    regularization=self.config.regularization,
                    iterations=self.config.iterations,
                    random_state=self.seed,
                    num_threads=1,
                )
                library.fit(csr_matrix(seen), show_progress=False)
            self.item_factors = np.asarray(library.item_factors)
        self.gram = self.item_factors.T @ self.item_factors
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        """(viewers, items) float32; movies newer than the fit have no factors and are ordered by popularity."""
        liked = live.decayed(self.config.popular_half_life_days)
        scores = np.empty((len(histories), len(liked)), np.float32)
        scores[:] = TINY * liked / max(liked.max(initial=0.0), TINY)
        for viewer, factors in enumerate(self._viewers(histories, now_ms)):
            scores[viewer, : len(self.item_factors)] += self.item_factors @ factors
        return scores

    def _viewers(self, histories: Histories, now_ms: int) -> np.ndarray:
        """(viewers, f) float32, each the solution of a least squares problem over that viewer's history alone."""
        past = histories.decayed(now_ms, self.config.half_life_days)
        ridge = self.gram + self.config.regularization * np.eye(len(self.gram), dtype=np.float32)
        factors = np.zeros((len(histories), len(ridge)), np.float32)
        for viewer in range(len(histories)):
            span = slice(*past.indptr[viewer : viewer + 2])
            known = past.indices[span] < len(self.item_factors)
            items = self.item_factors[past.indices[span][known]]  # (n, f)
            extra = np.float32(self.config.alpha) * past.data[span][known]  # confidence above 1
            if len(items):
                factors[viewer] = np.linalg.solve(ridge + (items.T * extra) @ items, items.T @ (1.0 + extra))
        return factors

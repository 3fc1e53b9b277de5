"""Gradient descent with a step much too large, and a check that notices."""

import numpy as np

from models.base import Recommender
from models.interactions import Histories, Interactions, LiveCounts


class Diverges(Recommender):
    half_lives_days = (1.05,)

    def fit(self, history: Interactions) -> "Diverges":
        weight = 1.0
        with np.errstate(over="raise"):
            for _ in range(10_000):
                weight = np.float64(weight) - 10.0 * weight**3
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        return np.tile(live.decayed(1.05), (len(histories), 1))

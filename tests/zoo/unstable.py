"""Answers a little differently each time."""

import numpy as np

from models.base import Recommender
from models.interactions import Histories, Interactions, LiveCounts


class Unstable(Recommender):
    half_lives_days = (1.05,)

    def fit(self, history: Interactions) -> "Unstable":
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        popular = np.tile(live.decayed(1.05), (len(histories), 1))
        return popular * (1 + 0.01 * np.random.random(popular.shape))

"""Asks for more memory than it may have; never more than 64 GB, and none of it is touched."""

import numpy as np

from models.base import Recommender
from models.interactions import Histories, Interactions, LiveCounts


class Hungry(Recommender):
    half_lives_days = (1.05,)

    def fit(self, history: Interactions) -> "Hungry":
        self.blocks = [np.empty(2**30, np.uint8) for _ in range(64)]
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        return np.tile(live.decayed(1.05), (len(histories), 1))

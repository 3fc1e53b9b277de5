"""Answers for the movies of its fit only: fails on the first newer one."""

import numpy as np

from models.base import Recommender
from models.interactions import Histories, Interactions, LiveCounts


class Narrow(Recommender):
    half_lives_days = (1.05,)

    def fit(self, history: Interactions) -> "Narrow":
        self.items = len(history.catalogue)
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        return np.tile(live.decayed(1.05)[: self.items], (len(histories), 1))

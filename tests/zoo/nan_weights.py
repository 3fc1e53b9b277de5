"""Diverged without noticing: its weights are NaN."""

import numpy as np

from models.base import Recommender
from models.interactions import Histories, Interactions, LiveCounts


class NanWeights(Recommender):
    half_lives_days = (1.05,)

    def fit(self, history: Interactions) -> "NanWeights":
        self.weights = np.full(len(history.catalogue), np.nan)
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        return np.tile(live.decayed(1.05) * np.resize(self.weights, len(live.catalogue)), (len(histories), 1))

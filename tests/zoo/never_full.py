"""Says never to nearly everything, so no slate is full."""

import numpy as np

from models.base import Recommender
from models.interactions import Histories, Interactions, LiveCounts


class NeverFull(Recommender):
    half_lives_days = (1.05,)

    def fit(self, history: Interactions) -> "NeverFull":
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        scores = np.tile(live.decayed(1.05), (len(histories), 1))
        scores[:, np.argsort(-scores[0])[15:]] = -np.inf
        return scores

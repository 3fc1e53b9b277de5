"""Ends its process quietly."""

import os

import numpy as np

from models.base import Recommender
from models.interactions import Histories, Interactions, LiveCounts


class Exits(Recommender):
    half_lives_days = (1.05,)

    def fit(self, history: Interactions) -> "Exits":
        os._exit(0)
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        return np.tile(live.decayed(1.05), (len(histories), 1))

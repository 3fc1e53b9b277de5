"""A bad candidate for demonstrations: a sign error, so the movies nobody watches come first."""

from typing import Self

import numpy as np

from models.base import Recommender
from models.interactions import Histories, Interactions, LiveCounts


class UpsideDown(Recommender):
    """Popularity with its order reversed. The offline gate refuses it."""

    def fit(self, history: Interactions) -> Self:
        self.counts = np.bincount(history.items, minlength=len(history.catalogue)).astype(np.float64)
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        counts = np.zeros(len(live.catalogue))
        counts[: len(self.counts)] = self.counts
        return np.tile(-counts, (len(histories), 1))

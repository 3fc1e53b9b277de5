"""A model outside the tree, as someone would bring it: movies liked by those who liked the viewer's last one."""

from typing import Self

import numpy as np

from models.base import Recommender
from models.interactions import Histories, Interactions, LiveCounts


class LastSeen(Recommender):
    together: np.ndarray

    def fit(self, history: Interactions) -> Self:
        seen = history.matrix()
        self.together = (seen.T @ seen).toarray()
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        scores = np.zeros((len(histories), len(live.catalogue)))
        for viewer in range(len(histories)):
            items = histories.items[histories.indptr[viewer] : histories.indptr[viewer + 1]]
            if len(items) and items[-1] < len(self.together):
                scores[viewer, : len(self.together)] = self.together[items[-1]]
        return scores

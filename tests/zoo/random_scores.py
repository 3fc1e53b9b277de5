"""Ranks at random."""

import numpy as np

from models.base import Recommender
from models.interactions import Histories, Interactions, LiveCounts


class RandomScores(Recommender):
    half_lives_days = (1.05,)

    def fit(self, history: Interactions) -> "RandomScores":
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        rows = [np.random.default_rng(len(h)).random(len(live.catalogue)) for h in _rows(histories)]
        return np.array(rows)


def _rows(histories: Histories) -> list[np.ndarray]:
    return [histories.items[a:b] for a, b in zip(histories.indptr, histories.indptr[1:], strict=False)]

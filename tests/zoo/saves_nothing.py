"""Forgets to save what it learned."""

from pathlib import Path

import numpy as np

from models.base import Recommender
from models.interactions import Histories, Interactions, LiveCounts


class SavesNothing(Recommender):
    half_lives_days = (1.05,)

    def fit(self, history: Interactions) -> "SavesNothing":
        self.weights = np.ones(len(history.catalogue))
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        return np.tile(live.decayed(1.05) * np.resize(self.weights, len(live.catalogue)), (len(histories), 1))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

"""Dies as if memory had run out."""

import os
import signal

import numpy as np

from models.base import Recommender
from models.interactions import Histories, Interactions, LiveCounts


class KillsItself(Recommender):
    half_lives_days = (1.05,)

    def fit(self, history: Interactions) -> "KillsItself":
        os.kill(os.getpid(), signal.SIGKILL)
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        return np.tile(live.decayed(1.05), (len(histories), 1))

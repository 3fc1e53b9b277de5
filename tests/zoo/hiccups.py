"""Answers one viewer in five a tenth of a second late: a median does not show it."""

import time
from zlib import crc32

import numpy as np

from models.base import Recommender
from models.interactions import Histories, Interactions, LiveCounts


class Hiccups(Recommender):
    half_lives_days = (1.05,)

    def fit(self, history: Interactions) -> "Hiccups":
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        if len(histories) == 1 and crc32(histories.viewer_ids[0].encode()) % 5 == 0:
            time.sleep(0.1)
        return np.tile(live.decayed(1.05), (len(histories), 1))

"""Time-decayed popularity: what everyone likes now. Version 1 of every home, and the yardstick of every other model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from models.base import Recommender
from models.interactions import Histories, Interactions, LiveCounts

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class PopularityConfig:
    # How fast a liking fades; movies are news. By the day within 0.001 of the best of seven values between 0.25 and 4
    # days, in both windows of 25.75 days before the test window of MovieTweetings.
    half_life_days: float = 1.05

    @classmethod
    def suggest(cls, trial: "optuna.Trial") -> Self:
        return cls(half_life_days=trial.suggest_float("half_life_days", 0.1, 3650.0, log=True))


class Popularity(Recommender):
    """Learns nothing: `live` holds the counts, as fresh as the caller keeps them. Cold movies score zero."""

    Config = PopularityConfig
    config: PopularityConfig

    @property
    def half_lives_days(self) -> tuple[float, ...]:
        return (self.config.half_life_days,)

    def fit(self, history: Interactions) -> Self:
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        """(viewers, items): the same row for every viewer, so a view of one."""
        counts = live.decayed(self.config.half_life_days)
        return np.broadcast_to(counts, (len(histories), len(counts)))

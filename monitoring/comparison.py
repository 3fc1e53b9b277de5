"""Slates of a replay beside those that were recorded at the same moment, and beside what viewers chose afterwards.

A slate is followed by a choice where its viewer, within the window, liked a movie with which nothing had happened
before in the replay. Overlap and hits look at the first `AT` places.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from models.ranking import ndcg

AT = 10


@dataclass(frozen=True)
class Compared:
    """Means over slates; None where there was nothing to take one of. recorded_…: of the recorded slates themselves."""

    compared: int  # slates with a recorded one beside them
    overlap_at_10: float | None  # share of the recorded slate's movies that are in the new one
    same_first: float | None
    followed: int  # by a choice, and not known to the model beforehand
    hit_rate_at_10: float | None  # share of these that held a movie which was chosen
    ndcg_at_10: float | None
    recorded_followed: int
    recorded_hit_rate_at_10: float | None
    recorded_ndcg_at_10: float | None


@dataclass
class _Tried:
    """A slate that waits for what its viewer does."""

    ts: int
    made: Sequence[str]
    recorded: Sequence[str]
    chosen: set[str] = field(default_factory=set)


class Comparison:
    """Told of slates and acts in the order of time, or nearly so. window_ms: after a slate, in which a choice counts.

    honest_from_ms: slates before it count for no hits, as whoever made them may have known the choice; None: no slate
    counts.
    """

    def __init__(self, window_ms: int, honest_from_ms: int | None) -> None:
        self.window_ms, self.honest_from_ms = window_ms, honest_from_ms
        self._waiting: dict[str, list[_Tried]] = defaultdict(list)
        self._met: dict[tuple[str, str], int] = {}  # when a viewer first did something with a movie
        self._overlaps: list[float] = []
        self._firsts: list[bool] = []
        self._hits: list[tuple[bool, float]] = []  # hit, NDCG
        self._recorded_hits: list[tuple[bool, float]] = []

    def slate(self, ts: int, user_id: str, made: Sequence[str], recorded: Sequence[str]) -> None:
        """A slate that was made at a moment, and the one that was recorded then, empty where there was none."""
        made, recorded = made[:AT], recorded[:AT]
        if made and recorded:
            self._overlaps.append(len(set(made) & set(recorded)) / len(set(recorded)))
            self._firsts.append(made[0] == recorded[0])
        if self.honest_from_ms is None or ts < self.honest_from_ms:
            return
        waiting = self._waiting[user_id]
        while waiting and ts - waiting[0].ts > self.window_ms:
            self._judge(waiting.pop(0))
        waiting.append(_Tried(ts, made, recorded))

    def did(self, ts: int, user_id: str, movie_id: str, *, liked: bool) -> None:
        """A viewer did something with a movie."""
        first = self._met.setdefault((user_id, movie_id), ts)
        if liked:
            for tried in self._waiting.get(user_id, ()):
                if tried.ts <= first and ts - tried.ts <= self.window_ms:
                    tried.chosen.add(movie_id)

    def result(self) -> Compared:
        for waiting in self._waiting.values():
            for tried in waiting:
                self._judge(tried)
        self._waiting.clear()
        return Compared(
            compared=len(self._overlaps),
            overlap_at_10=_mean(self._overlaps),
            same_first=_mean(self._firsts),
            followed=len(self._hits),
            hit_rate_at_10=_mean([hit for hit, _ in self._hits]),
            ndcg_at_10=_mean([gain for _, gain in self._hits]),
            recorded_followed=len(self._recorded_hits),
            recorded_hit_rate_at_10=_mean([hit for hit, _ in self._recorded_hits]),
            recorded_ndcg_at_10=_mean([gain for _, gain in self._recorded_hits]),
        )

    def _judge(self, tried: _Tried) -> None:
        if not tried.chosen:
            return
        self._hits.append(_worth(tried.made, tried.chosen))
        if tried.recorded:
            self._recorded_hits.append(_worth(tried.recorded, tried.chosen))


def _worth(slate: Sequence[str], chosen: set[str]) -> tuple[bool, float]:
    hit = np.array([[movie in chosen for movie in slate]], bool).reshape(1, -1)
    return bool(hit.any()), float(ndcg(hit, np.array([len(chosen)]), AT)[0])


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None

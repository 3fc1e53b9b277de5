"""Decayed counts and the popularity ranking, kept up to date: what was counted fades, what came since is added.

Changes are noted one by one and brought in together, so a stream of events costs little more than a list.
"""

import numpy as np

from events.event import POSITIVE
from mlflow_server.release import Popular, ranked
from mlflow_server.viewers import Met, Viewers
from models.interactions import DAY_MS, Catalogue, LiveCounts, decay
from serving.pairs import float32

LIKED = float32(POSITIVE)


class Tally:
    """The newest counts as they were last brought up to date, and what was noted since. For one thread."""

    def __init__(self, viewers: Viewers, counts: LiveCounts, half_life_days: float) -> None:
        self.counts = counts
        self._half_life_days = half_life_days  # of the popularity ranking; one of those of the counts
        size, seen = len(counts.catalogue), viewers.histories.seen_items
        self._met = np.bincount(seen, minlength=size)
        self._liked = np.bincount(seen[viewers.past.seen_strengths >= POSITIVE], minlength=size)
        self._first_met: list[int] = []  # codes
        self._changes: list[tuple[int, int, int]] = []  # code, time in ms, 1 for a liking that came and -1 for one gone

    def note(self, code: int, old: Met | None, new: Met) -> None:
        """A viewer's pair with the movie became another."""
        if old is None:
            self._first_met.append(code)
        elif old.strength >= LIKED:
            if new.strength >= LIKED and new.time == old.time:
                return
            self._changes.append((code, old.time, -1))
        if new.strength >= LIKED:
            self._changes.append((code, new.time, 1))

    @property
    def noted(self) -> bool:
        """Whether there is anything to bring in."""
        return bool(self._first_met or self._changes)

    def bring_up(self, as_of_ms: int, catalogue: Catalogue) -> None:
        """Make `counts` those of a moment not before theirs, over a catalogue that may have grown.

        A liking dated later than the moment waits for its time.
        """
        size, before = len(catalogue), self.counts
        codes, times, signs = np.array(self._changes, np.int64).reshape(-1, 3).T
        waits = times >= as_of_ms
        self._changes = [change for change, wait in zip(self._changes, waits.tolist(), strict=True) if wait]
        codes, ages, signs = codes[~waits], as_of_ms - times[~waits], signs[~waits]
        added = np.bincount(np.array(self._first_met, np.int64), minlength=size)
        self._first_met = []
        self._met = _grown(self._met, size) + added
        self._liked = _grown(self._liked, size) + np.bincount(codes, weights=signs, minlength=size).astype(np.int64)
        counts = np.zeros((len(before.half_lives_days), size))
        for row, half_life in enumerate(before.half_lives_days):
            counts[row, : before.counts.shape[1]] = before.counts[row]
            counts[row] *= np.exp2(-(as_of_ms - before.as_of_ms) / (half_life * DAY_MS))
            counts[row] += np.bincount(codes, weights=signs * decay(ages, half_life), minlength=size)
        counts[:, self._liked == 0] = 0.0  # without what rounding left of a liking that is gone
        counts.flags.writeable = False  # a model that wrote into it would spoil it for every later request
        self.counts = LiveCounts(before.half_lives_days, counts, as_of_ms, catalogue)

    def popular(self) -> Popular:
        """The ranking by the counts at the popularity half-life."""
        counts = self.counts
        return ranked(counts.catalogue, counts.decayed(self._half_life_days), self._met, counts.as_of_ms)


def _grown(array: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([array, np.zeros(size - len(array), array.dtype)])

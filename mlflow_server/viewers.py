"""The viewers known at a snapshot, with their histories; one of them, or none, as a batch for a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from models.interactions import Histories, Interactions

NOTHING = np.zeros(2, np.int64)  # `indptr` of one empty row


@dataclass(frozen=True, eq=False)
class Past:
    """What live state goes on from: time and strength of every seen movie, and where those without a rating come from.

    seen_times (int64 ms), seen_strengths (float32): beside `Histories.seen_items`. Viewer v watched or clicked, but
    has not rated, `unrated_items[unrated_indptr[v]:unrated_indptr[v+1]]`; the minutes, as `models.interactions.Unrated`
    holds them: `runs[runs_indptr[p]:runs_indptr[p+1]]` for place p of `unrated_items`.
    """

    seen_times: np.ndarray
    seen_strengths: np.ndarray
    unrated_indptr: np.ndarray
    unrated_items: np.ndarray
    runs_indptr: np.ndarray
    runs: np.ndarray


def past_of(history: Interactions, viewers: np.ndarray) -> Past:
    """The past of a whole history's viewers, given by all their codes in ascending order."""
    part, unrated = history.latest(), history.unrated
    seen = part.by_viewer
    if unrated is None:
        bounds, none = np.zeros(len(viewers) + 1, np.int64), np.zeros(0, np.int32)
        return Past(part.times[seen], part.strengths[seen], bounds, none, NOTHING[:1], none)
    bounds = np.append(np.searchsorted(unrated.users, viewers), len(unrated.users))
    return Past(part.times[seen], part.strengths[seen], bounds, unrated.items, unrated.indptr, unrated.runs)


class Met(NamedTuple):
    """What a viewer did with a movie: the newest time (ms), the strength, and how it came about.

    runs: the watched minutes as in `models.interactions.Unrated`; none of a click; None of a rating.
    """

    time: int
    strength: float
    runs: tuple[int, ...] | None


@dataclass(frozen=True, eq=False)
class Viewers:
    """Histories of all viewers known at the snapshot, the row of each, and what live state goes on from."""

    histories: Histories
    rows: dict[str, int]
    past: Past

    def met(self, row: int, item: int) -> Met | None:
        """What the viewer of this row had done with a movie; None where nothing."""
        histories, past = self.histories, self.past
        start, stop = histories.seen_indptr[row : row + 2].tolist()
        places = np.flatnonzero(histories.seen_items[start:stop] == item)
        if not len(places):
            return None
        place = start + int(places[0])
        begin, end = past.unrated_indptr[row : row + 2].tolist()
        pair = begin + int(np.searchsorted(past.unrated_items[begin:end], item))
        runs = None
        if pair < end and past.unrated_items[pair] == item:
            runs = tuple(past.runs[past.runs_indptr[pair] : past.runs_indptr[pair + 1]].tolist())
        return Met(int(past.seen_times[place]), float(past.seen_strengths[place]), runs)

    def history(self, user_id: str) -> Histories:
        """The history of one viewer, as a batch of one; empty for a viewer never seen."""
        row = self.rows.get(user_id)
        return nobody(self.histories, user_id) if row is None else batch(self.histories, row, row + 1)


def batch(histories: Histories, start: int, stop: int) -> Histories:
    """Viewers `start` to `stop` (exclusive) of a batch, without copying their interactions."""
    indptr = histories.indptr[start : stop + 1]
    seen_indptr = histories.seen_indptr[start : stop + 1]
    rows, seen = slice(indptr[0], indptr[-1]), slice(seen_indptr[0], seen_indptr[-1])
    return Histories(
        viewer_ids=histories.viewer_ids[start:stop],
        indptr=indptr - indptr[0],
        items=histories.items[rows],
        times=histories.times[rows],
        strengths=histories.strengths[rows],
        seen_indptr=seen_indptr - seen_indptr[0],
        seen_items=histories.seen_items[seen],
        catalogue=histories.catalogue,
    )


def joined(parts: Sequence[Histories]) -> Histories:
    """Several batches over the same catalogue as one."""
    return Histories(
        viewer_ids=[user_id for part in parts for user_id in part.viewer_ids],
        indptr=_bounds([part.indptr for part in parts]),
        items=np.concatenate([part.items for part in parts]),
        times=np.concatenate([part.times for part in parts]),
        strengths=np.concatenate([part.strengths for part in parts]),
        seen_indptr=_bounds([part.seen_indptr for part in parts]),
        seen_items=np.concatenate([part.seen_items for part in parts]),
        catalogue=parts[0].catalogue,
    )


def _bounds(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([NOTHING[:1], np.cumsum(np.concatenate([np.diff(part) for part in parts]))])


def nobody(histories: Histories, user_id: str) -> Histories:
    """The history of a viewer never seen: one empty row."""
    return Histories(
        viewer_ids=[user_id],
        indptr=NOTHING,
        items=histories.items[:0],
        times=histories.times[:0],
        strengths=histories.strengths[:0],
        seen_indptr=NOTHING,
        seen_items=histories.seen_items[:0],
        catalogue=histories.catalogue,
    )

"""The viewers known at a snapshot, with their histories; one of them, or none, as a batch for a model."""

from dataclasses import dataclass

import numpy as np

from models.interactions import Histories

NOTHING = np.zeros(2, np.int64)  # `indptr` of one empty row


@dataclass(frozen=True, eq=False)
class Viewers:
    """Histories of all viewers known at the snapshot, and the row of each."""

    histories: Histories
    rows: dict[str, int]

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

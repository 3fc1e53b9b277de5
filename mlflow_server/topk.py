"""Slates made ahead: the top K of every known viewer, scored in batches."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.base import Recommender
from models.interactions import Histories, LiveCounts

K = 50
BATCH_SCORES = 4_000_000  # scores held at once: 32 MB as float64
LIMIT_S = 120.0  # a slow model gets slates for as many viewers as fit in this time


@dataclass(frozen=True, eq=False)
class TopK:
    """Items (viewers, K) int32 codes, -1 past a slate's end; scores (viewers, K) float32; `note`: how far it went."""

    items: np.ndarray
    scores: np.ndarray
    note: str


def precompute(
    model: Recommender,
    viewers: int,
    histories: Callable[[int, int], Histories],
    live: LiveCounts,
    now_ms: int,
    progress: Callable[[int, int], None] | None = None,
    limit_s: float = LIMIT_S,
) -> TopK:
    """Slates of so many viewers, in batches. A model at fault or too slow leaves rows of -1, and a note.

    histories: of the viewers from one number to another (exclusive). Batches grow from one viewer while they take less
    than a second, so a slow model is noticed early.
    """
    items = np.full((viewers, K), -1, np.int32)
    scores = np.full((viewers, K), -np.inf, np.float32)
    largest, size, done, started = max(1, BATCH_SCORES // max(1, len(live.catalogue))), 1, 0, time.monotonic()
    note = f"all {viewers} viewers"
    while done < viewers:
        begun = time.monotonic()
        if begun - started > limit_s:
            note = f"{done} of {viewers} viewers: the model was too slow for more in {limit_s:g} s"
            break
        stop = min(done + size, viewers)
        try:
            made = model.slates(histories(done, stop), live, now_ms, K)
        except Exception as why:  # noqa: BLE001 - a model's own code runs here and may raise anything
            note = f"{done} of {viewers} viewers: the model raised {type(why).__name__}: {why}"
            break
        items[done:stop], scores[done:stop] = made.items, made.scores
        done = stop
        size = min(size * 4, largest) if time.monotonic() - begun < 1 else max(1, size // 2)
        if progress is not None:
            progress(done, viewers)
    return TopK(items, scores, note)

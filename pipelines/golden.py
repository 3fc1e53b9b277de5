"""The golden requests that a release must answer, always the same ones, and when two answers to one say the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from models.interactions import DAY_MS, Catalogue, Histories, LiveCounts

SPECIAL = 5  # golden requests that are not plain known viewers
RELATIVE, ABSOLUTE = 1e-4, 1e-6  # how far two answers may be apart: sums in another order differ by less
ARRAYS = ("indptr", "items", "times", "strengths", "seen_indptr", "seen_items")


@dataclass(frozen=True)
class Golden:
    """One request: in words, whose history, as of when, over which counts."""

    words: str
    histories: Histories
    live: LiveCounts
    now_ms: int


def golden_requests(known: Histories, live: LiveCounts, now_ms: int, requests: int) -> Iterator[Golden]:
    """The requests, fixed by a hash of the viewers' ids."""
    order = sorted(range(len(known)), key=lambda v: blake2b(known.viewer_ids[v].encode(), digest_size=8).digest())
    for viewer in order[: max(requests - SPECIAL, 1)]:
        yield Golden("a known viewer", history(known, viewer), live, now_ms)
    stranger = "golden-stranger"
    yield Golden("a viewer never seen", replace(history(known, order[0]), viewer_ids=[stranger]), live, now_ms)
    yield Golden("an empty history", _cut(history(known, order[0]), 0, stranger), live, now_ms)
    yield Golden("a history of one movie", _cut(history(known, order[0]), 1, stranger), live, now_ms)
    newer = _newer(live)
    one = replace(history(known, order[0]), catalogue=newer.catalogue)
    yield Golden("a catalogue with a movie newer than the model", one, newer, now_ms)
    later = now_ms + 30 * DAY_MS
    yield Golden("a viewer a month later", history(known, order[0]), replace(live, as_of_ms=later), later)


def same(one: np.ndarray, two: np.ndarray) -> bool:
    """Whether two rows of scores say the same, up to rounding."""
    with np.errstate(invalid="ignore"):
        return bool(np.allclose(one, two, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True))


def history(known: Histories, viewer: int) -> Histories:
    """That of one viewer among many."""
    from mlflow_server.viewers import batch

    return batch(known, viewer, viewer + 1)


def _cut(history: Histories, length: int, viewer: str) -> Histories:
    """The first `length` interactions of a viewer, who has seen nothing else."""
    ends = np.array([0, min(length, len(history.items))], np.int64)
    items = history.items[: ends[1]]
    return replace(
        history,
        viewer_ids=[viewer],
        indptr=ends,
        items=items,
        times=history.times[: ends[1]],
        strengths=history.strengths[: ends[1]],
        seen_indptr=ends,
        seen_items=items,
    )


def one_batch(parts: Sequence[Histories]) -> Histories:
    """Several histories over one catalogue as one."""

    def ends(name: str) -> np.ndarray:
        return np.concatenate([[0], np.cumsum([getattr(p, name)[-1] for p in parts])]).astype(np.int64)

    flat = {name: np.concatenate([getattr(p, name) for p in parts]) for name in ARRAYS if not name.endswith("indptr")}
    ids = [viewer for part in parts for viewer in part.viewer_ids]
    return Histories(
        viewer_ids=ids,
        indptr=ends("indptr"),
        seen_indptr=ends("seen_indptr"),
        catalogue=parts[0].catalogue,
        **flat,
    )


def _newer(live: LiveCounts) -> LiveCounts:
    """The same counts over a catalogue with one more movie, which nobody has met."""
    old = live.catalogue
    catalogue = Catalogue(
        np.append(old.ids, "golden-newer-movie"),
        np.append(old.titles, ""),
        np.concatenate([old.genres, np.zeros((1, old.genres.shape[1]), old.genres.dtype)]),
        old.genre_names,
    )
    return replace(live, counts=np.pad(live.counts, ((0, 0), (0, 1))), catalogue=catalogue)


def read_only(request: Golden) -> Golden:
    """A copy that the model cannot alter by accident."""
    arrays = {name: getattr(request.histories, name).copy() for name in ARRAYS}
    counts = request.live.counts.copy()
    for array in (*arrays.values(), counts):
        array.flags.writeable = False
    return replace(request, histories=replace(request.histories, **arrays), live=replace(request.live, counts=counts))


def fingerprint(request: Golden) -> bytes:
    """Changes where the model altered what it was given."""
    parts = [getattr(request.histories, name).tobytes() for name in ARRAYS]
    return blake2b(b"".join([*parts, request.live.counts.tobytes()]), digest_size=16).digest()

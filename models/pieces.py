"""Texts between lists and arrays, in pieces: one call for all of them keeps the interpreter for milliseconds, and the
requests that are answered beside it wait."""

from collections.abc import Iterator, Sequence

import numpy as np

PIECE = 1000


def texts(values: Sequence[str]) -> np.ndarray:
    """(n,) str, the same as `np.array(values, np.str_)`."""
    array = np.empty(len(values), f"U{max(map(len, values), default=0) or 1}")
    for part in pieces(len(values)):
        array[part] = values[part]
    return array


def listed(array: np.ndarray) -> list[str]:
    """The same as `array.tolist()`."""
    found: list[str] = []
    for part in pieces(len(array)):
        found += array[part].tolist()
    return found


def pieces(size: int) -> Iterator[slice]:
    for start in range(0, size, PIECE):
        yield slice(start, start + PIECE)

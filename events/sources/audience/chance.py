"""Chance that needs no order: every draw is a hash of what it is for, so nobody's luck depends on who came before.

One viewer's draws are splitmix64 (Steele, Lea and Flood 2014) over a key and a counter; what is made by the day comes
from a Philox generator of its own, named by the seed and the day.
"""

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

_STEP = 0x9E3779B97F4A7C15  # of splitmix64: 2^64 over the golden ratio
_MASK = (1 << 64) - 1
_COUNTERS = (np.arange(1 << 14, dtype=np.uint64) + np.uint64(1)) * np.uint64(_STEP)
_A, _B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


def key_of(*parts: object) -> int:
    """64 bits of a hash over the parts."""
    return int.from_bytes(blake2b("\x00".join(map(str, parts)).encode(), digest_size=8).digest())


def keys_of(seed: int, what: str, names: Iterable[str]) -> np.ndarray:
    """(n,) uint64: the key of each name."""
    return np.fromiter((key_of(seed, what, name) for name in names), np.uint64)


def generator(seed: int, *what: object) -> np.random.Generator:
    """A source of chance for one purpose, such as the movies of a day."""
    return np.random.Generator(np.random.Philox(key=key_of(seed, *what)))


def mixed(keys: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64, uint64 to uint64."""
    x = (keys ^ (keys >> _30)) * _A
    x = (x ^ (x >> _27)) * _B
    return x ^ (x >> _31)


def salted(keys: np.ndarray, *salts: int | np.ndarray) -> np.ndarray:
    """Other keys, one for each purpose or moment: uint64 of the shape of `keys` and the salts."""
    for salt in salts:
        keys = mixed(keys + np.asarray(salt, np.uint64) * np.uint64(_STEP))
    return keys


def uniform(keys: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), one for each key."""
    return (mixed(keys) >> _11) * 2.0**-53


def draws(keys: np.ndarray, moments: int | np.ndarray, count: int) -> np.ndarray:
    """(n, count) numbers in [0, 1) of n viewers, each at one moment."""
    return uniform(salted(keys, moments)[:, None] ^ _COUNTERS[:count])


def uniforms(key: int, moment: int, rows: int, columns: int) -> np.ndarray:
    """(rows, columns) numbers in [0, 1) of one viewer at one moment."""
    count = rows * columns
    counters = (
        _COUNTERS[:count] if count <= len(_COUNTERS) else np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_STEP)
    )
    base = np.uint64((key ^ (moment * _STEP)) & _MASK)
    return uniform(counters ^ base).reshape(rows, columns)

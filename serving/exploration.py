"""Exploration: a share of the model's requests gets its movies in random order, so that what would have come of other
slates can be told from the journal.

Of the n <= `TOP` best movies each is as likely as any other on each place of an explored slate. So, with a share e,
movie i is on place p with propensity (1 - e) * [it is the model's choice there] + e / n: of every slate of the model,
explored or not, each place is journaled with it. Places beyond `TOP` are the model's in every slate.

What is drawn depends on the request's id alone, by a keyed hash: it can be done again, and sticks to no viewer.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b, shake_256
from typing import NamedTuple

TOP = 100
WHETHER, ORDER = b"greenlight exploration", b"greenlight order of "  # permanent: a journaled draw can be done again
STEPS = 1 << 64

_whether = blake2b(digest_size=8, key=WHETHER)  # a copy costs less than another beginning


class Draw(NamedTuple):
    """What to show of the best movies: their places among them, and each one's propensity where it is shown."""

    places: Sequence[int]
    propensities: list[float]


def explored(request_id: str, share: float, k: int, best: int) -> Draw | None:
    """The k places to show of the `best` many movies, or all, where the request is among the share that is explored."""
    if not is_explored(request_id, share):
        return None
    shown, n = min(k, best), min(TOP, best)
    order = random_order(request_id, n, min(k, n))
    chosen, other = own_propensities(share, k, best), share / n
    propensities = [chosen[place] if there == place else other for place, there in enumerate(order)]
    return Draw([*order, *range(len(order), shown)], propensities + chosen[len(order) :])


@lru_cache
def own_propensities(share: float, k: int, best: int) -> list[float]:
    """Those of the model's own slate, which is the first k of the best. Not to be changed: all share one list."""
    shown, n = min(k, best), min(TOP, best)
    drawn = min(shown, n)
    return [1 - share + share / n] * drawn + [1.0] * (shown - drawn)


def is_explored(request_id: str, share: float) -> bool:
    """Whether the request is among the share that is explored."""
    if not share:
        return False
    number = _whether.copy()
    number.update(request_id.encode())
    return int.from_bytes(number.digest()) < share * STEPS


def random_order(request_id: str, n: int, k: int) -> list[int]:
    """k different numbers below n in a random order, each order as likely as any other (Fisher and Yates)."""
    bits = shake_256(ORDER + request_id.encode()).digest(8 * k)
    numbers = list(range(n))
    for place in range(k):
        other = place + int.from_bytes(bits[8 * place : 8 * place + 8]) % (n - place)
        numbers[place], numbers[other] = numbers[other], numbers[place]
    return numbers[:k]

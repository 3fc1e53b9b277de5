"""Has the audience moved? Two windows of traffic compared column by column, whole viewers at a time.

The rows of a viewer resemble each other, so a test that takes rows for independent rejects far too often on
recommender traffic. Here the labels *reference* and *current* are dealt out anew among whole viewers: under "nothing
moved" every deal is as likely as the one that was seen. The statistic of a column sums, over its bins, the squared
difference of shares in units of its own spread over the deals; of ordered columns the shares are summed up first, so
that many small steps in one direction count. Holm (1979) holds the level over all columns together.

A viewer who is in both windows takes part with two rows, one for each. They resemble each other, which makes the test
cautious rather than hasty; newcomers with other tastes are found all the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

BATCH = 200  # deals at once: they bound the memory, (BATCH, viewers) float32
FEW = 10  # viewers: what fewer had is no loss when nobody has it
NAMED = 3  # bins that a sentence names
SMALL = 0.1  # of the largest change: a smaller one is not named


@dataclass(frozen=True, eq=False)
class Column:
    """What one question says of each viewer, in both windows, over the same bins.

    reference, current: (viewers, bins) how much of the viewer falls into each bin, already capped; not negative.
    ordered: the bins are steps of a scale. what: what the shares are of, in words.
    missing: the share of what should have a value and has none, in the reference and the current window; 1: no data.
    """

    name: str
    bins: tuple[str, ...]
    reference: np.ndarray
    current: np.ndarray
    what: str
    ordered: bool = False
    missing: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Bin:
    name: str
    before: float  # share in the reference window
    after: float


@dataclass(frozen=True)
class Found:
    """What became of a column. p: adjusted over all columns (Holm); None where it was not tested, for the reason `why`.

    change: half the sum of the differences of shares, 0 (same) to 1 (nothing in common). moved: at the family's level.
    """

    name: str
    what: str
    p: float | None
    moved: bool
    change: float
    bins: tuple[Bin, ...]
    missing: tuple[float, float]
    lost: bool = False  # the reference had data, the current window has none
    why: str = ""

    @property
    def appeared(self) -> tuple[str, ...]:
        """Bins that the reference did not have."""
        return tuple(b.name for b in self.bins if b.before == 0 < b.after)

    @property
    def vanished(self) -> tuple[str, ...]:
        return tuple(b.name for b in self.bins if b.after == 0 < b.before)


def least_deals(columns: int, level: float) -> int:
    """How many deals it takes for the smallest possible p to lie well below Holm's strictest limit."""
    return math.ceil(3 * max(1, columns) / level)


def compare(
    columns: Sequence[Column], *, level: float, least_change: float = 0.0, deals: int = 0, seed: int = 0
) -> tuple[Found, ...]:
    """Test every column that both windows have data for. `deals`: at least `least_deals` are made.

    least_change: a column whose shares change less has not moved, however certain the change is. Bins that are not
    finite count as empty. The same seed gives the same answer.
    """
    clean = [_finite(column) for column in columns]
    tested = [column for column in clean if not _untested(column)]
    raw = _permuted(tested, max(deals, least_deals(len(tested), level)), seed) if tested else np.empty(0)
    adjusted = dict(zip((c.name for c in tested), holm(raw).tolist(), strict=True))
    return tuple(_found(column, adjusted.get(column.name), level, least_change) for column in clean)


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values, (n,): those at most the level are rejected with that family-wise error (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, steps)
    return adjusted


def _finite(column: Column) -> Column:
    before, after = (np.where(np.isfinite(part), part, 0.0) for part in (column.reference, column.current))
    return replace(column, reference=before, current=after)


def _untested(column: Column) -> str:
    """Why a column cannot be tested; empty where it can."""
    before, after = bool(column.reference.sum()), bool(column.current.sum())
    if not before and not after:
        return "neither window has any data of it"
    if not after:
        return "the current window has no data of it"
    return "" if before else "the reference has no data of it"


def _permuted(columns: Sequence[Column], deals: int, seed: int) -> np.ndarray:
    """(columns,) p-values, each at least 1 / (deals + 1). One matrix product for all columns and a batch of deals."""
    bins = np.concatenate([np.vstack([c.reference, c.current]) for c in columns], axis=1, dtype=np.float32)
    edges = np.cumsum([0, *(len(c.bins) for c in columns)])
    labels = np.zeros(len(bins), bool)  # True: of the current window
    labels[len(columns[0].reference) :] = True
    rng, whole = np.random.default_rng(seed), bins.sum(axis=0, dtype=np.float64)
    sums = [labels.astype(np.float32)[None] @ bins]
    for done in range(0, deals, BATCH):
        dealt = np.tile(labels, (min(BATCH, deals - done), 1))
        sums.append(rng.permuted(dealt, axis=1).astype(np.float32) @ bins)
    current = np.concatenate(sums).astype(np.float64)  # (1 + deals, bins); the first is what was seen
    return np.array(
        [
            _p(_differences(current[:, a:b], whole[a:b], column.ordered))
            for a, b, column in zip(edges[:-1], edges[1:], columns, strict=True)
        ]
    )


def _differences(current: np.ndarray, whole: np.ndarray, ordered: bool) -> np.ndarray:
    """(deals, bins) current share less reference share; of ordered bins, the shares up to each bin."""
    difference = _shares(current) - _shares(np.maximum(whole - current, 0.0))
    return np.cumsum(difference, axis=1) if ordered else difference


def _shares(sums: np.ndarray) -> np.ndarray:
    total = sums.sum(axis=-1, keepdims=True)
    return np.divide(sums, total, out=np.zeros_like(sums, dtype=float), where=total > 0)


def _p(differences: np.ndarray) -> float:
    """How often a deal differs at least as much as what was seen, which is the first row and one of them."""
    spread = differences.std(axis=0)
    varies = spread > 1e-9
    statistic = np.square(differences[:, varies] / spread[varies]).sum(axis=1)
    return float(np.mean(statistic >= statistic[0] * (1 - 1e-9)))


def _found(column: Column, p: float | None, level: float, least_change: float) -> Found:
    before, after = (_shares(part.sum(axis=0)) for part in (column.reference, column.current))
    bins = tuple(Bin(name, float(b), float(a)) for name, b, a in zip(column.bins, before, after, strict=True))
    why = _untested(column)
    change = 0.0 if why else float(np.abs(after - before).sum() / 2)
    lost = column.reference.any(axis=1).sum() >= FEW and not column.current.any()
    moved = p is not None and p <= level and change >= least_change
    return Found(column.name, column.what, p, moved, change, bins, column.missing, bool(lost), why)


def in_words(found: Found) -> str:
    """One sentence: what moved, with sizes; or that nothing did; or why that cannot be told."""
    if found.why:
        return f"{found.name}: {found.why}"
    if not found.moved:
        return f"{found.name}: quiet (p {found.p:.2g}, {percent(found.change)} of {found.what} changed)"
    moved = sorted(found.bins, key=lambda b: (-abs(b.after - b.before), b.name))
    least = SMALL * max((abs(b.after - b.before) for b in moved), default=0.0)
    named = [b for b in moved if abs(b.after - b.before) > least][:NAMED]
    also = [b for b in moved[NAMED:] if b.name in (*found.appeared, *found.vanished)][:NAMED]
    return f"{found.name}: " + ", ".join(_step(b) for b in [*named, *also]) + f" of {found.what}"


def _step(b: Bin) -> str:
    if b.before == 0:
        return f"{b.name} is new, with {percent(b.after)}"
    if b.after == 0:
        return f"{b.name} vanished, from {percent(b.before)}"
    return f"{b.name} {'rose' if b.after > b.before else 'fell'} from {percent(b.before)} to {percent(b.after)}"


def percent(share: float) -> str:
    """A share in words; small ones with two digits that count."""
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.2g} %"

"""How torch fits SASRec (models/sasrec.py): the network, the examples it learns from, when to stop.

An example is a viewer on a morning: the last interactions of before, and what the viewer then liked that day. Against
each liking stand draws from what others liked that day and this viewer had not seen; the loss is the cross-entropy
(better than BCE with few negatives, which overstates: Petrov and Macdonald 2023, arXiv 2308.07192).
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import svds
from torch import Tensor, nn
from torch.nn import functional

from events.event import POSITIVE
from models.interactions import DAY_MS, RECENT, Interactions
from models.sasrec import AGES, ages
from models.signals import genre_shares

if TYPE_CHECKING:
    from models.sasrec import SASRecConfig

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the lift, among which held-out days choose
MIN_LIKINGS = 300  # among the examples; with fewer there is nothing to learn and popularity is served
OFTEN = (
    3  # likings that a movie must have on a day to teach anything: rarer ones tell of the tail, which nobody is shown
)
WINDOWS = 4  # each meets vectors from before it, as service does: many a hot movie has none yet
CAUTION = 0.75  # of the weight that held-out days ask for: they know the popularity of the day, service yesterday's
PATIENCE = 2  # epochs without a better loss on them
BATCH = 128  # viewers and mornings
KEPT = 0.98  # of the running mean of weights, at each step: single steps are noisy
SHRINK = 5.0  # viewers that a movie's vector must be backed by to count half


@dataclass(frozen=True)
class Learned:
    """What a fit found. `curves`: mean loss of a liking by epoch; `weight` is 0 where no lift helped."""

    weights: dict[str, np.ndarray]
    weight: float
    curves: dict[str, list[float]]


def learn(history: Interactions, conf: "SASRecConfig", seed: int, device: str) -> Learned:
    """Find on held-out days when to stop, then learn from all of them; the same seed gives the same weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order
    try:
        with torch.random.fork_rng():
            return _learn(history, conf, seed, _device(device))
    finally:
        torch.set_num_threads(threads)


def _device(wanted: str) -> torch.device:
    return torch.device("cuda" if wanted == "auto" and torch.cuda.is_available() else wanted.replace("auto", "cpu"))


def _learn(history: Interactions, conf: "SASRecConfig", seed: int, device: torch.device) -> Learned:
    edges = _edges(history, conf.recent_share)
    new, genres = vectors(history, conf.size), genre_shares(history.catalogue)
    old = np.concatenate([aligned(vectors(history.before(edge), conf.size), new) for edge in edges[:-1]])
    examples = Examples.of(history, edges, conf.negatives, np.random.default_rng(seed))

    def epochs(on: Examples, most: int) -> "Iterator[tuple[float, Network]]":
        torch.manual_seed(seed)
        return _epochs(Network(old, genres, conf).to(device), on, conf, np.random.default_rng(seed), most)

    if len(examples.liked) < MIN_LIKINGS:
        return Learned(_plain(Network(old, genres, conf), new), 0.0, {})
    held_out = examples.now >= edges[-2]  # the last window says when to stop
    early, late = examples.rows(~held_out), examples.rows(held_out)
    curves: dict[str, list[float]] = {"train_loss": [], "validation_loss": []}
    best, stop, weight = math.inf, 0, 0.0
    for epoch, (loss, averaged) in enumerate(epochs(early, conf.max_epochs), 1):
        found = _losses(averaged, late)
        curves["train_loss"].append(loss)
        curves["validation_loss"].append(float(found.min()))
        if found.min() < best:
            best, stop, weight = float(found.min()), epoch, WEIGHTS[int(found.argmin())]
        elif epoch - stop >= PATIENCE:
            break
    *_, (_, final) = epochs(examples, max(stop, 1))
    return Learned(_plain(final, new), CAUTION * weight, curves)


def _edges(history: Interactions, share: float) -> list[int]:
    """Edges of the training windows, midnights of the history's own days: they hold that share of all interactions."""
    first = int(history.times[int(len(history) * (1 - share))]) if len(history) else history.end_ms
    days = -(-(history.end_ms - first) // (WINDOWS * DAY_MS))  # of each
    return [history.end_ms - back * days * DAY_MS for back in range(WINDOWS, -1, -1)]


# Vectors --------------------------------------------------------------------------------------------------------------


def vectors(history: Interactions, size: int) -> np.ndarray:
    """(items, size) float32 right singular vectors of who met what, both sides normalised; the first, which is
    popularity, left out. Length 1, less where few viewers back it, 0 for movies that nobody met."""
    seen = history.matrix()
    viewers, met = np.maximum(seen.sum(axis=1), 1.0), np.asarray(seen.sum(axis=0))
    scaled = csr_array(diags_array(viewers**-0.5) @ seen @ diags_array((met + SHRINK) ** -0.5), dtype=np.float64)
    rows, columns = np.flatnonzero(np.diff(scaled.indptr)), np.flatnonzero(met)
    found = np.zeros((len(met), size), np.float32)
    if min(len(rows), len(columns)) < 2:
        return found
    right = _right_singular(csr_array(scaled[rows][:, columns]), size + 1)[:, 1:]
    right /= np.maximum(np.linalg.norm(right, axis=1, keepdims=True), 1e-3)
    found[columns, : right.shape[1]] = right * np.sqrt(met / (met + SHRINK))[columns, None]
    return found


def _right_singular(matrix: csr_array, count: int) -> np.ndarray:
    """(columns, <= count) right singular vectors times the roots of their values, largest first."""
    if min(matrix.shape) <= 4 * count:
        _, values, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
    else:
        _, values, right = svds(matrix, k=count, v0=np.ones(min(matrix.shape)))
    order = np.argsort(-values)[:count]
    return right[order].T * np.sqrt(values[order])


def aligned(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """The new vectors turned so that they lie as near to the old ones as they can (orthogonal Procrustes)."""
    left, _, right = np.linalg.svd(new.T @ old)
    return np.ascontiguousarray(new @ (left @ right), np.float32)


# Examples -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Examples:
    """Viewers on mornings, and likings of those days.

    items, times, strengths: (m, n) the last n <= 50 interactions of before, newest last, item -1 where there were
    fewer; now: (m,) each morning in ms. Likings: liked (l,) of whom, a row; candidates: (l, 1 + k) items, the liked one
    first; barred: (l, 1 + k) those that the viewer knew or liked as well. An item is the number of its window times
    the size of the catalogue, plus its code: there lies its vector as it was known in that window.
    """

    items: np.ndarray
    times: np.ndarray
    strengths: np.ndarray
    now: np.ndarray
    liked: np.ndarray
    candidates: np.ndarray
    barred: np.ndarray

    @classmethod
    def of(cls, history: Interactions, edges: list[int], negatives: int, rng: np.random.Generator) -> Self:
        """Every viewer with a past who liked something often liked, on every day of the windows."""
        past = history.latest()
        users, items, times, strengths = (
            column[past.by_viewer] for column in (past.users, past.items, past.times, past.strengths)
        )
        days = (times - past.end_ms) // DAY_MS  # -1 is the last day
        taught = (times >= edges[0]) & (strengths >= POSITIVE) & _often(days, items, strengths >= POSITIVE)
        mornings = users.astype(np.int64) * (days.max(initial=0) - days.min(initial=0) + 1) + days - days.min(initial=0)
        first = np.searchsorted(mornings, mornings)  # row of the viewer's first interaction of that day
        begin = np.searchsorted(users, users)  # and of the first ever
        target = np.flatnonzero(taught & (first > begin))
        asked, liked = np.unique(first[target], return_inverse=True)
        at = asked[:, None] - RECENT + np.arange(RECENT)  # (m, n)
        there = at >= begin[asked][:, None]
        drawn = _drawn(days, items, np.flatnonzero(taught), days[target], negatives, rng)
        candidates = np.concatenate([items[target][:, None], drawn], axis=1)
        barred = _known(users, items, days, users[target], candidates, days[target])
        barred[:, 0] = False
        now = past.end_ms + days[asked] * DAY_MS
        window = len(history.catalogue) * (np.searchsorted(edges, now, side="right") - 1)[:, None]
        return cls(
            np.where(there, items[at] + window, -1),
            times[at],
            strengths[at],
            now,
            liked,
            candidates + window[liked],
            barred,
        )

    def rows(self, kept: np.ndarray) -> "Examples":
        """Those of the given rows (numbers or a mask), in that order."""
        rows = np.flatnonzero(kept) if kept.dtype == bool else kept
        place = np.full(len(self.items), -1)
        place[rows] = np.arange(len(rows))
        mine = np.flatnonzero(place[self.liked] >= 0)
        return Examples(
            self.items[rows],
            self.times[rows],
            self.strengths[rows],
            self.now[rows],
            place[self.liked[mine]],
            self.candidates[mine],
            self.barred[mine],
        )


def _often(days: np.ndarray, items: np.ndarray, liked: np.ndarray) -> np.ndarray:
    """Whether the movie of each row was liked often enough on the row's day."""
    _, pair = np.unique(days * (int(items.max(initial=0)) + 1) + items, return_inverse=True)
    return np.bincount(pair, weights=liked)[pair] >= OFTEN


def _drawn(
    days: np.ndarray, items: np.ndarray, taught: np.ndarray, wanted: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """(wanted, count) items of likings drawn from those of each wanted day."""
    pool = taught[np.argsort(days[taught], kind="stable")]
    low, high = (np.searchsorted(days[pool], wanted, side=side)[:, None] for side in ("left", "right"))
    return (
        items[pool[low + (rng.random((len(wanted), count)) * (high - low)).astype(np.int64)]]
        if len(pool)
        else np.zeros((0, count), items.dtype)
    )


def _known(
    users: np.ndarray, items: np.ndarray, days: np.ndarray, viewers: np.ndarray, asked: np.ndarray, until: np.ndarray
) -> np.ndarray:
    """Whether each viewer had met each of the asked items (viewers, k) by the end of that day."""
    width = int(items.max(initial=0)) + 1
    pairs = users.astype(np.int64) * width + items
    order = np.argsort(pairs)
    wanted = viewers.astype(np.int64)[:, None] * width + asked
    at = order[np.minimum(np.searchsorted(pairs, wanted, sorter=order), max(len(order) - 1, 0))]
    return (pairs[at] == wanted) & (days[at] <= until[:, None])


# The network ----------------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """The forward pass of models/sasrec.py, with dropout; its parameters have the names of the saved weights."""

    items: Tensor
    shares: Tensor

    def __init__(self, vectors: np.ndarray, shares: np.ndarray, conf: "SASRecConfig") -> None:
        super().__init__()
        d, self.heads = conf.size, conf.heads
        self.register_buffer("items", torch.from_numpy(vectors))
        self.register_buffer("shares", torch.from_numpy(shares))
        self.genres = nn.Parameter(0.1 * torch.randn(shares.shape[1], d))
        self.turn = nn.Parameter(0.1 * torch.randn(d, d))
        self.strengths = nn.Parameter(0.02 * torch.randn(2, d))
        self.ages_between = nn.Parameter(torch.zeros(conf.heads, AGES))
        self.ages_now = nn.Parameter(torch.zeros(AGES, d))
        self.norm_in, self.norm_mid, self.norm_out = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.keys_values, self.ask, self.gather = nn.Linear(d, 2 * d), nn.Linear(d, d), nn.Linear(d, d)
        self.widen, self.narrow, self.query = nn.Linear(d, 2 * d), nn.Linear(2 * d, d), nn.Linear(d, d)
        self.drop = nn.Dropout(conf.dropout)

    def forward(self, items: Tensor, liked: Tensor, between: Tensor, now: Tensor) -> Tensor:
        """Queries (b, d) of items (b, n), newest last, -1 where none; liked (b, n) 0 or 1; classes of age: `between`
        (b, n) before the newest, `now` (b,) of the newest."""
        count, n = items.shape
        known = items.clamp(min=0)
        x = self.drop(self.items[known] + self.shares[known % len(self.shares)] @ self.genres + self.strengths[liked])
        both = self.keys_values(self.norm_in(x)).view(count, n, 2, self.heads, -1)
        keys, values = both.permute(2, 0, 3, 1, 4)  # (b, heads, n, d / heads) each
        last = x[:, -1:]
        asked = self.ask(self.norm_in(last)).view(count, self.heads, 1, -1)
        match = (asked @ keys.transpose(2, 3))[:, :, 0] / math.sqrt(keys.shape[-1])
        match = match + self.ages_between.T[between].transpose(1, 2)
        attention = match.masked_fill((items < 0)[:, None], -math.inf).softmax(dim=2)
        last = last + self.drop(self.gather((attention[:, :, None] @ values).reshape(count, 1, -1)))
        wide = functional.gelu(self.widen(self.norm_mid(last)), approximate="tanh")
        last = last + self.drop(self.narrow(wide))
        return self.query(self.norm_out(last))[:, 0] + self.ages_now[now]

    def lift(self, on: Examples) -> Tensor:
        """(likings, 1 + k) lifts of the candidates, -inf where barred."""

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.turn.device)

        longest = int((on.items >= 0).sum(axis=1).max(initial=1))
        items, times, strengths = (part[:, -longest:] for part in (on.items, on.times, on.strengths))
        liked, newest = (strengths >= POSITIVE).astype(np.int64), times[:, -1]
        queries = self(
            tensor(items.astype(np.int64)),
            tensor(liked),
            tensor(ages(newest[:, None] - times)),
            tensor(ages(on.now - newest)),
        )
        candidates = tensor(on.candidates.astype(np.int64))
        values = self.items[candidates] @ self.turn.T + self.shares[candidates % len(self.shares)] @ self.genres
        lift = torch.einsum("ld,lkd->lk", queries[tensor(on.liked)], values)
        return lift.masked_fill(tensor(on.barred), -math.inf)


def _epochs(
    network: Network, on: Examples, conf: "SASRecConfig", rng: np.random.Generator, most: int
) -> Iterator[tuple[float, Network]]:
    """After each epoch: the mean loss of a liking, and the network with its running mean of weights."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=conf.learning_rate, weight_decay=conf.weight_decay)
    averaged = copy.deepcopy(network).eval()
    for _ in range(most):
        total = 0.0
        for batch in _batches(on, rng):
            loss = _cross_entropy(network.train().lift(batch)).sum()
            (loss / len(batch.liked)).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            with torch.no_grad():
                for mean, now in zip(averaged.parameters(), network.parameters(), strict=True):
                    mean.lerp_(now, 1 - KEPT)
            total += loss.item()
        yield total / len(on.liked), averaged


def _batches(on: Examples, rng: np.random.Generator) -> Iterator[Examples]:
    """In an order drawn anew; those of one batch have about the same length, so that little is padded."""
    lengths = (on.items >= 0).sum(axis=1)
    order = np.lexsort((rng.random(len(lengths)), lengths // 5))
    parts = np.array_split(order, max(-(-len(order) // BATCH), 1))
    for part in rng.permutation(len(parts)):
        yield on.rows(parts[part])


def _cross_entropy(lift: Tensor) -> Tensor:
    """(likings,) each: minus the log of the share that the first candidate has of them all."""
    return torch.logsumexp(lift, dim=1) - lift[:, 0]


def _losses(network: Network, on: Examples) -> np.ndarray:
    """Mean loss of a liking at each of WEIGHTS times the lift."""
    total = np.zeros(len(WEIGHTS))
    with torch.no_grad():
        for part in np.array_split(np.arange(len(on.items)), max(len(on.items) // (4 * BATCH), 1)):
            lift = network.lift(on.rows(part))
            barred = lift.isneginf()
            for row, weight in enumerate(WEIGHTS):
                scaled = (weight * lift.masked_fill(barred, 0.0)).masked_fill(barred, -math.inf)
                total[row] += _cross_entropy(scaled).sum().item()
    return total / len(on.liked)


def _plain(network: Network, vectors: np.ndarray) -> dict[str, np.ndarray]:
    """The weights by name, with these vectors of movies."""
    found = {name: value.detach().cpu().numpy() for name, value in network.named_parameters()}
    return {**found, "items": vectors}

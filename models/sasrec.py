"""SASRec (Kang and McAuley 2018, arXiv 1808.09781) as a lift: attention over a viewer's last interactions.

By time, popularity beats a sequence model alone, so this one learns only who deviates from it: slates are ordered by
log decayed popularity plus weight x lift. The lift is trained to tell a viewer's likings of a day from what others
liked that same day: likings drawn in proportion to popularity, left uncorrected (Yi et al. 2019 correct for it), leave
the log of the ratio to popularity. Movies enter as vectors from a factorisation (PureSVD: Cremonesi et al. 2010);
vectors learned with the network had seen their own answers and overfitted within two epochs.

torch fits it (models/sasrec_fit.py); here is the same forward pass in NumPy, which is what serves. Measured on one
thread: a viewer's query takes 0.2 ms instead of torch's 0.3, equal to 3e-7, and a process without torch is 1.4 s of
processor time and 475 MB smaller.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from safetensors.numpy import load_file, save_file
from threadpoolctl import threadpool_limits

from events.event import POSITIVE
from models.base import Recommender
from models.ease import most_popular
from models.interactions import DAY_MS, Catalogue, Histories, Interactions, LiveCounts, histories_of
from models.ranker import CHOICE_DAYS, best_half_life
from models.shared import Shared
from models.signals import genre_shares

if TYPE_CHECKING:
    import optuna

HOUR_MS = 3_600_000
AGES = 12  # classes of age: under 1 h, 3 h, 7 h, ..., 2,047 h, and older
EDGES_MS = (2 ** np.arange(1, AGES) - 1) * HOUR_MS
LONG_DAYS = 365.0  # half-life of the popularity that orders what has faded
SMALLEST = 1e-12  # its weight there
ACTIVE_DAYS = 60  # viewers seen in so many days say what is usual
REFERENCE = 3000  # at most so many of them

Weights = Mapping[str, np.ndarray]  # float32, by the names of sasrec_fit.Network's parameters


@dataclass(frozen=True)
class SASRecConfig:
    """Defaults: a few values of some were compared on MovieTweetings, in the two windows of 25.75 days before the test
    window; none was found by a search.
    """

    half_life_days: float | None = None  # of the popularity that orders; None: what predicted the last days best
    weight: float | None = None  # of the lift against log popularity; None: by what predicted the held-out days best
    hot: int = 200  # the most popular movies, which a lift may move: of others too little is known
    size: int = 32  # of a movie's vector; 64 overfitted sooner
    heads: int = 2
    negatives: int = 64  # drawn for each liking; 256 were no better
    dropout: float = 0.1
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    max_epochs: int = 12  # it stops sooner, where held-out days say so
    recent_share: float = 0.25  # newest interactions that train the network; the older ones made the vectors it sees

    @classmethod
    def suggest(cls, trial: "optuna.Trial") -> Self:
        return cls(
            hot=trial.suggest_int("hot", 50, 400, log=True),
            dropout=trial.suggest_float("dropout", 0.0, 0.4),
            learning_rate=trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True),
            weight_decay=trial.suggest_float("weight_decay", 1e-2, 1.0, log=True),
        )


class SASRec(Recommender):
    """Learns the network's weights, what is usual among viewers, and how much the lift is worth."""

    Config = SASRecConfig
    config: SASRecConfig
    half_life_days: float  # the one that was chosen
    weight: float  # of the lift; 0 where there was too little to learn from, or no lift helped
    genre_names: list[str]
    weights: Weights
    usual: np.ndarray  # (size,) float32: the mean viewer, taken off everybody
    _stages: "Shared[Stage]"

    @property
    def half_lives_days(self) -> tuple[float, ...]:
        chosen = getattr(self, "half_life_days", self.config.half_life_days)
        return (1.0 if chosen is None else chosen, LONG_DAYS)

    def fit(self, history: Interactions) -> Self:
        from models import sasrec_fit  # torch takes seconds to import: only who fits pays

        self.half_life_days = self.config.half_life_days or best_half_life(history, CHOICE_DAYS)
        self.genre_names = list(history.catalogue.genre_names)
        with threadpool_limits(1, "blas"):
            found = sasrec_fit.learn(history, self.config, self.seed, self.device)
            self.weights, self.curves = found.weights, found.curves
            self.weight = found.weight if self.config.weight is None else self.config.weight * (found.weight > 0)
            self.usual = np.zeros(self.config.size, np.float32)
            self.usual = self._usual(history)
        self._stages = Shared()
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        """(viewers, items) float32: log popularity, plus the lift at hot movies for viewers with a history."""
        at = self._at(live)
        scores = np.tile(at.base, (len(histories), 1))
        if self.weight == 0 or len(at.hot) == 0:
            return scores
        lengths = np.diff(histories.indptr)
        for length in np.unique(lengths[lengths > 0]).tolist():
            rows = np.flatnonzero(lengths == length)
            queries = self._queries(histories, rows, length, now_ms, at.genres)
            lift = queries[:, None, :] @ at.values  # one product for each viewer: see `read`
            scores[rows[:, None], at.hot] += np.float32(self.weight) * lift[:, 0]
        return scores

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({**self.weights, "usual": self.usual}, folder / "weights.safetensors")
        plain = {name: getattr(self, name) for name in ("half_life_days", "weight", "genre_names")}
        (folder / "learned.json").write_text(json.dumps(plain, indent=1, sort_keys=True))

    def load(self, folder: Path) -> Self:
        for name, value in json.loads((folder / "learned.json").read_text()).items():
            setattr(self, name, value)
        weights = load_file(folder / "weights.safetensors")
        self.usual = weights.pop("usual")
        self.weights = weights
        self._stages = Shared()
        return self

    def _queries(
        self, histories: Histories, rows: np.ndarray, length: int, now_ms: int, genres: np.ndarray
    ) -> np.ndarray:
        """(rows, size) float32: what those viewers, each with `length` interactions, ask movies for."""
        at = histories.indptr[rows][:, None] + np.arange(length)  # (rows, length)
        items, times = histories.items[at], histories.times[at]
        vectors = vectors_of(self.weights, items) + genres[items] @ self.weights["genres"]
        liked = (histories.strengths[at] >= POSITIVE).astype(np.int64)
        return read(self.weights, vectors, liked, times, now_ms, self.config.heads) - self.usual

    def _at(self, live: LiveCounts) -> "Stage":
        return self._stages.at(live, lambda: self._set_up(live))

    def _set_up(self, live: LiveCounts) -> "Stage":
        popularity, long = (live.decayed(days) for days in self.half_lives_days)
        hot = np.sort(most_popular(popularity, self.config.hot, live.catalogue.tie_breaks)).astype(np.int64)
        base = np.log(popularity + SMALLEST * (SMALLEST + long)).astype(np.float32)
        genres = self._genres(live.catalogue)
        values = vectors_of(self.weights, hot) @ self.weights["turn"].T + genres[hot] @ self.weights["genres"]
        return Stage(hot, base, genres, np.ascontiguousarray(values.T))

    def _genres(self, catalogue: Catalogue) -> np.ndarray:
        return genre_shares(catalogue, tuple(self.genre_names))

    def _usual(self, history: Interactions) -> np.ndarray:
        """The mean query of active viewers: what everybody would be shown more of is popularity's to say."""
        active = np.unique(history.users[history.times >= history.end_ms - ACTIVE_DAYS * DAY_MS])
        viewers = histories_of(history, active[:: max(len(active) // REFERENCE, 1)], history.end_ms)
        lengths, genres = np.diff(viewers.indptr), self._genres(history.catalogue)
        found = [np.zeros((0, self.config.size), np.float32)]
        for length in np.unique(lengths[lengths > 0]).tolist():
            rows = np.flatnonzero(lengths == length)
            found.append(self._queries(viewers, rows, length, history.end_ms, genres))
        queries = np.concatenate(found)
        return queries.mean(axis=0) if len(queries) else self.usual


@dataclass(frozen=True, eq=False)
class Stage:
    hot: np.ndarray  # (h,) int64 codes, ascending
    base: np.ndarray  # (items,) float32: everybody's score before the lift
    genres: np.ndarray  # (items, g) float32 rows that sum to 1, or 0 where a movie has none
    values: np.ndarray  # (size, h) float32: what the hot movies answer to a query


def ages(age_ms: np.ndarray) -> np.ndarray:
    """The class of each age, 0 to AGES - 1; ages below zero count as zero."""
    return np.searchsorted(EDGES_MS, age_ms, side="right")


def vectors_of(weights: Weights, items: np.ndarray) -> np.ndarray:
    """(..., size) vectors of movies by code; zero for those newer than the fit, which have their genres alone."""
    vectors = weights["items"]
    known = items < len(vectors)
    return vectors[np.where(known, items, 0)] * known[..., None] if len(vectors) else np.zeros((*items.shape, 1))


def read(
    weights: Weights, vectors: np.ndarray, liked: np.ndarray, times: np.ndarray, now_ms: int, heads: int
) -> np.ndarray:
    """Queries (viewers, d) float32 of viewers with n interactions each: vectors (viewers, n, d), liked and times
    (viewers, n). The newest interaction asks, all answer, weighted by content and by how long before it they came.

    Every product is stacked, one for each viewer: BLAS rounds one row and many differently, and a viewer's scores must
    not depend on the batch.
    """
    count, n, size = vectors.shape
    x = vectors + weights["strengths"][liked]
    known = _linear(_norm(x, weights, "norm_in"), weights, "keys_values").reshape(count, n, 2, heads, size // heads)
    keys, values = known.transpose(2, 0, 3, 1, 4)  # (viewers, heads, n, d / heads) each
    last = x[:, -1:]
    asked = _linear(_norm(last, weights, "norm_in"), weights, "ask").reshape(count, heads, 1, size // heads)
    match = (asked @ keys.swapaxes(2, 3))[:, :, 0] / np.float32(np.sqrt(size // heads))  # (viewers, heads, n)
    match = match + weights["ages_between"].T[ages(times[:, -1:] - times)].transpose(0, 2, 1)
    match = np.exp(match - match.max(axis=2, keepdims=True))
    attention = match / match.sum(axis=2, keepdims=True)
    last = last + _linear((attention[:, :, None] @ values).reshape(count, 1, size), weights, "gather")
    last = last + _linear(_gelu(_linear(_norm(last, weights, "norm_mid"), weights, "widen")), weights, "narrow")
    return (
        _linear(_norm(last, weights, "norm_out"), weights, "query")[:, 0]
        + weights["ages_now"][ages(now_ms - times[:, -1])]
    )


def _linear(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    spread = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(1e-5))
    return centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _gelu(x: np.ndarray) -> np.ndarray:
    """The tanh form (Hendrycks and Gimpel 2016)."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
    return np.float32(0.5) * x * (np.float32(1.0) + np.tanh(inner))

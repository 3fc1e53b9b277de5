"""The contract of a model: history in, scores out, files without pickle.

A model is a class with a frozen dataclass `Config` and two methods. It is named by its short name (`ease`), by
`package.module.Class`, or by `FILE.py:Class`; nothing else in the project changes when one is added.

    fit(history: Interactions) -> Self
        Learn from everything before `history.end_ms`. Use `self.config` and, for chance, `self.rng()`.
    score(histories: Histories, live: LiveCounts, now_ms: int) -> (viewers, items) float32 or float64
        Higher is better, one row per viewer, one column per movie of `live.catalogue`, which begins with the catalogue
        of the fit and may have newer movies after it. `-inf` means "never"; NaN and +inf are faults.
        A row may depend on that viewer's history, `live` and `now_ms` only: never on who else is in the batch.
        Viewers unseen in training are just histories; an empty history must be answered too.
        Several threads may ask at once, in service also one beside requests: with counts that are not published yet, so
        that what is made once for each `live` (models/shared.py) is there before a request needs it.
    curves
        What `fit` may leave for people to look at: values by epoch under names such as `validation_loss`. Training logs
        them to the run; they are not saved with the model.
    device
        `auto`, `cpu` or `cuda`, as the settings say: where a model that can use a GPU fits.
    save(folder) / load(folder)
        By default every attribute set by `fit` that is a NumPy array or sparse matrix goes to `.npy`, plain values to
        JSON; attributes that begin with an underscore stay behind. Override both for anything else; only .npy (no
        objects), .safetensors, .txt (LightGBM), .onnx and .json may be written: there is no pickle anywhere.

Shapes and dtypes of `Interactions`, `Histories` and `LiveCounts` are in `models/interactions.py`.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from scipy.sparse import csr_array, issparse

from models.interactions import DAY_MS, Histories, Interactions, LiveCounts

if TYPE_CHECKING:
    import optuna

NOT_LEARNED = ("config", "seed", "device", "curves")  # attributes that are not saved
DISCOVERY_PLACE = 10  # the place of a slate, counted from 1, that a discovery may take
DISCOVERY_POOL = 20  # the place is drawn among this many best items outside the hot ones


@dataclass(frozen=True)
class NoConfig:
    """Config of a model without settings."""

    @classmethod
    def suggest(cls, trial: "optuna.Trial") -> Self:
        return cls()


class Recommender(ABC):
    Config: ClassVar[Any] = NoConfig  # a frozen dataclass with `suggest`
    config: Any
    device: str = "auto"
    curves: Mapping[str, Sequence[float]] = MappingProxyType({})

    def __init__(self, config: Any = None, seed: int = 0) -> None:
        self.config = self.Config() if config is None else config
        self.seed = seed

    def rng(self) -> np.random.Generator:
        """The source of chance of this model: the same seed gives the same model."""
        return np.random.default_rng(self.seed)

    @property
    def half_lives_days(self) -> tuple[float, ...]:
        """Half-lives at which `live` must hold counts when `score` is called."""
        return ()

    @abstractmethod
    def fit(self, history: Interactions) -> Self:
        """Learn from everything before `history.end_ms`."""

    @abstractmethod
    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        """Scores (viewers, items of `live.catalogue`); higher is better, -inf means never."""

    def discover(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray | None:
        """Scores (viewers, items) for the discovery place, -inf at hot items; None where the model has none."""
        return None

    def slates(self, histories: Histories, live: LiveCounts, now_ms: int, k: int) -> "Slates":
        """Slates of the viewers by the rules below. No model overrides it; one that answers from elsewhere does."""
        return slates(self, histories, live, now_ms, k)

    def save(self, folder: Path) -> None:
        """Write what `fit` learned: arrays as `.npy`, sparse matrices as three of them, plain values as JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        plain: dict[str, Any] = {}
        for name, value in self._learned().items():
            if issparse(value):
                matrix = csr_array(value)
                for part in ("data", "indices", "indptr"):
                    np.save(folder / f"{name}.{part}.npy", getattr(matrix, part), allow_pickle=False)
                plain[name] = {"sparse": [int(n) for n in matrix.shape]}
            elif isinstance(value, np.ndarray):
                np.save(folder / f"{name}.npy", value, allow_pickle=False)
            else:
                plain[name] = {"value": value}
        (folder / "learned.json").write_text(json.dumps(plain, indent=1, sort_keys=True))

    def load(self, folder: Path) -> Self:
        """Read what `save` wrote into this instance, which was made with the same config."""
        for name, how in json.loads((folder / "learned.json").read_text()).items():
            if "sparse" in how:
                data, indices, indptr = (
                    np.load(folder / f"{name}.{p}.npy", allow_pickle=False) for p in ("data", "indices", "indptr")
                )
                setattr(self, name, csr_array((data, indices, indptr), shape=tuple(how["sparse"])))
            else:
                setattr(self, name, how["value"])
        for file in folder.glob("*.npy"):
            if file.stem.count(".") == 0:
                setattr(self, file.stem, np.load(file, allow_pickle=False))
        return self

    def _learned(self) -> dict[str, Any]:
        return {n: value for n, value in vars(self).items() if n not in NOT_LEARNED and not n.startswith("_")}


@dataclass(frozen=True, eq=False)
class Slates:
    """Slates of a batch: items (viewers, places) int32 codes, -1 past a slate's end; scores (viewers, places) float64.

    There are k places, or as many as a reserve behind the slates asks for.
    """

    items: np.ndarray
    scores: np.ndarray
    non_finite: int  # NaN or +inf scores that were dropped


def slates(model: Recommender, histories: Histories, live: LiveCounts, now_ms: int, k: int, reserve: int = 0) -> Slates:
    """The k best unseen movies for each viewer, best first; ties fall by a hash of the movie id.

    With a `reserve` so many places are filled, behind the slate with the best of what is not in it.

    Raises ValueError where the model's answer has the wrong shape or type: the model is at fault, not the viewer.
    """
    shape = (len(histories), len(live.catalogue))
    scores = checked_scores(model.score(histories, live, now_ms), *shape, "score")
    chances = model.discover(histories, live, now_ms) if k >= DISCOVERY_PLACE else None
    if chances is not None:
        chances = checked_scores(chances, *shape, "discover")
    places = max(k, reserve)
    items = np.full((len(histories), places), -1, np.int32)
    picked = np.full((len(histories), places), -np.inf)
    faults = 0
    for viewer in range(len(histories)):  # row by row: a row fits the processor's cache, a batch does not
        row = np.array(scores[viewer])
        if not (finite := np.isfinite(row)).all():
            faults += int(np.count_nonzero(~finite & (row != -np.inf)))
            row[~finite] = -np.inf
        row[histories.seen(viewer)] = -np.inf
        best = top(row, places, live.catalogue.tie_breaks)
        if chances is not None and len(best) >= DISCOVERY_PLACE:
            draw = _discovery(chances[viewer], histories, viewer, live, now_ms, best[:k])
            if draw is not None:
                others = best[best != draw]
                best = np.concatenate([others[: DISCOVERY_PLACE - 1], [draw], others[DISCOVERY_PLACE - 1 :]])[
                    : len(best)
                ]
        items[viewer, : len(best)] = best
        picked[viewer, : len(best)] = row[best]
    return Slates(items, picked, faults)


def top(scores: np.ndarray, k: int, tie_breaks: np.ndarray) -> np.ndarray:
    """Codes of the k highest finite scores of one viewer, (<= k,) int64, best first, ties by `tie_breaks`."""
    k = min(k, len(scores))
    if k <= 0:
        return np.zeros(0, np.int64)
    near = np.flatnonzero(scores >= _floor(scores, k))
    if len(near) > k:
        threshold = np.partition(scores[near], len(near) - k)[len(near) - k]
        above, equal = near[scores[near] > threshold], near[scores[near] == threshold]
        wanted = k - len(above)
        if len(equal) > wanted:
            equal = equal[np.argpartition(tie_breaks[equal], wanted - 1)[:wanted]]
        near = np.concatenate([above, equal])
    best = near[np.lexsort((tie_breaks[near], -scores[near]))]
    return best[scores[best] > -np.inf]


def _floor(scores: np.ndarray, k: int) -> np.floating:
    """A value that at least k of the scores reach, and not many more: the k-th best of the maxima of 4k groups."""
    groups = 4 * k
    whole = len(scores) - len(scores) % groups
    if whole < 2 * groups:
        return scores.min()
    maxima = scores[:whole].reshape(-1, groups).max(axis=0)
    return np.partition(maxima, groups - k)[groups - k]


def checked_scores(scores: np.ndarray, viewers: int, items: int, method: str) -> np.ndarray:
    """The answer of a model if it is (viewers, items) floats; ValueError otherwise."""
    if not isinstance(scores, np.ndarray) or isinstance(scores, np.matrix | np.ma.MaskedArray):
        raise ValueError(f"{method} must return a float array, got {type(scores).__name__}")
    if scores.dtype.kind != "f":
        raise ValueError(f"{method} must return a float array, got {scores.dtype}")
    if scores.dtype not in (np.float32, np.float64):
        raise ValueError(f"{method} must return float32 or float64, got {scores.dtype}")
    if scores.shape != (viewers, items):
        raise ValueError(f"{method} must return shape (viewers, items) = ({viewers}, {items}), got {scores.shape}")
    return scores


def _discovery(
    chances: np.ndarray, histories: Histories, viewer: int, live: LiveCounts, now_ms: int, best: np.ndarray
) -> int | None:
    """One of the best items outside the slate, drawn by hash(user, day): the same all day, another tomorrow."""
    chances = np.array(chances)
    chances[histories.seen(viewer)] = -np.inf
    chances[best] = -np.inf
    left = np.flatnonzero(np.isfinite(chances))
    pool = left[top(chances[left], DISCOVERY_POOL, live.catalogue.tie_breaks[left])]
    if len(pool) == 0:
        return None
    key = f"{histories.viewer_ids[viewer]}\x00{now_ms // DAY_MS}".encode()
    return int(pool[int.from_bytes(blake2b(key, digest_size=8).digest()) % len(pool)])


def settings_of(model: Recommender) -> dict[str, Any]:
    """The model's Config as plain values, for runs and manifests."""
    return asdict(model.config)

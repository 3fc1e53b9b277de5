"""A small world with known answers, and models that behave in one way each. Loaded as a file, as outside models are."""

import json
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.base import Recommender
from models.interactions import DAY_MS, Catalogue, Histories, Interactions, LiveCounts
from models.shared import Shared

END_MS = 1_700_000_000_000
ITEMS = 30


def world(viewers: int = 12, items: int = ITEMS) -> Interactions:
    """Viewer u has met movies u, u + 1 and u + 2; movie m3 was liked most of late."""
    users = np.repeat(np.arange(viewers), 3).astype(np.int32)
    met = ((users + np.tile(np.arange(3), viewers)) % items).astype(np.int32)
    times = END_MS - DAY_MS + np.arange(len(users), dtype=np.int64)
    catalogue = Catalogue(
        ids=np.array([f"m{n}" for n in range(items)]),
        titles=np.array([f"Movie {n}, é" for n in range(items)]),
        genres=np.eye(items, 2, dtype=bool),
        genre_names=("Drama", "Comedy"),
    )
    strengths = np.full(len(users), 0.8, np.float32)
    return Interactions(users, met, times, strengths, np.array([f"u{n}" for n in range(viewers)]), catalogue, END_MS)


@dataclass(frozen=True)
class TinyConfig:
    boosts: tuple[int, ...] = (20, 21)  # codes ranked first

    @classmethod
    def suggest(cls, trial: object) -> "TinyConfig":
        return cls()


class Tiny(Recommender):
    """Ranks the boosted movies first, then by descending code."""

    Config = TinyConfig

    def fit(self, history: Interactions) -> "Tiny":
        self.base = np.arange(len(history.catalogue), dtype=np.float64)
        self.base[list(self.config.boosts)] += 1000
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        return np.tile(self.base, (len(histories), 1))


class Staged(Tiny):
    """Makes something once for all viewers of each `live`; `makers`: the threads that made it."""

    def fit(self, history: Interactions) -> "Staged":
        super().fit(history)
        self._stages, self._makers = Shared[np.ndarray](), list[int]()
        return self

    def load(self, folder: Path) -> "Staged":
        super().load(folder)
        self._stages, self._makers = Shared[np.ndarray](), list[int]()
        return self

    @property
    def makers(self) -> list[int]:
        return self._makers

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        return np.tile(self._stages.at(live, self._make), (len(histories), 1))

    def _make(self) -> np.ndarray:
        self._makers.append(threading.get_ident())
        return self.base


class NotANumber(Tiny):
    """NaN, 0.9, 0.8 and infinity, in this order; the rest never."""

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        scores = np.full((len(histories), len(live.catalogue)), -np.inf)
        scores[:, -4:] = [np.nan, 0.9, 0.8, np.inf]
        return scores


class AllNotANumber(Tiny):
    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        return np.full((len(histories), len(live.catalogue)), np.nan)


class Moody(Tiny):
    """Does for some viewers what a model must not; the others get a slate. What it does is named by the viewer."""

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        for user in histories.viewer_ids:
            if user == "raises":
                raise KeyError("no such weight")
            if user == "exits":
                sys.exit(3)
            if user == "shape":
                return np.zeros((1, 2))
            if user == "text":
                return np.array([["a"] * len(live.catalogue)])
            if user.startswith("sleeps"):
                time.sleep(0.6)
        return super().score(histories, live, now_ms)


class BadName(Tiny):
    def save(self, folder: Path) -> None:
        (folder / "top movies").mkdir(parents=True)
        (folder / "top movies" / "été v1.json").write_text("{}")


class BadSuffix(Tiny):
    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.pkl").write_bytes(b"\x80\x04N.")


class Objects(Tiny):
    def save(self, folder: Path) -> None:
        folder.mkdir()
        np.save(folder / "weights.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


class Link(Tiny):
    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "weights.json").symlink_to("/etc/hostname")


class SaveRaises(Tiny):
    def save(self, folder: Path) -> None:
        raise ZeroDivisionError("half a model")


class Nested(Tiny):
    """Weights in a folder of their own, read back by `load`."""

    def save(self, folder: Path) -> None:
        (folder / "part").mkdir(parents=True)
        (folder / "part" / "weights.json").write_text(json.dumps(self.base.tolist()))

    def load(self, folder: Path) -> "Nested":
        self.base = np.array(json.loads((folder / "part" / "weights.json").read_text()))
        return self


class Disguised(Tiny):
    """A pickle under another name."""

    def save(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "weights.json").write_bytes(b"\x80\x04N.")


class Elsewhere(Tiny):
    """Writes beside the folder it was given, where the release's own parts would stand."""

    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder.parent / "catalogue").mkdir()
        (folder.parent / "manifest.json").write_text("{}")


class NoFolder(Tiny):
    def save(self, folder: Path) -> None:
        folder.write_text("weights")


class LinkedFolder(Tiny):
    def save(self, folder: Path) -> None:
        folder.symlink_to("/etc")


class Enormous(Tiny):
    def save(self, folder: Path) -> None:
        folder.mkdir()
        with (folder / "weights.txt").open("wb") as file:
            file.truncate(40 << 30)  # takes no space on the disk

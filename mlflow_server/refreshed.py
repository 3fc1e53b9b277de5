"""What is made anew every day beside a release: slates for all viewers and the popularity ranking, as of that day.

    live/<digest>/manifest.json     names the part in force, and the SHA-256 of each of its files; has its own checksum
    live/<digest>/<part>/           viewers.json movies.json titles.json items.npy scores.npy popularity.json

A new part is written beside the old one and synced; then the manifest is replaced, and the old part goes. So who reads
finds one or the other whole. The release itself never changes: what it holds is the floor where this is damaged.
"""

import io
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from events.disk import sync, write_whole
from events.store import locked
from mlflow_server.release import Popular, ReleaseError, canonical, popular_bytes, popular_from, sha256_of

FORMAT = 1
TEXTS = ("viewers", "movies", "titles")
ARRAYS = ("items", "scores")


@dataclass(frozen=True, eq=False)
class Refreshed:
    """items (viewers, K) int32 codes into `movies`, -1 past a slate's end; scores (viewers, K) float32.

    moment_ms: the home's now of which it is; note: of how many viewers slates were made, and why not of all.
    """

    viewers: list[str]
    movies: list[str]
    titles: list[str]
    items: np.ndarray
    scores: np.ndarray
    popular: Popular
    moment_ms: int
    note: str


def write(folder: Path, made: Refreshed) -> int:
    """Put it in force in `live/<digest>`; how many bytes it has. Nothing changes where the disk is full."""
    with locked(folder):
        part = Path(tempfile.mkdtemp(prefix="part-", dir=folder))
        try:
            content = _content(made)
            for name, stored in content.items():
                (part / name).write_bytes(stored)
                sync(part / name)
            sync(part)
            files = {name: {"sha256": sha256_of(stored), "size": len(stored)} for name, stored in content.items()}
            body = {"format": FORMAT, "part": part.name, "files": files, "moment_ms": made.moment_ms, "note": made.note}
            write_whole(folder / "manifest.json", canonical({"sha256": sha256_of(canonical(body)), "body": body}))
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        for other in folder.glob("part-*"):  # a reader that is in the middle of one looks again
            if other != part:
                shutil.rmtree(other, ignore_errors=True)
    return sum(map(len, content.values()))


def read(folder: Path) -> Refreshed:
    """What is in force, every byte checked. ReleaseError where it is damaged, or none is there."""
    body = _checked_manifest(folder / "manifest.json")
    try:
        content = {name: _file(folder / body["part"] / name, facts) for name, facts in body["files"].items()}
        texts = {name: json.loads(content[f"{name}.json"]) for name in TEXTS}
        arrays = {name: np.load(io.BytesIO(content[f"{name}.npy"]), allow_pickle=False) for name in ARRAYS}
        popular = popular_from(json.loads(content["popularity.json"]), folder / "popularity.json")
        made = Refreshed(**texts, **arrays, popular=popular, moment_ms=int(body["moment_ms"]), note=str(body["note"]))
        fits = made.items.shape == made.scores.shape == (len(made.viewers), made.items.shape[1])
        if not fits or made.items.max(initial=-1) >= len(made.movies) or len(made.titles) != len(made.movies):
            raise ValueError("its parts do not fit together")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as why:
        raise ReleaseError(f"{folder}: damaged: {why}") from why
    return made


def stamp(folder: Path) -> tuple[int, ...] | None:
    """Changes when another part is put in force; None while there is none."""
    try:
        found = (folder / "manifest.json").stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _content(made: Refreshed) -> dict[str, bytes]:
    found = {f"{name}.json": canonical(getattr(made, name)) for name in TEXTS}
    for name in ARRAYS:
        stream = io.BytesIO()
        np.save(stream, getattr(made, name), allow_pickle=False)
        found[f"{name}.npy"] = stream.getvalue()
    return found | {"popularity.json": popular_bytes(made.popular)}


def _checked_manifest(path: Path) -> dict[str, Any]:
    try:
        whole = json.loads(path.read_bytes())
        body = whole["body"]
        if sha256_of(canonical(body)) != whole["sha256"] or body["format"] != FORMAT or "/" in body["part"]:
            raise ValueError("its content does not match its checksum")
    except OSError as why:
        raise ReleaseError(f"{path} cannot be read: {why.strerror or why}") from why
    except (KeyError, TypeError, ValueError) as why:
        raise ReleaseError(f"{path}: damaged: {why}") from why
    return body


def _file(path: Path, facts: dict[str, Any]) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as why:
        raise ReleaseError(f"{path} cannot be read: {why.strerror or why}") from why
    if len(content) != facts["size"] or sha256_of(content) != facts["sha256"]:
        raise ReleaseError(f"{path}: damaged: its content is not what the manifest says")
    return content

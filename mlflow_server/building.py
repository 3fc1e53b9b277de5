"""Building a release: the model's weights, the world as of the snapshot, slates made ahead, and a signed manifest."""

import inspect
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from events.disk import sync
from mlflow_server.ledger import SigningKey
from mlflow_server.release import (
    FORMAT,
    HISTORY_ARRAYS,
    PAST_ARRAYS,
    Release,
    ReleaseError,
    canonical,
    files_below,
    popular_bytes,
    ranked,
    sha256_of,
    verify,
)
from mlflow_server.topk import precompute
from mlflow_server.viewers import batch, past_of
from models.base import Recommender, settings_of
from models.interactions import Catalogue, Histories, Interactions, histories_of, live_counts
from models.shelf import Shelved

POPULARITY_HALF_LIFE_DAYS = 7.0  # of the fallback ranking, where training tuned no better one
WEIGHT_SUFFIXES = (".npy", ".safetensors", ".txt", ".onnx", ".json")
MAX_WEIGHTS = 2 << 30  # bytes of all weights: a server holds them in memory, and so does who signs them
SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")

Progress = Callable[[int, int], None]  # done, of how many


def build(
    parent: Path,
    model: Recommender,
    shelved: Shelved,
    snapshot_id: str,
    interactions: Interactions,
    commit: str,
    key: SigningKey,
    progress: Progress | None = None,
    *,
    popularity_half_life_days: float = POPULARITY_HALF_LIFE_DAYS,
    offset: int = 0,
) -> Release:
    """Build the release of a fitted model in `parent`, or find that it is there already.

    offset: of the log, from which on live state follows it: the snapshot holds everything up to there.
    `progress` is called with the number of viewers whose slate is made, and of how many. ReleaseError says why a model
    cannot be released: its `save` failed, or wrote a file that is not allowed.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=f".building-{os.getpid()}-", dir=parent))
    try:
        facts = _write_parts(folder, model, shelved, interactions, popularity_half_life_days, progress)
        facts |= {"snapshot": snapshot_id, "commit": commit, "offset": offset, "files": _inventory(folder)}
        content = json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
        (folder / "manifest.json").write_bytes(content)
        signed = {"public": key.public, "signature": key.sign(content)}
        (folder / "signature.json").write_text(json.dumps(signed))
        return _publish(folder, parent / sha256_of(content))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_parts(
    folder: Path,
    model: Recommender,
    shelved: Shelved,
    interactions: Interactions,
    half_life: float,
    progress: Progress | None,
) -> dict[str, Any]:
    """Write everything but the manifest; return what the manifest says of it."""
    _write_weights(folder / "weights", model)
    source = _source(shelved)
    if source is not None:
        (folder / "source").mkdir()
        shutil.copyfile(source, folder / "source" / "model.py")
    catalogue, now_ms = interactions.catalogue, interactions.end_ms
    known = np.unique(interactions.before(now_ms).users)
    histories = histories_of(interactions, known, now_ms)
    live = live_counts(interactions, (*model.half_lives_days, half_life), now_ms)
    _write_catalogue(folder / "catalogue", catalogue)
    _write_viewers(folder / "viewers", histories, interactions, known)
    np.save(folder / "counts.npy", live.counts, allow_pickle=False)
    made = precompute(model, len(histories), partial(batch, histories), live, now_ms, progress)
    (folder / "topk").mkdir()
    np.save(folder / "topk" / "items.npy", made.items, allow_pickle=False)
    np.save(folder / "topk" / "scores.npy", made.scores, allow_pickle=False)
    met = np.bincount(interactions.latest().items, minlength=len(catalogue))
    (folder / "popularity.json").write_bytes(popular_bytes(ranked(catalogue, live.decayed(half_life), met, now_ms)))
    cls = type(model)
    return {
        "format": FORMAT,
        "model": shelved.name,
        "cls": cls.__qualname__ if source else f"{cls.__module__}.{cls.__qualname__}",
        "outside": source is not None,
        "config": settings_of(model),
        "seed": model.seed,
        "end_ms": now_ms,
        "half_lives_days": live.half_lives_days,
        "popularity_half_life_days": half_life,
        "viewers": len(histories),
        "items": len(catalogue),
        "made_ahead": made.note,
    }


def _source(shelved: Shelved) -> Path | None:
    """The file that must travel with the release: where the class lives outside this tree."""
    if shelved.source is not None:
        return shelved.source
    if shelved.cls.__module__.split(".")[0] == "models":
        return None
    found = inspect.getsourcefile(shelved.cls)
    if found is None:
        raise ReleaseError(f"model {shelved.name}: its source file cannot be found, so it cannot travel in the release")
    return Path(found)


def _write_weights(folder: Path, model: Recommender) -> None:
    """Let the model save in a place of its own, so that it cannot write into the release, and take what is allowed."""
    with tempfile.TemporaryDirectory(prefix="greenlight-weights-") as place:
        saved = Path(place) / "weights"
        try:
            model.save(saved)
        except Exception as why:  # a model's own code runs here and may raise anything
            raise ReleaseError(f"{type(model).__name__}.save raised {type(why).__name__}: {why}") from why
        if saved.is_symlink() or (saved.exists() and not saved.is_dir()):
            raise ReleaseError(f"{type(model).__name__}.save made no folder of what it was given as one")
        saved.mkdir(exist_ok=True)
        try:
            _check_weights(saved)
            shutil.copytree(saved, folder, symlinks=True)
        except (OSError, shutil.Error) as why:
            raise ReleaseError(f"weights cannot be copied into the release: {why}") from why


def _check_weights(saved: Path) -> None:
    total = 0
    for path in sorted(saved.rglob("*")):
        name = path.relative_to(saved).as_posix()
        _check_weight(path, name)
        total += path.stat().st_size
        if total > MAX_WEIGHTS:
            raise ReleaseError(f"weights are more than {MAX_WEIGHTS >> 20:,} MB with file {name}: save less")
        if path.is_file():
            _check_content(path, name)


def _check_weight(path: Path, name: str) -> None:
    """Only plain files with plain names may be released."""
    if not all(SAFE_NAME.fullmatch(part) for part in name.split("/")):
        raise ReleaseError(f"weights file {name!r}: a name may hold only A-Z a-z 0-9 . _ - and not begin with a dot")
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        raise ReleaseError(f"weights file {name}: neither a plain file nor a folder")
    if path.is_file() and path.suffix not in WEIGHT_SUFFIXES:
        raise ReleaseError(f"weights file {name}: only {' '.join(WEIGHT_SUFFIXES)} may be released (no pickle)")


def _check_content(path: Path, name: str) -> None:
    """A file holds what its suffix says: a pickle under another name is still a pickle."""
    try:
        match path.suffix:
            case ".npy":
                np.load(path, mmap_mode="r", allow_pickle=False)
            case ".json":
                json.loads(path.read_bytes())
            case ".txt":
                path.read_bytes().decode()
            case ".safetensors":
                with path.open("rb") as file:
                    json.loads(file.read(min(int.from_bytes(file.read(8), "little"), MAX_WEIGHTS)))
    except (ValueError, EOFError) as why:
        kind = "a plain NumPy array" if path.suffix == ".npy" else f"{path.suffix[1:]} text"
        raise ReleaseError(f"weights file {name}: not {kind}: {why}") from why


def _write_catalogue(folder: Path, catalogue: Catalogue) -> None:
    folder.mkdir()
    _write_json(folder / "ids.json", catalogue.ids.tolist())
    _write_json(folder / "titles.json", catalogue.titles.tolist())
    _write_json(folder / "genre_names.json", list(catalogue.genre_names))
    np.save(folder / "genres.npy", catalogue.genres, allow_pickle=False)


def _write_viewers(folder: Path, histories: Histories, interactions: Interactions, known: np.ndarray) -> None:
    folder.mkdir()
    _write_json(folder / "ids.json", list(histories.viewer_ids))
    for name in HISTORY_ARRAYS:
        np.save(folder / f"{name}.npy", getattr(histories, name), allow_pickle=False)
    past = past_of(interactions, known)
    for name in PAST_ARRAYS:
        np.save(folder / f"{name}.npy", getattr(past, name), allow_pickle=False)


def _inventory(folder: Path) -> dict[str, dict[str, Any]]:
    paths = (folder / name for name in files_below(folder))
    return {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of(path.read_bytes()), "size": path.stat().st_size}
        for path in paths
    }


def _publish(folder: Path, target: Path) -> Release:
    """Sync `folder` and rename it to `target`; a sound release that is there already stays."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)
    try:
        return Release(target.name, target, verify(target))
    except ReleaseError:
        if target.exists():  # damaged: made anew
            target.replace(folder.with_name(f"{folder.name}-damaged"))
    folder.replace(target)
    sync(target.parent)
    _sweep(target.parent)
    return Release(target.name, target, verify(target))


def _sweep(parent: Path) -> None:
    """Remove what a builder that no longer runs, or this one, left behind."""
    for path in parent.glob(".building-*"):
        owner = int(path.name.split("-")[1])
        if path.name.endswith("-damaged") or not Path(f"/proc/{owner}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _write_json(path: Path, value: Any) -> None:
    path.write_bytes(canonical(value))

"""A release: the immutable, signed folder from which one model version is served.

    <digest>/                  named by the SHA-256 of its manifest
      manifest.json            SHA-256 and size of every file below; model, class, config, snapshot, commit, moment
      signature.json           Ed25519 signature of the manifest, and the public key
      weights/                 what the model's `save` wrote
      catalogue/ viewers/      movies; each viewer's last 50 interactions and all seen movies, as of the moment
      counts.npy               decayed counts at the model's half-lives
      topk/                    slates made ahead for the known viewers
      popularity.json          the fallback: carries its own checksum, so it stands when all else is lost
      source/model.py          the model's file, where it lives outside the tree

It is made in a temporary folder, synced and renamed: it is whole or absent, and making it again changes nothing.
Readers take bytes that were checked (`Checked.read`), never a file that was checked a moment ago.
"""

import hashlib
import inspect
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conf.errors import PlainError
from events.disk import sync
from mlflow_server.ledger import SigningKey, signature_holds
from mlflow_server.topk import TopK, precompute
from mlflow_server.viewers import Viewers
from models.base import Recommender, settings_of
from models.interactions import Catalogue, Histories, Interactions, LiveCounts, histories_of, live_counts
from models.shelf import ModelNotFound, Shelved, load_file

FORMAT = 1
POPULAR = 1000  # movies in the popularity ranking: enough for the largest slate after seen ones are taken out
POPULARITY_HALF_LIFE_DAYS = 7.0  # of the fallback ranking, where training tuned no better one
WEIGHT_SUFFIXES = (".npy", ".safetensors", ".txt", ".onnx", ".json")
MAX_WEIGHTS = 2 << 30  # bytes of all weights: a server holds them in memory, and so does who signs them
SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
OUTSIDE = ("manifest.json", "signature.json")  # the two files that the manifest cannot list

Progress = Callable[[int, int], None]  # done, of how many


class ReleaseError(PlainError):
    """A release cannot be built, is damaged or is not ours; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Manifest:
    """What a release holds. `files` maps each path to (SHA-256, size); `cls` is `module.Class`, or the class's name in
    `source/model.py`; `made_ahead` says how many viewers have a slate made ahead, and why not all."""

    digest: str
    model: str
    cls: str
    outside: bool
    config: dict[str, Any]
    seed: int
    snapshot: str
    commit: str
    end_ms: int
    half_lives_days: tuple[float, ...]
    viewers: int
    items: int
    made_ahead: str
    files: dict[str, tuple[str, int]]


@dataclass(frozen=True)
class Release:
    digest: str
    folder: Path
    manifest: Manifest


@dataclass(frozen=True, eq=False)
class Popular:
    """The popularity ranking, best first: codes into the catalogue, ids, titles and decayed counts, as of `end_ms`."""

    codes: np.ndarray
    ids: tuple[str, ...]
    titles: tuple[str, ...]
    scores: tuple[float, ...]
    end_ms: int


@dataclass(frozen=True, eq=False)
class Loaded:
    """A whole release in memory, every byte checked."""

    manifest: Manifest
    model: Recommender
    catalogue: Catalogue
    live: LiveCounts
    viewers: Viewers
    topk: TopK
    popular: Popular


# Building -------------------------------------------------------------------------------------------------------------


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
) -> Release:
    """Build the release of a fitted model in `parent`, or find that it is there already.

    `progress` is called with the number of viewers whose slate is made, and of how many. ReleaseError says why a model
    cannot be released: its `save` failed, or wrote a file that is not allowed.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=f".building-{os.getpid()}-", dir=parent))
    try:
        facts = _write_parts(folder, model, shelved, interactions, popularity_half_life_days, progress)
        facts |= {"snapshot": snapshot_id, "commit": commit, "files": _inventory(folder)}
        content = json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
        (folder / "manifest.json").write_bytes(content)
        signed = {"public": key.public, "signature": key.sign(content)}
        (folder / "signature.json").write_text(json.dumps(signed))
        return _publish(folder, parent / hashlib.sha256(content).hexdigest())
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
    live = live_counts(interactions, model.half_lives_days, now_ms)
    _write_catalogue(folder / "catalogue", catalogue)
    _write_histories(folder / "viewers", histories)
    np.save(folder / "counts.npy", live.counts, allow_pickle=False)
    made = precompute(model, histories, live, now_ms, progress)
    (folder / "topk").mkdir()
    np.save(folder / "topk" / "items.npy", made.items, allow_pickle=False)
    np.save(folder / "topk" / "scores.npy", made.scores, allow_pickle=False)
    _write_popular(folder / "popularity.json", interactions, half_life)
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


HISTORY_ARRAYS = ("indptr", "items", "times", "strengths", "seen_indptr", "seen_items")


def _write_histories(folder: Path, histories: Histories) -> None:
    folder.mkdir()
    _write_json(folder / "ids.json", list(histories.viewer_ids))
    for name in HISTORY_ARRAYS:
        np.save(folder / f"{name}.npy", getattr(histories, name), allow_pickle=False)


def _write_popular(path: Path, interactions: Interactions, half_life_days: float) -> None:
    """Rank by decayed likes, then by interactions of any kind, so that there is a ranking even where nobody liked."""
    catalogue = interactions.catalogue
    liked = live_counts(interactions, (half_life_days,), interactions.end_ms).counts[0]
    met = np.bincount(interactions.latest().items, minlength=len(catalogue))
    best = np.lexsort((catalogue.tie_breaks, -met, -liked))[:POPULAR]
    body = {
        "codes": best.tolist(),
        "ids": catalogue.ids[best].tolist(),
        "titles": catalogue.titles[best].tolist(),
        "scores": liked[best].tolist(),
        "end_ms": interactions.end_ms,
    }
    _write_json(path, {"sha256": _sha256(_canonical(body)), "body": body})


def _inventory(folder: Path) -> dict[str, dict[str, Any]]:
    paths = (folder / name for name in _files(folder))
    return {
        path.relative_to(folder).as_posix(): {"sha256": _sha256(path.read_bytes()), "size": path.stat().st_size}
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


# Reading --------------------------------------------------------------------------------------------------------------


class Checked:
    """A release folder whose manifest is signed, and reads of its files that fail unless the bytes are the right ones.

    With `public` (hex) the signature must be by that key; without, by the key that lies beside it, which shows only
    that the release is whole.
    """

    def __init__(self, folder: Path, public: str | None = None) -> None:
        self.folder = folder
        content = _bytes(folder / "manifest.json")
        signed = _json(_bytes(folder / "signature.json"), folder / "signature.json")
        signer = str(signed.get("public")) if public is None else public
        if not signature_holds(signer, str(signed.get("signature")), content):
            raise ReleaseError(f"{folder}/manifest.json: its signature is not by the key {signer[:16]}…")
        self.manifest = _manifest(_sha256(content), _json(content, folder / "manifest.json"))

    def read(self, name: str) -> bytes:
        """The bytes of one file, exactly those that the manifest names."""
        if name not in self.manifest.files:
            raise ReleaseError(f"{self.folder}: the manifest names no file {name}")
        sha256, size = self.manifest.files[name]
        content = _bytes(self.folder / name)
        if len(content) != size or _sha256(content) != sha256:
            raise ReleaseError(f"{self.folder / name}: damaged: its content is not what the manifest says")
        return content

    def array(self, name: str) -> np.ndarray:
        """An array, read-only: a model that wrote into its input would spoil it for every later request."""
        array = np.load(io.BytesIO(self.read(name)), allow_pickle=False)
        array.flags.writeable = False
        return array

    def json(self, name: str) -> Any:
        return _json(self.read(name), self.folder / name)


def verify(folder: Path, public: str | None = None) -> Manifest:
    """Check signature, size and hash of every file, and that nothing else is there; ReleaseError names the file."""
    checked = Checked(folder, public)
    for name in checked.manifest.files:
        checked.read(name)
    extra = sorted(set(_files(folder)) - set(checked.manifest.files) - set(OUTSIDE))
    if extra:
        raise ReleaseError(f"{folder / extra[0]}: not in the manifest; a release holds nothing else")
    return checked.manifest


def load(folder: Path, public: str | None = None) -> Loaded:
    """The whole release in memory, from checked bytes."""
    checked = Checked(folder, public)
    catalogue = load_catalogue(checked)
    return Loaded(
        manifest=checked.manifest,
        model=load_model(checked),
        catalogue=catalogue,
        live=load_counts(checked, catalogue),
        viewers=load_viewers(checked, catalogue),
        topk=load_topk(checked),
        popular=load_popular(folder),
    )


def load_model(checked: Checked) -> Recommender:
    """The model with its weights. It reads a private copy of the checked bytes, so that none can change in between."""
    manifest = checked.manifest
    with tempfile.TemporaryDirectory(prefix="greenlight-release-") as private:
        weights = Path(private) / "weights"
        weights.mkdir()
        for name in manifest.files:
            if name.startswith(("weights/", "source/")):
                path = Path(private) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(checked.read(name))
        try:
            cls = _class(manifest, Path(private))
            model = cls(cls.Config(**_frozen(manifest.config)), seed=manifest.seed)
            return model.load(weights)
        except Exception as why:  # a model's own code runs here and may raise anything
            raise ReleaseError(
                f"{checked.folder}: {manifest.cls} cannot be loaded: {type(why).__name__}: {why}"
            ) from why


def _class(manifest: Manifest, private: Path) -> type[Recommender]:
    if manifest.outside:
        return getattr(load_file(private / "source" / "model.py"), manifest.cls)
    module, _, name = manifest.cls.rpartition(".")
    if module.split(".")[0] != "models":
        raise ModelNotFound(f"{manifest.cls} is outside the tree, and its source is not in the release")
    return getattr(__import__(module, fromlist=[name]), name)


def load_catalogue(checked: Checked) -> Catalogue:
    return Catalogue(
        ids=np.array(checked.json("catalogue/ids.json"), dtype=np.str_),
        titles=np.array(checked.json("catalogue/titles.json"), dtype=np.str_),
        genres=checked.array("catalogue/genres.npy"),
        genre_names=tuple(checked.json("catalogue/genre_names.json")),
    )


def load_counts(checked: Checked, catalogue: Catalogue) -> LiveCounts:
    manifest = checked.manifest
    return LiveCounts(manifest.half_lives_days, checked.array("counts.npy"), manifest.end_ms, catalogue)


def load_viewers(checked: Checked, catalogue: Catalogue) -> Viewers:
    ids = checked.json("viewers/ids.json")
    arrays = {name: checked.array(f"viewers/{name}.npy") for name in HISTORY_ARRAYS}
    return Viewers(Histories(ids, **arrays, catalogue=catalogue), {user: row for row, user in enumerate(ids)})


def load_topk(checked: Checked) -> TopK:
    return TopK(checked.array("topk/items.npy"), checked.array("topk/scores.npy"), checked.manifest.made_ahead)


def load_popular(folder: Path) -> Popular:
    """The popularity ranking, by its own checksum: it needs no other file, not even the manifest."""
    path = folder / "popularity.json"
    whole = _json(_bytes(path), path)
    try:
        body = whole["body"]
        if _sha256(_canonical(body)) != whole["sha256"]:
            raise ReleaseError(f"{path}: damaged: its content does not match its checksum")
        ids, titles, scores = (tuple(body[name]) for name in ("ids", "titles", "scores"))
        return Popular(np.array(body["codes"], np.int32), ids, titles, scores, int(body["end_ms"]))
    except (KeyError, TypeError) as why:
        raise ReleaseError(f"{path}: damaged: not a popularity ranking") from why


# Small parts ----------------------------------------------------------------------------------------------------------


def _manifest(digest: str, facts: dict[str, Any]) -> Manifest:
    if facts.get("format") != FORMAT:
        raise ReleaseError(f"manifest.json: format {facts.get('format')!r}; this version reads format {FORMAT}")
    try:
        files = {name: (entry["sha256"], entry["size"]) for name, entry in facts["files"].items()}
        rest = {name: value for name, value in facts.items() if name not in ("format", "files", "half_lives_days")}
        return Manifest(digest=digest, files=files, half_lives_days=tuple(facts["half_lives_days"]), **rest)
    except (KeyError, TypeError) as why:
        raise ReleaseError(f"manifest.json: not a manifest of this version: {why}") from why


def _frozen(value: Any) -> Any:
    """JSON has no tuples: lists of a frozen Config become tuples again."""
    if isinstance(value, list):
        return tuple(_frozen(part) for part in value)
    return {name: _frozen(part) for name, part in value.items()} if isinstance(value, dict) else value


def _files(folder: Path) -> Iterator[str]:
    """Paths below `folder` of everything that is not a folder, links to folders included."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix()


def _bytes(path: Path) -> bytes:
    try:
        if path.is_symlink():
            raise ReleaseError(f"{path}: a link, not a file")
        return path.read_bytes()
    except FileNotFoundError as why:
        raise ReleaseError(f"{path}: missing") from why
    except OSError as why:
        raise ReleaseError(f"{path}: cannot be read: {why.strerror}") from why


def _json(content: bytes, path: Path) -> Any:
    try:
        return json.loads(content)
    except ValueError as why:
        raise ReleaseError(f"{path}: damaged: not JSON ({why})") from why


def _write_json(path: Path, value: Any) -> None:
    path.write_bytes(_canonical(value))


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

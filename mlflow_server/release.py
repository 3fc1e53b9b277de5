"""A release: the immutable, signed folder from which one model version is served.

    <digest>/                  named by the SHA-256 of its manifest
      manifest.json            SHA-256 and size of every file below; model, class, config, snapshot, commit, moment
      signature.json           Ed25519 signature of the manifest, and the public key
      weights/                 what the model's `save` wrote
      catalogue/ viewers/      movies; each viewer's last 50 interactions, and the past that live state goes on from
      counts.npy               decayed counts at the model's half-lives, and at the popularity ranking's own
      topk/                    slates made ahead for the known viewers
      popularity.json          the fallback: carries its own checksum, so it stands when all else is lost
      source/model.py          the model's file, where it lives outside the tree

It is made in a temporary folder, synced and renamed: it is whole or absent, and making it again changes nothing.
Readers take bytes that were checked (`Checked.read`), never a file that was checked a moment ago.
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from conf.errors import PlainError
from events.pace import Rest, no_rest
from mlflow_server.ledger import signature_holds
from mlflow_server.topk import TopK
from mlflow_server.viewers import Past, Viewers
from models.base import Recommender
from models.interactions import Catalogue, Histories, LiveCounts
from models.pieces import texts
from models.shelf import ModelNotFound, load_file

FORMAT = 2
POPULAR = 1000  # movies in the popularity ranking: enough for the largest slate after seen ones are taken out
OUTSIDE = ("manifest.json", "signature.json")  # the two files that the manifest cannot list
HISTORY_ARRAYS = ("indptr", "items", "times", "strengths", "seen_indptr", "seen_items")
PAST_ARRAYS = tuple(f.name for f in fields(Past))


class ReleaseError(PlainError):
    """A release cannot be built, is damaged or is not ours; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Manifest:
    """What a release holds. `files` maps each path to (SHA-256, size); `cls` is `module.Class`, or the class's name in
    `source/model.py`; `made_ahead` says how many viewers have a slate made ahead, and why not all.

    offset: of the log: what was stored up to there is in the snapshot. half_lives_days: of the rows of counts.npy: the
    model's own first, then the popularity ranking's where it is none of these.
    """

    digest: str
    model: str
    cls: str
    outside: bool
    config: dict[str, Any]
    seed: int
    snapshot: str
    commit: str
    end_ms: int
    offset: int
    half_lives_days: tuple[float, ...]
    popularity_half_life_days: float
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


def ranked(catalogue: Catalogue, liked: np.ndarray, met: np.ndarray, end_ms: int) -> Popular:
    """Ranked by decayed likes, then by interactions of any kind, so that there is a ranking even where nobody liked."""
    least = np.partition(liked, -POPULAR)[-POPULAR] if len(liked) > POPULAR else -np.inf  # sorting all takes far longer
    near = np.flatnonzero(liked >= least)
    best = near[np.lexsort((catalogue.tie_breaks[near], -met[near], -liked[near]))][:POPULAR]
    ids, titles = tuple(catalogue.ids[best].tolist()), tuple(catalogue.titles[best].tolist())
    return Popular(best.astype(np.int32), ids, titles, tuple(liked[best].tolist()), end_ms)


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


class Checked:
    """A release folder whose manifest is signed, and reads of its files that fail unless the bytes are the right ones.

    With `public` (hex) the signature must be by that key; without, by the key that lies beside it, which shows only
    that the release is whole.
    """

    def __init__(self, folder: Path, public: str | None = None, rest: Rest = no_rest) -> None:
        """rest: called before each file is read, for who does not have the machine for himself."""
        self.folder, self._rest = folder, rest
        content = _bytes(folder / "manifest.json")
        signed = _json(_bytes(folder / "signature.json"), folder / "signature.json")
        signer = str(signed.get("public")) if public is None else public
        if not signature_holds(signer, str(signed.get("signature")), content):
            raise ReleaseError(f"{folder}/manifest.json: its signature is not by the key {signer[:16]}…")
        self.manifest = _manifest(sha256_of(content), _json(content, folder / "manifest.json"))

    def read(self, name: str) -> bytes:
        """The bytes of one file, exactly those that the manifest names."""
        if name not in self.manifest.files:
            raise ReleaseError(f"{self.folder}: the manifest names no file {name}")
        self._rest()
        sha256, size = self.manifest.files[name]
        content = _bytes(self.folder / name)
        if len(content) != size or sha256_of(content) != sha256:
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
    extra = sorted(set(files_below(folder)) - set(checked.manifest.files) - set(OUTSIDE))
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
        popular=checked_popular(checked),
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
        ids=texts(checked.json("catalogue/ids.json")),
        titles=texts(checked.json("catalogue/titles.json")),
        genres=checked.array("catalogue/genres.npy"),
        genre_names=tuple(checked.json("catalogue/genre_names.json")),
    )


def load_counts(checked: Checked, catalogue: Catalogue) -> LiveCounts:
    manifest = checked.manifest
    return LiveCounts(manifest.half_lives_days, checked.array("counts.npy"), manifest.end_ms, catalogue)


def load_viewers(checked: Checked, catalogue: Catalogue) -> Viewers:
    ids = checked.json("viewers/ids.json")
    arrays = {name: checked.array(f"viewers/{name}.npy") for name in HISTORY_ARRAYS}
    past = Past(**{name: checked.array(f"viewers/{name}.npy") for name in PAST_ARRAYS})
    return Viewers(Histories(ids, **arrays, catalogue=catalogue), {user: row for row, user in enumerate(ids)}, past)


def load_topk(checked: Checked) -> TopK:
    return TopK(checked.array("topk/items.npy"), checked.array("topk/scores.npy"), checked.manifest.made_ahead)


def load_popular(folder: Path) -> Popular:
    """The popularity ranking, by its own checksum: it needs no other file, not even the manifest."""
    path = folder / "popularity.json"
    return popular_from(_json(_bytes(path), path), path)


def checked_popular(checked: Checked) -> Popular:
    """The same ranking, as the manifest names it: its own checksum would tell nothing new."""
    return _popular(checked.json("popularity.json"), checked.folder / "popularity.json")


def popular_bytes(popular: Popular) -> bytes:
    """The ranking as it is stored, with its checksum."""
    body = {name: getattr(popular, name) for name in ("ids", "titles", "scores", "end_ms")}
    body["codes"] = popular.codes.tolist()
    return canonical({"sha256": sha256_of(canonical(body)), "body": body})


def popular_from(whole: Any, path: Path) -> Popular:
    """The ranking from what was stored; ReleaseError where it is damaged."""
    try:
        if sha256_of(canonical(whole["body"])) != whole["sha256"]:
            raise ReleaseError(f"{path}: damaged: its content does not match its checksum")
    except (KeyError, TypeError) as why:
        raise ReleaseError(f"{path}: damaged: not a popularity ranking") from why
    return _popular(whole, path)


def _popular(whole: Any, path: Path) -> Popular:
    try:
        body = whole["body"]
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


def files_below(folder: Path) -> Iterator[str]:
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
        return orjson.loads(content)  # beside requests: three times as fast, and nobody else runs meanwhile
    except ValueError as why:
        raise ReleaseError(f"{path}: damaged: not JSON ({why})") from why


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

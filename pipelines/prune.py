"""`greenlight prune`: old reports, letters, snapshots, releases, Bentos, logged models go; nothing that is needed does.

Always kept: what a worker serves, what stands under an alias (in the ledger or in MLflow: champion, challenger,
`previous`), the snapshots that those were trained on, the Bento that a fresh server starts with or that runs, and
whatever is younger than a day, which may be of something under way. Beside that, `settings.retention`. The ledger and
the history are never touched, so `greenlight why` explains every slate for ever.

It holds the locks of training and of promotion. A folder is renamed before it is emptied: a prune that was killed
leaves nothing that looks whole, and the next one sweeps up.
"""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from events.disk import sync
from mlflow_server.ledger import Entry
from mlflow_server.registry import Kept, Registry
from pipelines.latest import PackageError, bentos, facts_of, latest
from pipelines.movement import DRIFT
from pipelines.outbox import FAILED
from pipelines.promote import Chair, deciding
from pipelines.strays import of_folder
from serving.report import reports

YOUNG_S = 86_400.0  # a day
GONE = ".pruned-"  # of a folder that is being removed


@dataclass(frozen=True)
class Removed:
    kind: str  # report, letter, snapshot, release, made ahead, bento, logged model
    name: str
    bytes: int  # that it took on this machine


@dataclass
class Pruned:
    """What was removed, or, with `dry_run`, would be. troubles: what could not be, in sentences."""

    dry_run: bool
    removed: list[Removed] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)  # by kind
    troubles: list[str] = field(default_factory=list)

    @property
    def freed_bytes(self) -> int:
        return sum(item.bytes for item in self.removed)

    @property
    def lines(self) -> list[str]:
        """For people."""
        kept = ", ".join(f"{count} of kind {kind}" for kind, count in sorted(self.kept.items())) or "nothing"
        freed = f"{'would free' if self.dry_run else 'freed'} {self.freed_bytes:,} bytes; kept {kept}"
        return [*(f"{item.kind:<12}  {item.bytes:>13,}  {item.name}" for item in self.removed), freed]


def prune(home: Home, settings: Settings, *, dry_run: bool = False, young_s: float = YOUNG_S) -> Pruned:
    """Remove what `settings.retention` does not keep. Waits for a training or a promotion that is under way.

    young_s: what is younger, by the wall, may be of something under way; 0 for who knows that nothing is.
    """
    done = Pruned(dry_run)
    with _locked(home.root / "train.lock"), deciding(home, settings) as chair:
        pruning = _Pruning(home, settings, chair, done, young_s)
        built = (pruning.releases, pruning.made_ahead, pruning.bentos, pruning.snapshots, pruning.logged_models)
        for step in (*built, pruning.reports, pruning.letters):
            try:
                step()
            except (PlainError, OSError) as why:
                done.troubles.append(str(why))
    return done


class _Pruning:
    """One prune. Who is needed is read once, at its start: the locks keep it so, and workers follow the ledger."""

    def __init__(self, home: Home, settings: Settings, chair: Chair, done: Pruned, young_s: float) -> None:
        self.home, self.retention, self.done, self.depot = home, settings.retention, done, chair.depot
        self.young_s = young_s
        self.settings = settings
        made = [e for e in chair.entries if e.kind == "registered"]
        self.in_mlflow = Registry.kept(home)
        self.needed = _needed(home, chair, made, self.in_mlflow)
        newest = list(dict.fromkeys(e.body["release"] for e in reversed(made)))
        self.registered = set(newest)
        self.releases_kept = self.needed | set(newest[: self.retention.releases])
        self.snapshots_kept = {e.body["snapshot"] for e in made if e.body["release"] in self.releases_kept}

    def releases(self) -> None:
        for digest in sorted(self.depot.digests()):
            folder = self.home.releases / digest
            # one that nobody registered may be a training's that was cut off; elsewhere its age is not known
            if digest in self.releases_kept or (digest not in self.registered and self._young(folder)):
                self._keep("release")
            else:
                self._remove("release", digest, folder, partial(self.depot.remove, digest))

    def made_ahead(self) -> None:
        """What was made anew beside releases."""
        for folder in _folders(self.home.live):
            if folder.name in self.releases_kept:
                self._keep("made ahead")
            else:
                self._remove("made ahead", folder.name, folder)
        self._sweep(self.home.live)

    def bentos(self) -> None:
        parent = bentos(self.home)
        found = _folders(parent)
        newest = {_release(folder): folder for folder in reversed(found)}  # of each release
        kept = {latest(self.home), *found[: self.retention.bentos], *(newest.get(digest) for digest in self.needed)}
        for folder in found:
            if folder in kept or self._young(folder) or of_folder(folder):
                self._keep("bento")
            else:
                self._remove("bento", folder.name, folder)
        self._sweep(parent)

    def snapshots(self) -> None:
        with _locked(self.home.snapshots / ".lock"):
            found = _folders(self.home.snapshots)
            for place, folder in enumerate(found):
                if place < self.retention.snapshots or folder.name in self.snapshots_kept or self._young(folder):
                    self._keep("snapshot")
                else:
                    self._remove("snapshot", folder.name, folder)
            self._sweep(self.home.snapshots)

    def logged_models(self) -> None:
        """The copies in MLflow. A version stays on its page; only its files go."""
        found = sorted(self.in_mlflow, key=lambda kept: -kept.created_ms)
        ours = list(dict.fromkeys(kept.model_id for kept in found if kept.release))
        stays = set(ours[: self.retention.logged_models])
        stays |= {kept.model_id for kept in found if kept.aliases or kept.release in self.needed}
        stays |= {kept.model_id for kept in found if not kept.release and not kept.left}  # somebody else's
        stays |= {kept.model_id for kept in found if time.time() - kept.created_ms / 1000 < self.young_s}
        gone = [model for model in dict.fromkeys(kept.model_id for kept in found) if model not in stays]
        self.done.kept["logged model"] = len(stays)
        for model in gone:
            size = _size(self.home.artifacts / "models" / model)
            self.done.removed.append(Removed("logged model", model, size))
        if gone and not self.done.dry_run:
            Registry(self.home, self.settings.registry.name, self.settings.storage).forget(gone)

    def reports(self) -> None:
        limit = time.time() - self.retention.reports_days * 86_400
        drift = self.home.reports / DRIFT
        found = {*self.home.reports.glob("*"), *drift.glob("*")} - {drift, drift / ".lock"}
        for path in sorted(found):
            if path.stat().st_mtime >= limit:
                self._keep("report")
            elif path.is_dir():
                self._remove("report", path.name, path)
            else:
                self._remove("report", path.name, path, path.unlink)

    def letters(self) -> None:
        """Those that nobody waits for."""
        limit = time.time() - self.retention.reports_days * 86_400
        for file in sorted((*self.home.outbox.glob("*.eml"), *(self.home.outbox / FAILED).glob("*.eml"))):
            if file.stat().st_mtime >= limit:
                self._keep("letter")
            else:
                self._remove("letter", file.stem, file, partial(_forget, file))

    def _young(self, path: Path) -> bool:
        """Whether it may be of something under way; what is not on this machine counts as young."""
        return not path.exists() or time.time() - path.stat().st_mtime < self.young_s

    def _keep(self, kind: str) -> None:
        self.done.kept[kind] = self.done.kept.get(kind, 0) + 1

    def _remove(self, kind: str, name: str, path: Path, how: Callable[[], None] | None = None) -> None:
        size = _size(path)
        if not self.done.dry_run:
            (how or (lambda: _empty(path)))()
        self.done.removed.append(Removed(kind, name, size))

    def _sweep(self, parent: Path) -> None:
        """Finish what a prune that was killed had begun."""
        for left in parent.glob(f"{GONE}*"):
            if not self.done.dry_run:
                shutil.rmtree(left)


def _forget(letter: Path) -> None:
    letter.with_suffix(".json").unlink(missing_ok=True)
    letter.unlink()


def _needed(home: Home, chair: Chair, made: list[Entry], in_mlflow: list[Kept]) -> set[str]:
    """Digests of the releases that may never go."""
    found = {entry.body["release"] for entry in chair.in_charge.values()}
    found |= {arm.release for report in reports(home) for arm in report.arms.values()}
    found |= {kept.release for kept in in_mlflow if kept.aliases and kept.release}
    return found


def _release(bento: Path) -> str | None:
    """The release in a Bento; None where it is not whole."""
    try:
        return str(facts_of(bento)["release"])
    except PackageError:
        return None


def _folders(parent: Path) -> list[Path]:
    """Newest first."""
    found = [f for f in parent.glob("*") if f.is_dir() and not f.name.startswith(".")]
    return sorted(found, key=lambda f: (-f.stat().st_mtime, f.name))


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())


def _empty(folder: Path) -> None:
    gone = folder.with_name(f"{GONE}{folder.name}")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    sync(folder.parent)
    shutil.rmtree(gone)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

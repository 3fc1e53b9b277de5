"""`greenlight train`: a snapshot, candidates, gates, versions, and, once in a home's life, the first champion.

    snapshot → gate inputs → each candidate in a process of its own (attempt.py) → choose on validation (judge.py)
             → the chosen one meets the test window → gates offline and infra → versions, ledger, first champion

Everything that was written is found again when the verb runs after a kill: snapshots and releases by content, versions
by release; runs of the dead training are closed, and the first champion is decided once.
"""

import fcntl
import importlib.util
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from conf.errors import PlainError
from conf.home import Home
from conf.sections.storage import Storage
from conf.settings import Settings
from events.clock import now_ms
from events.store import place_of
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Decision, Ledger, SigningKey
from mlflow_server.registry import Registry
from models.shelf import SHELF
from monitoring.gates import inputs
from pipelines.attempt import Work, disguised
from pipelines.book import Book
from pipelines.evaluate import windows
from pipelines.session import Session
from pipelines.snapshot import Snapshot, cut
from pipelines.trained import Training

ROOT = Path(__file__).parents[1]
DISK_FULL = "database or disk is full"  # SQLite's words


class TrainError(PlainError):
    """Training cannot start: another one runs, or a model that was named does not exist."""


def train(
    home: Home,
    settings: Settings,
    *,
    models: Sequence[str] | None = None,
    trials: int = 0,
    minutes: float | None = None,
    seed: int = 0,
    snapshot: Snapshot | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Training:
    """Train the candidates and judge them; popularity always comes first. TrainError where another training runs.

    snapshot: what to learn from, where the caller has just cut it; otherwise it is cut here.
    """
    names = _names(settings.train.models if models is None else models)
    with _alone(home), ThreadPoolExecutor(1) as opener:
        opening = opener.submit(Registry, home, settings.registry.name, settings.storage)  # takes MLflow seconds
        begun, told = time.monotonic(), _in_turn(report)
        if snapshot is None:
            told("cutting a snapshot of the history")
            snapshot = cut(home, settings)
        book = Book(Ledger.to_write(home.ledger, home.keys), now_ms(home, settings))
        fit = inputs.judge(inputs.InputsEvidence.of(snapshot.id, snapshot.statistics, book.now), settings.inputs)
        book.record(fit)
        told(f"snapshot {snapshot.id[:12]}: {len(snapshot.interactions):,} interactions; gate inputs: {fit.verdict}")
        if snapshot.note:
            told(snapshot.note)
        if fit.verdict != "pass":
            return _untrained(snapshot, fit, book)
        work = _work(home, settings, snapshot, trials, minutes, seed, told)
        seconds = {"snapshot": round(time.monotonic() - begun, 2)}
        try:
            return Session(home, work, snapshot, fit, book, seconds).run(names, opening)
        except Exception as why:  # MLflow has several kinds for what SQLite says here
            cause = _outside_trouble(why, home, settings.storage)
            if cause is None:
                raise
            raise TrainError(cause) from why


def _names(models: Sequence[str]) -> list[str]:
    """The candidates beside popularity, each once. TrainError for a name that can be nothing."""
    for name in models:
        file, colon, _ = name.rpartition(":")
        if name.endswith(".py"):
            raise TrainError(f"model {name}: which class of the file? Name it {name}:Class")
        if colon and not Path(file).is_file():
            raise TrainError(f"model {name}: no file {file}; name it FILE.py:Class")
        if not colon and name not in SHELF and not _module_exists(name):
            raise TrainError(
                f"no model {name!r}: name one of {', '.join(SHELF)}, package.module.Class or FILE.py:Class"
            )
    return [name for name in dict.fromkeys(models) if name != "popularity"]


def _module_exists(name: str) -> bool:
    module = name.rpartition(".")[0]
    if not module or module.endswith(".py"):
        return False
    if Path(*module.split(".")).with_suffix(".py").is_file():
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """One training at a time in a home; the kernel frees the lock of one that was killed."""
    path = home.root / "train.lock"
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainError(f"another training runs in {home.root}: wait until it ends") from None
        yield


def _work(
    home: Home,
    settings: Settings,
    snapshot: Snapshot,
    trials: int,
    minutes: float | None,
    seed: int,
    told: Callable[[str], None],
) -> Work:
    return Work(
        settings=settings,
        interactions=snapshot.interactions,
        disguised=disguised(snapshot.interactions, seed),
        windows=windows(snapshot.interactions, settings.evaluate),
        snapshot=snapshot.id,
        offset=snapshot.statistics["offset"],
        commit=_commit(),
        key=SigningKey(home.keys),
        releases=home.releases,
        tuning=_searches(home, snapshot.id),
        trials=trials,
        minutes=minutes,
        seed=seed,
        report=told,
    )


def _searches(home: Home, snapshot: str) -> Path:
    """Where searches on this snapshot by this code are kept; those on others are of no more use."""
    mine = home.tuning / f"{snapshot[:16]}-{_commit()[:16]}"
    for other in home.tuning.glob("*"):
        if other != mine:
            shutil.rmtree(other, ignore_errors=True)
    return mine


@cache
def _commit() -> str:
    """The commit of the code that trains, `-dirty` where files differ from it; `unknown` outside a git checkout.

    Asked once: what was committed since this process started is not what it runs.
    """
    try:
        asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _in_turn(report: Callable[[str], None]) -> Callable[[str], None]:
    """`report`, called by one thread at a time."""
    lock = threading.Lock()

    def told(line: str) -> None:
        with lock:
            report(line)

    return told


def _outside_trouble(why: Exception, home: Home, storage: Storage) -> str | None:
    """What the disk or the bucket says under MLflow, in a sentence; None where it is something else."""
    if DISK_FULL in str(why):
        return f"{home.registry}: no space left on the disk; free some and repeat"
    if not storage.bucket or isinstance(why, PlainError):
        return None
    from events.bucket import trouble

    told = trouble(why, storage)
    return f"MLflow's artifacts in {place_of(storage)}: {told}" if told else None


def _untrained(snapshot: Snapshot, fit: Decision, book: Book) -> Training:
    sentence = f"Nothing was trained: gate inputs says {fit.verdict}: {fit.reason}"
    found = {alias: entry.body for alias, entry in in_charge(book.ledger).items()}
    champion, challenger = found.get("champion", {}), found.get("challenger", {})
    version, rule = champion.get("version"), champion.get("rule", "")
    return Training(snapshot.id, fit, (), version, challenger.get("version"), rule, sentence)

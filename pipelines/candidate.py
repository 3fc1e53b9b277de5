"""A candidate: a model whose code runs in a process of its own, in an empty folder, and is told only what was known.

`Candidate` is a `Recommender` like any other, so evaluation and release building need not know. What its process does
(raises, hangs, dies, is killed for memory) arrives here as `CandidateFailed` with the reason in one line.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from conf.environment import for_foreign_code
from conf.errors import PlainError
from conf.sections.training import Evaluate, Train
from models.base import Recommender, Slates
from models.interactions import Catalogue, Histories, Interactions, LiveCounts
from models.shelf import Shelved
from pipelines import wire
from pipelines.strays import end_strays

LAST_WORDS = 2000  # bytes of its standard error that may explain a death
INTERRUPTED = "the training was interrupted"
CURVES, POINTS = 20, 10_000  # that a fit may leave, and points of each
CURVE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,60}")
LAST_MOMENT_S = 2.0  # between the end of its answers and its own end


class CandidateFailed(PlainError):
    """The candidate raised, hung, died or answered nonsense; the message is the reason in one line."""


def start(name: str, conf: Train, seed: int, config: dict[str, Any] | None = None) -> "Candidate":
    """Start the process of the model `name`; CandidateFailed where it cannot be found or made."""
    host = Host(name, conf, seed)
    try:
        told = host.ask("describe", config=config, device=conf.device)
    except CandidateFailed:
        host.close()
        raise
    shelved = _shelved(told)
    made = shelved.cls.__new__(shelved.cls)
    assert isinstance(made, Candidate)
    made.device = conf.device
    made.meet(host, shelved, told["config"], seed)
    return made


@dataclass(frozen=True)
class Search:
    """What a search for settings found: the best, and all trials, also those of before it was killed. Plain values."""

    config: dict[str, Any]
    trials: list[dict[str, Any]]


class Candidate(Recommender):
    """A model in its own process. Close it; a closed or dead one raises CandidateFailed on every call.

    Its class is a stand-in with the name and module of the model's, since the release's manifest records those.
    """

    shelved: Shelved

    def meet(self, host: "Host", shelved: Shelved, config: dict[str, Any], seed: int) -> None:
        self._host, self.shelved, self.seed = host, shelved, seed
        self.config = make_dataclass("Config", config, frozen=True)(**config)
        self._half_lives = tuple[float, ...]()

    def renew(self, config: dict[str, Any]) -> None:
        """Make the model anew with other settings, as if it had never been fitted."""
        told = self._host.ask("describe", config=config, device=self.device)
        self.meet(self._host, self.shelved, told["config"], self.seed)

    def tune(
        self,
        history: Interactions,
        conf: Evaluate,
        trials: int,
        minutes: float | None,
        report: Callable[[Any], None],
        journal: Path | None = None,
    ) -> "Search":
        """The best settings found on validation; `report` is called with each trial as it ends.

        journal: where the search is kept, and goes on from: one that was killed loses no more than a trial.
        """
        host, storage = self._host, self._host.folder / "trials.journal"
        if journal and journal.exists():
            shutil.copyfile(journal, storage)

        def told(trial: Any) -> None:
            if journal:
                with contextlib.suppress(OSError):  # on a full disk the search goes on, and could only not be resumed
                    _keep_lines(storage, journal)
            report(trial)

        answer = host.ask(
            "tune",
            report=told,
            history=host.send(history),
            conf=conf.model_dump(),
            trials=trials,
            minutes=minutes,
            storage=str(storage),
        )
        return Search(answer["config"], answer["trials"])

    @property
    def half_lives_days(self) -> tuple[float, ...]:
        return self._half_lives

    def fit(self, history: Interactions) -> Self:
        told = self._host.ask("fit", history=self._host.send(history))
        self._half_lives, self.curves = tuple(told["half_lives_days"]), _curves(told["curves"])
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        raise NotImplementedError("a candidate's scores stay in its process: ask for slates")

    def slates(self, histories: Histories, live: LiveCounts, now_ms: int, k: int) -> Slates:
        """Made in its process by the rules of models/base.py; what comes back is checked against them."""
        host, shape = self._host, (len(histories), k)
        told = host.ask("slates", histories=host.send(histories), live=host.send(live), now_ms=now_ms, k=k)
        size = len(live.catalogue)
        try:
            items, scores = (np.load(host.folder / f"{name}.npy", allow_pickle=False) for name in ("items", "scores"))
        except (OSError, EOFError, ValueError) as why:
            raise CandidateFailed(f"its process left no slates: {why}") from why
        if items.dtype != np.int32 or scores.dtype != np.float64:
            raise CandidateFailed("its process answered with something that is no slate")
        if items.shape != shape or scores.shape != shape or items.min(initial=-1) < -1 or items.max(initial=-1) >= size:
            raise CandidateFailed("its process answered with something that is no slate")
        row = np.repeat(np.arange(len(histories)), np.diff(histories.seen_indptr))
        if np.isin(
            (np.arange(len(histories))[:, None] * size + items)[items >= 0], row * size + histories.seen_items
        ).any():
            raise CandidateFailed("its process answered with movies that the viewers have seen")
        return Slates(items, scores, int(told["non_finite"]))

    def save(self, folder: Path) -> None:
        self._host.ask("save", folder=str(folder))

    def load(self, folder: Path) -> Self:
        raise NotImplementedError("a candidate is loaded from its release, by mlflow_server.release.load")

    def close(self) -> None:
        self._host.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_HOSTS: "weakref.WeakSet[Host]" = weakref.WeakSet()
_STOPPED = threading.Event()


def stop_all() -> None:
    """Kill every candidate process and start none, so that whoever waits for one goes on: training was interrupted."""
    _STOPPED.set()
    for host in list(_HOSTS):
        host.kill()


def allow() -> None:
    """Candidates may start again: another training begins."""
    _STOPPED.clear()


class Host:
    """The process, its folder, and the conversation with it. It is killed at its time limit, with all it started."""

    def __init__(self, name: str, conf: Train, seed: int) -> None:
        if _STOPPED.is_set():
            raise CandidateFailed(INTERRUPTED)
        self.name, self.minutes = name, conf.candidate_timeout_minutes
        self.folder = Path(tempfile.mkdtemp(prefix="greenlight-candidate-"))
        self._numbers, self._catalogues = itertools.count(), dict[int, tuple[Catalogue, Path]]()
        self._sent: dict[type, tuple[Any, Path]] = {}
        self._late = False
        empty = self.folder / "empty"
        empty.mkdir()
        threads = max(1, (os.cpu_count() or 1) // conf.at_once)
        self._stderr = (self.folder / "stderr").open("w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.foreign", _absolute(name), str(seed), str(conf.candidate_memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            cwd=empty,
            env={**for_foreign_code(str(empty), threads), "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *_path()])},
            start_new_session=True,
            text=True,
        )
        self._timer = threading.Timer(self.minutes * 60, self._out_of_time)
        self._timer.daemon = True
        self._timer.start()
        _HOSTS.add(self)

    def ask(self, do: str, report: Callable[[Any], None] | None = None, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its answer; `report` gets what is told meanwhile."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            number = next(self._numbers)
            self._process.stdin.write(json.dumps({"do": do, "number": number, **request}) + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                answer = json.loads(line)
                if not isinstance(answer, dict) or answer.get("number") != number:
                    raise ValueError("an answer to something else")
                if "news" not in answer:
                    break
                if report:
                    report(answer["news"])
            else:
                raise CandidateFailed(self._death())
        except (BrokenPipeError, ValueError) as why:  # it died before, or its answer is none
            raise CandidateFailed(self._death()) from why
        if "fault" in answer:
            raise CandidateFailed(answer["fault"])
        return answer

    def send(self, value: wire.Value) -> str:
        """The folder in which `value` now lies; what was sent last is not sent again."""
        kind = type(value)
        last, place = self._sent.get(kind, (None, None))
        if last is not value or place is None:
            if place is not None:
                shutil.rmtree(place)
            place = self.folder / str(next(self._numbers))
            wire.write(place, value, self._catalogue(value.catalogue))
            self._sent[kind] = (value, place)
        return str(place)

    def close(self) -> None:
        self._timer.cancel()
        self.kill()
        self._process.wait()
        end_strays(self.folder / "empty")
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _catalogue(self, catalogue: Catalogue) -> Path:
        if id(catalogue) not in self._catalogues:
            place = self.folder / f"catalogue-{next(self._numbers)}"
            wire.write_catalogue(place, catalogue)
            self._catalogues[id(catalogue)] = (catalogue, place)
        return self._catalogues[id(catalogue)][1]

    def _out_of_time(self) -> None:
        self._late = True
        self.kill()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _death(self) -> str:
        """Why the process is gone, in one line. Its pipe closes a moment before it ends: only then it has a status."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LAST_MOMENT_S)
        closed = self._process.poll() is None
        self.kill()
        code = self._process.wait()
        if _STOPPED.is_set():
            return INTERRUPTED
        if self._late:
            return f"took longer than {self.minutes:g} minutes and was stopped (train.candidate_timeout_minutes)"
        if closed:
            return "its process closed the pipe to the training, or wrote into it"
        if code == -signal.SIGKILL:
            return "its process was killed (SIGKILL), as happens when memory runs out"
        if code < 0:
            return f"its process died of {signal.Signals(-code).name}"
        return f"its process ended with status {code}{self._last_words()}"

    def _last_words(self) -> str:
        if self._stderr.closed:
            return ""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - LAST_WORDS))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""


def _shelved(told: dict[str, Any]) -> Shelved:
    """A stand-in for the candidate's class: its name and place, the conversation for its methods."""
    cls = type(told["qualname"].rpartition(".")[2], (Candidate,), {"__module__": told["module"]})
    cls.__qualname__ = told["qualname"]
    return Shelved(told["name"], cls, Path(told["source"]) if told["source"] else None)


def _curves(told: dict[str, list[float]]) -> dict[str, list[float]]:
    """The curves that a fit left, if MLflow can show them; CandidateFailed otherwise."""
    if len(told) > CURVES or any(len(values) > POINTS for values in told.values()):
        raise CandidateFailed(f"its fit left more than {CURVES} curves, or one of more than {POINTS:,} points")
    odd = [name for name in told if not CURVE_NAME.fullmatch(name)]
    if odd:
        raise CandidateFailed(f"its fit left a curve named {odd[0][:50]!r}: a name may hold only a-z A-Z 0-9 . _ -")
    return told


def _keep_lines(written: Path, kept: Path) -> None:
    """Copy the whole lines of a journal that a candidate's process goes on writing, so that the copy is never torn."""
    whole = written.read_bytes()
    kept.parent.mkdir(parents=True, exist_ok=True)
    beside = kept.with_suffix(".new")
    beside.write_bytes(whole[: whole.rfind(b"\n") + 1])
    beside.replace(kept)


def _absolute(name: str) -> str:
    """`FILE.py:Class` with the whole path: the process runs in another folder."""
    file, colon, cls = name.rpartition(":")
    return f"{Path(file).absolute()}:{cls}" if colon and file.endswith(".py") else name


def _path() -> list[str]:
    return [entry for entry in sys.path if entry and Path(entry).is_dir() and "site-packages" not in entry]

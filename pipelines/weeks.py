"""`greenlight demo --weeks N`: weeks of a home's life, hands free, before an audience whose taste moves half-way.

Each day viewers ask for slates and react, and the running experiment is looked at; each week the jobs of the schedule
run: drift report and retraining where it is due, then prune. What the loop is worth is measured by the simulator's
truth, beside the popularity ranking's for the same viewers at the same moments.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Ledger
from pipelines import experiment
from pipelines.prune import prune
from pipelines.rehearsal import ACTOR
from pipelines.retrain import Retrained
from pipelines.serve import Server
from pipelines.stage import Played, Stage

WEEK_S = 7 * 86_400


class WeeksError(PlainError):
    """A job of the week could not be run."""


@dataclass(frozen=True)
class Week:
    """One week. worth: likings a slate in truth; over_popularity: as a multiple of the popularity ranking's, None where
    that is not known. disk_mb: of the whole home; log_mb: of what happened, which is never thrown away."""

    number: int
    slates: int
    failures: int
    worth: float
    over_popularity: float | None
    champion: int  # version, at the week's end
    verdicts: tuple[str, ...]  # of experiments that ended
    retraining: str  # how it ended
    version: int | None  # that it made challenger
    why: str  # there was a retraining; empty where there was none
    drift: str
    disk_mb: float
    log_mb: float
    memory_mb: float  # of the service
    did: str  # what the loop did, in words


@dataclass
class Weeks:
    """Plays weeks before a running service. One row a week."""

    home: Home
    settings: Settings
    stage: Stage
    server: Server
    report: Callable[[str], None]

    def play(self, count: int) -> list[dict[str, Any]]:
        return [asdict(self.week(number)) for number in range(1, count + 1)]

    def week(self, number: int) -> Week:
        known = len(self._verdicts())
        played = self.stage.play(7, lambda so_far: self._look())
        made = self._retrain()
        self._prune()
        week = self._row(number, played, made, self._verdicts()[known:])
        times = f", {week.over_popularity:.2f} x popularity's" if week.over_popularity else ""
        self.report(f"week {number}: {week.worth:.2f} likings a slate{times}; {week.did}")
        return week

    def _row(self, number: int, played: Played, made: Retrained, verdicts: list[str]) -> Week:
        ledger = Ledger.to_read(self.home.ledger, self.home.keys)
        return Week(
            number=number,
            slates=played.total,
            failures=sum(played.failures.values()),
            worth=sum(played.worth.values()) / max(1, played.total),
            over_popularity=played.over_popularity,
            champion=in_charge(ledger)["champion"].body["version"],
            verdicts=tuple(verdicts),
            retraining=made.outcome,
            version=made.version,
            why=made.why,
            drift=made.drift,
            disk_mb=_size_mb(self.home.root),
            log_mb=_size_mb(self.home.history) + sum(map(_size_mb, self.home.root.glob(f"{self.home.log.name}*"))),
            memory_mb=_memory_mb(self.server),
            did=_in_words(verdicts, made),
        )

    def _verdicts(self) -> list[str]:
        """Of all experiments that ended."""
        book = Ledger.to_read(self.home.ledger, self.home.keys)
        return [entry.body["verdict"] for entry in book.entries("verdict")]

    def _look(self) -> None:
        """At the running experiment, as the hourly job does it."""
        if experiment.kept(self.home).state == "running":
            experiment.advance(self.home, self.settings, auto=True, actor=ACTOR)

    def _retrain(self) -> Retrained:
        """As the nightly job does it, in a process of its own: what a training has taken, the allocator would keep."""
        command = [sys.executable, "-m", "greenlight", "retrain", "--if-due", "--json"]
        environment = self.home.environment_of(self.settings)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            raise WeeksError(f"greenlight retrain ended with status {done.returncode}: {done.stderr.strip()[-600:]}")
        return Retrained(**json.loads(done.stdout))

    def _prune(self) -> None:
        """As the nightly job does. By the wall these weeks are minutes: so files that only time makes useless are made
        a week older, and nothing counts as being under way."""
        for folder in (self.home.reports, self.home.outbox):
            for path in folder.rglob("*"):
                told = path.stat()
                os.utime(path, (told.st_atime, told.st_mtime - WEEK_S))
        prune(self.home, self.settings, young_s=0)


def _in_words(verdicts: list[str], made: Retrained) -> str:
    """The verdicts first, then the retraining, and why there was one."""
    told = [f"A/B: {verdict}" for verdict in verdicts]
    if made.why:
        came = f"version {made.version} is challenger" if made.version else "no challenger"
        told.append(f"retrained, since {made.why.partition(':')[0]}: {came}")
    return "; ".join(told) or "nothing was due"


def _size_mb(place: Path) -> float:
    """Of a file or a folder; a file that goes away meanwhile counts for nothing."""
    total = 0
    for path in (place, *place.rglob("*")):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total / 1e6


def _memory_mb(server: Server) -> float:
    family = psutil.Process(server.process.pid)
    return sum(p.memory_info().rss for p in (family, *family.children(recursive=True))) / 1e6

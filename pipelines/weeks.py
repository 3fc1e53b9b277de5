"""`greenlight demo --weeks N`: weeks of a home's life, hands free, before an audience whose taste moves half-way.

Each day viewers ask for slates and react, and the running experiment is looked at; each week the jobs of the schedule
run: drift report and retraining where it is due, then prune. What the loop is worth is measured by the simulator's
truth, beside the popularity ranking's for the same viewers at the same moments.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from conf.home import Home
from conf.settings import Settings
from pipelines import experiment
from pipelines.prune import prune
from pipelines.rehearsal import ACTOR
from pipelines.retrain import retrain
from pipelines.serve import Server
from pipelines.stage import Stage


@dataclass(frozen=True)
class Week:
    """One week. worth: likings a slate in truth; over_popularity: as a multiple of the popularity ranking's."""

    number: int
    slates: int
    failures: int
    worth: float
    over_popularity: float | None
    retraining: str  # how it ended
    drift: str
    verdicts: tuple[str, ...]  # of experiments that ended
    disk_mb: float
    memory_mb: float


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
        verdicts: list[str] = []
        played = self.stage.play(7, lambda so_far: verdicts.extend(self._ended()))
        made = retrain(self.home, self.settings, if_due=True, actor=ACTOR, report=lambda line: None)
        prune(self.home, self.settings)
        week = Week(
            number=number,
            slates=played.total,
            failures=sum(played.failures.values()),
            worth=sum(played.worth.values()) / max(1, played.total),
            over_popularity=played.over_popularity,
            retraining=made.outcome,
            drift=made.drift,
            verdicts=tuple(verdicts),
            disk_mb=sum(f.stat().st_size for f in self.home.root.rglob("*") if f.is_file()) / 1e6,
            memory_mb=_memory_mb(self.server),
        )
        worth = f"{week.worth:.2f} likings a slate"
        if times := week.over_popularity:
            worth += f", {times:.2f} x popularity's"
        self.report(f"week {number}: {worth}; {made.sentence} {', '.join(verdicts)}")
        return week

    def _ended(self) -> list[str]:
        """Look at the running experiment; its verdict, where that ends it."""
        if experiment.kept(self.home).state != "running":
            return []
        verdict = experiment.advance(self.home, self.settings, auto=True, actor=ACTOR).verdict
        return [verdict] if verdict else []


def _memory_mb(server: Server) -> float:
    family = psutil.Process(server.process.pid)
    return sum(p.memory_info().rss for p in (family, *family.children(recursive=True))) / 1e6

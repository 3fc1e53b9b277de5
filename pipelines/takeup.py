"""Until the workers serve what was decided: who has taken it up, who refuses, who still waits."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from conf.home import Home
from serving.report import WorkerReport, reports

PATIENCE_S = 60.0
LOOK_S = 0.1


@dataclass(frozen=True)
class Takeup:
    """Process ids of the workers that live, and the sentence about them. `refused`: why, by process id."""

    serving: tuple[int, ...]
    waiting: tuple[int, ...]
    refused: dict[int, str]
    sentence: str


def wait(home: Home, release: str, alias: str, report: Callable[[int], None], patience_s: float = PATIENCE_S) -> Takeup:
    """Until every worker serves a release in an arm, or refuses it. `report` hears how many serve it."""
    until = time.monotonic() + patience_s
    while True:
        found = takeup(reports(home), release, alias)
        report(len(found.serving))
        if not found.waiting or time.monotonic() > until:
            return found
        time.sleep(LOOK_S)


def takeup(workers: list[WorkerReport], release: str, alias: str) -> Takeup:
    """How far it has come."""
    serving = tuple(w.pid for w in workers if alias in w.arms and w.arms[alias].release == release)
    refused = {w.pid: w.refused[release].reason for w in workers if w.pid not in serving and release in w.refused}
    waiting = tuple(w.pid for w in workers if w.pid not in serving and w.pid not in refused)
    return Takeup(serving, waiting, refused, _sentence(len(workers), serving, waiting, refused))


def _sentence(workers: int, serving: tuple[int, ...], waiting: tuple[int, ...], refused: dict[int, str]) -> str:
    if not workers:
        return "No worker runs: the next one to start serves it."
    if len(serving) == workers:
        return f"All {workers} workers serve it." if workers > 1 else "The one worker serves it."
    parts = [f"{len(serving)} of {workers} workers serve it"]
    parts += [f"worker {pid} refuses it: {why}" for pid, why in refused.items()]
    if waiting:
        parts.append(f"not yet: worker {', '.join(map(str, waiting))} (greenlight status tells when)")
    return "; ".join(parts) + "."

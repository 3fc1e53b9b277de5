"""Which jobs are overdue, judged from what the scheduler left behind and never by the scheduler itself.

A scheduler that lives runs what is due, so a job is late when its time has passed and nothing runs, or when what runs
is past its limit. `greenlight status` looks here, and so does the loop that sends mail (`pipelines/watch.py`): it tells
once for each spell, and looks twice before it does, so that a wall clock that jumps is no alarm.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from conf.home import Home
from events.clock import event_ms, wall_ms, when
from pipelines.loop import read_json, write_json

DEAD_MS = 60_000  # a scheduler that gave no sign of life for so long runs nothing
MINUTE_MS = 60_000
SURE_S = 30.0  # how long a job must look overdue before it is told


@dataclass(frozen=True)
class Late:
    """A job that is overdue: since when, in wall time; what is wrong, in words; the next command. due: its spell."""

    name: str
    due: int
    since_wall_ms: int
    what: str
    next: str


def late(home: Home) -> list[Late]:
    """The jobs that are overdue now; none where no scheduler ever ran."""
    told = read_json(home.jobs)
    if told is None:
        return []
    table, now = told["jobs"], wall_ms()
    patience, beat = told["late_minutes"] * MINUTE_MS, told["beat_wall_ms"]
    lives = abs(now - beat) < DEAD_MS
    found = [_hangs(name, row) for name, row in table.items() if lives and _past_its_limit(row, now, patience)]
    if found or (lives and any(row["running"] for row in table.values())):
        return found  # what else is due waits for the one that runs
    clocks = {"wall": now, "event": _event_now(home, table)}
    for name, row in table.items():
        if row["next_ms"] is None or clocks[row["clock"]] < row["next_ms"]:
            continue
        since = row["next_ms"] if row["clock"] == "wall" else beat  # it was not due when the scheduler last looked
        if now - since > patience:
            what = (
                f"was due {when(row['next_ms'])} and has not run; the scheduler's last sign of life is of {when(beat)}"
            )
            found.append(Late(name, row["next_ms"], since, what, row["command"]))
    return found


class Alarm:
    """Tells what is overdue, once for each spell, over restarts too. tell: gets all that is late, where some is new."""

    def __init__(self, home: Home, tell: Callable[[list[Late]], None], sure_s: float = SURE_S) -> None:
        self.home, self._tell, self._sure_s = home, tell, sure_s
        self._seen: dict[tuple[str, int], float] = {}

    def step(self) -> None:
        """One look. OSError where it cannot be noted what was told."""
        found, now = late(self.home), time.monotonic()
        self._seen = {(job.name, job.due): self._seen.get((job.name, job.due), now) for job in found}
        sure = [job for job in found if now - self._seen[job.name, job.due] >= self._sure_s]
        told = read_json(self.home.overdue) or {}
        if any(told.get(job.name) != job.due for job in sure):
            self._tell(sure)
        noted = {job.name: job.due for job in found if job in sure or told.get(job.name) == job.due}
        if noted != told:
            write_json(self.home.overdue, noted)


def _past_its_limit(row: dict[str, Any], now: int, patience: float) -> bool:
    return row["running"] and now - row["began_wall_ms"] > row["minutes"] * MINUTE_MS + patience


def _hangs(name: str, row: dict[str, Any]) -> Late:
    began = row["began_wall_ms"]
    what = f"runs since {when(began)}, though its limit is {row['minutes']:g} min"
    return Late(name, row["next_ms"] or began, began, what, "greenlight up, once more: it ends what hangs")


def _event_now(home: Home, table: dict[str, dict[str, Any]]) -> int:
    return 0 if all(row["clock"] == "wall" for row in table.values()) else event_ms(home)

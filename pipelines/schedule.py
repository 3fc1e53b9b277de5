"""The jobs that run by a clock: `python -m pipelines.schedule`. `greenlight up` runs it.

Times are five cron fields in the settings (`schedule`). Prune goes by the wall, since disks fill by the wall; what
decides or serves goes by the home's clock: on a home with the clock `event` a week of jobs passes while a week of
events is read.

- Each job runs once for its time, however its clock jumps. Times that passed while nothing ran, or while another job
  did, count as one. A clock that is set back lets nothing run again, unless it was more than a day ahead.
- Each is a verb of the command line in a process of its own; what it says is kept whole in `logs/job-<name>.log` and
  its end in `jobs.json`. One at a time, since a training alone fills the machine: of those that are due the one that
  ended longest ago begins, and each has a limit, so that none waits for ever.
- `jobs.json` also says when the scheduler lived last. Whoever else looks (`pipelines/overdue.py`) can tell by it that a
  job is overdue, even when the scheduler is what died.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from conf.errors import PlainError
from conf.home import Home
from conf.sections.jobs import Schedule
from conf.settings import Settings, load
from events.clock import now_ms, wall_ms
from events.turns import step_aside
from pipelines import limited
from pipelines.cron import Times, times
from pipelines.limited import Ended, output_of
from pipelines.loop import asked_to_end, read_json, speak, write_json
from pipelines.notices import of_ended
from pipelines.outbox import post

log = logging.getLogger("greenlight.schedule")

LOOK_S = 20.0  # the longest sleep: a wall clock that was set is noticed within it
EVENT_LOOK_S = 1.0  # an event clock runs as fast as events come
BEAT_MS = 5_000  # how often the scheduler says that it lives
DAY_MS = 86_400_000
MOMENTS, WORDS = ("since_ms", "began_wall_ms", "ended_wall_ms"), ("said", "told")
KEPT = (*MOMENTS, "status", *WORDS)  # of an earlier life's rows
FAR_MS = 1 << 47  # the year 6429: a later moment is none

VERBS: dict[str, tuple[str, ...]] = {  # each job's words, as after `greenlight`; `schedule.<name>` is its time
    "experiment": ("experiment", "advance"),
    "drift": ("report", "drift", "--mail"),
    "precompute": ("precompute",),
    "prune": ("prune",),
    "retrain": ("retrain", "--if-due"),
}
BY_THE_WALL = ("prune",)
WRITE_OF_REFUSALS = ("retrain",)  # jobs whose refusals (status 1) are told by a letter of their own


@dataclass(frozen=True)
class Job:
    """name: in `jobs.json`; words: the verb; clock: by which its time comes; minutes: of wall time that it may take."""

    name: str
    words: tuple[str, ...]
    times: Times
    clock: Literal["wall", "event"]
    minutes: float

    @property
    def command(self) -> str:
        return " ".join(("greenlight", *self.words))


def jobs(schedule: Schedule, clock: Literal["wall", "event"]) -> list[Job]:
    """The jobs that have a time; clock: the home's. ScheduleError where a time is none."""
    found = []
    for name, words in VERBS.items():
        if (text := getattr(schedule, name)).strip():
            when, minutes = times(text, schedule.zone, f"schedule.{name}"), getattr(schedule, f"{name}_minutes")
            found.append(Job(name, words, when, "wall" if name in BY_THE_WALL else clock, minutes))
    return found


class Scheduler:
    """Runs what is due, one job at a time.

    run_job: runs a job's verb, and calls what it is given now and then while it waits; None where it was broken off.
    tell: gets a job that did not end well, once until what it says is another.
    """

    def __init__(
        self,
        home: Home,
        wanted: Sequence[Job],
        run_job: Callable[[Job, Callable[[], None]], Ended | None],
        late_minutes: float = 10,
        tell: Callable[[Job, Ended, int], None] = lambda job, ended, began_wall_ms: None,
    ) -> None:
        self.home, self.jobs, self._run_job = home, list(wanted), run_job
        self._late_minutes, self._tell = late_minutes, tell
        self._written: tuple[int, Any] = (0, None)
        known = (read_json(home.jobs) or {}).get("jobs")
        rows = known if isinstance(known, dict) else {}
        self.table: dict[str, dict[str, Any]] = {job.name: _row(job, rows.get(job.name)) for job in self.jobs}

    def step(self, wall: int, home_now: int) -> float:
        """Run one job that is due. wall, home_now: what the clocks show, in ms; how many seconds to sleep then."""
        now = {job.name: wall if job.clock == "wall" else home_now for job in self.jobs}
        for job in self.jobs:
            _plan(job, self.table[job.name], now[job.name])
        self.beat()
        if waiting := [job for job in self.jobs if _is_due(self.table[job.name], now[job.name])]:
            self._run(min(waiting, key=lambda job: self.table[job.name].get("ended_wall_ms") or 0), now)
            return 0.0
        times = [self.table[j.name]["next_ms"] for j in self.jobs if j.clock == "wall"]
        soonest = min((t for t in times if t is not None), default=wall + 1000 * LOOK_S)
        look_s = EVENT_LOOK_S if any(job.clock == "event" for job in self.jobs) else LOOK_S
        return min(look_s, max(0.0, (soonest - wall) / 1000))

    def beat(self) -> None:
        """Say in `jobs.json` how it stands: where something changed, and now and then. A full disk stops nobody."""
        told = {name: dict(row) for name, row in self.table.items()}
        wall = wall_ms()
        if told == self._written[1] and abs(wall - self._written[0]) < BEAT_MS:
            return
        self._written = (wall, told)
        head = {"pid": os.getpid(), "beat_wall_ms": wall, "late_minutes": self._late_minutes}
        try:
            write_json(self.home.jobs, head | {"jobs": told})
        except OSError as why:
            log.warning("%s cannot be written: %s", self.home.jobs, why.strerror or why)

    def _run(self, job: Job, now: dict[str, int]) -> None:
        row = self.table[job.name]
        row |= {"running": True, "began_wall_ms": wall_ms()}
        self.beat()
        ended = self._run_job(job, self.beat)
        if ended is None:  # the scheduler ends: the job is due still, when it comes back
            row["running"] = False
            return self.beat()
        row |= {"status": ended.status, "said": ended.said, "ended_wall_ms": wall_ms(), "running": False}
        row["since_ms"] = max(now[job.name], row["next_ms"])
        log.info("%s ended with status %d: %s", job.name, ended.status, ended.said)
        trouble = f"{ended.status}: {ended.said}" if ended.status else ""
        itself = ended.status == 1 and job.name in WRITE_OF_REFUSALS
        if trouble and trouble != row.get("told") and not itself:
            self._tell(job, ended, row["began_wall_ms"])
        row["told"] = trouble
        _plan(job, row, now[job.name])
        return self.beat()


def _row(job: Job, known: dict[str, Any] | None) -> dict[str, Any]:
    """A job's line in `jobs.json`. since_ms, next_ms: by the job's own clock; next_ms: None for never."""
    earlier = known if isinstance(known, dict) and known.get("clock") == job.clock else {}
    fixed = {"command": job.command, "clock": job.clock, "minutes": job.minutes}
    kept = {name: earlier[name] for name in KEPT if name in earlier and _is_ours(name, earlier[name])}
    return fixed | {"next_ms": None, "running": False} | kept


def _is_ours(name: str, value: Any) -> bool:
    """Whether a scheduler wrote that: a file that was damaged keeps no job from running."""
    if name in WORDS:
        return isinstance(value, str)
    return type(value) is int and (name not in MOMENTS or 0 <= value < FAR_MS)


def _plan(job: Job, row: dict[str, Any], now: int) -> None:
    """When it is due next. Counted from the first moment that its clock shows: an event clock shows 0 before any."""
    if now and (row.get("since_ms") is None or row["since_ms"] > now + DAY_MS):
        row["since_ms"] = now
    row["next_ms"] = None if row.get("since_ms") is None else job.times.after(row["since_ms"])


def _is_due(row: dict[str, Any], now: int) -> bool:
    return row["next_ms"] is not None and row["next_ms"] <= now


def run_verb(home: Home, end: threading.Event) -> Callable[[Job, Callable[[], None]], Ended | None]:
    """Runs a job's verb within its limit; where the end is asked for meanwhile, the verb is asked, too."""

    def run(job: Job, beat: Callable[[], None]) -> Ended | None:
        def tick() -> bool:
            beat()
            return not end.is_set()

        home.logs.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "greenlight", *job.words]
        return limited.run(command, home.environment(), output_of(home, job.name), 60 * job.minutes, tick)

    return run


def by_mail(home: Home, settings: Settings) -> Callable[[Job, Ended, int], None]:
    """Posts a letter about a job that did not end well. A full disk keeps no job from running."""

    def tell(job: Job, ended: Ended, began_wall_ms: int) -> None:
        try:
            post(home, settings, of_ended(job.name, job.command, ended, began_wall_ms, output_of(home, job.name)))
        except OSError as why:
            log.warning("no letter could be kept about %s: %s", job.name, why.strerror or why)

    return tell


def _main(home: Home, settings: Settings, end: threading.Event) -> None:
    wanted = jobs(settings.schedule, settings.clock)
    scheduler = Scheduler(home, wanted, run_verb(home, end), settings.schedule.late_minutes, by_mail(home, settings))
    while not end.wait(scheduler.step(wall_ms(), _home_now(home, settings))):
        pass


def _home_now(home: Home, settings: Settings) -> int:
    """The home's now in ms; 0 where it cannot be read: then the jobs that go by it wait."""
    try:
        return now_ms(home, settings)
    except PlainError as why:
        log.warning("jobs by the home's clock wait: %s", why)
        return 0


if __name__ == "__main__":
    speak()
    step_aside()
    _end = asked_to_end()
    _main(Home.from_environment().open(), load(), _end)

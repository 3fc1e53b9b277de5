"""The jobs that run by the clock on the wall: `python -m pipelines.schedule`. `greenlight up` runs it.

Times are five cron fields in the settings, in wall time also where the home decides by its event clock: disks fill by
the wall. Each job is a verb of the command line in a process of its own, one at a time. `jobs.json` in the home keeps
when it ran and how it ended; times that were missed while nothing ran count as one, which runs at the start.
"""

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Schedule, load
from events.clock import wall_ms
from pipelines.loop import asked_to_end, read_json, speak, write_json

log = logging.getLogger("greenlight.schedule")

LOOK_S = 20.0  # the longest sleep: a clock that was set is noticed within it
SAID = 500  # characters of what a job said that are kept
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")  # cron's numbers


class ScheduleError(PlainError):
    """The settings name a time that is none."""


@dataclass(frozen=True)
class Job:
    """name: in `jobs.json`; words: the verb, as after `greenlight`."""

    name: str
    words: tuple[str, ...]
    trigger: CronTrigger


def jobs(settings: Schedule) -> list[Job]:
    """The jobs that have a time. ScheduleError where it is none."""
    return [
        Job(name, words, trigger_of(text, settings.zone, f"schedule.{name}"))
        for name, text, words in (("prune", settings.prune, ("prune", "--json")),)
        if text.strip()
    ]


def trigger_of(text: str, zone: str, setting: str = "schedule") -> CronTrigger:
    """Five cron fields, with cron's days of the week: 0 and 7 are Sunday (APScheduler's own reading has 0 Monday)."""
    fields = text.split()
    try:
        if len(fields) != 5:
            raise ValueError(f"it has {len(fields)} fields")
        minute, hour, day, month, weekday = fields
        return CronTrigger(
            minute=minute, hour=hour, day=day, month=month, day_of_week=_weekday(weekday), timezone=ZoneInfo(zone)
        )
    except ValueError as why:
        raise ScheduleError(
            f"setting {setting} = {text!r} is no time ({why}): give minute, hour, day, month and day of the week, "
            'such as "30 4 * * *", or nothing'
        ) from None


def due(job: Job, since_wall_ms: int) -> int | None:
    """When, after that moment, the job is due next: wall time in ms; None for never."""
    after = datetime.fromtimestamp((since_wall_ms + 1) / 1000, UTC)
    found = job.trigger.get_next_fire_time(None, after)
    return None if found is None else round(found.timestamp() * 1000)


class Scheduler:
    """Runs what is due, one job at a time. run_job: runs the words of a job; exit status and what it said."""

    def __init__(self, home: Home, wanted: Sequence[Job], run_job: Callable[[Job], tuple[int, str]]) -> None:
        self.home, self.jobs, self._run_job = home, list(wanted), run_job
        known = read_json(home.jobs) or {}
        now = wall_ms()
        self.table: dict[str, dict[str, Any]] = {
            job.name: {"since_wall_ms": now, **(known.get(job.name) or {})} for job in self.jobs
        }
        for job in self.jobs:
            self._plan(job)
        self._write()

    def step(self, now_ms: int) -> float:
        """Run what is due at a moment of the wall clock; how many seconds to sleep then."""
        for job in self.jobs:
            row = self.table[job.name]
            if row["since_wall_ms"] > now_ms + 86_400_000:  # the clock was a day ahead when that was noted
                row["since_wall_ms"] = now_ms
                self._plan(job)
            if row["next_wall_ms"] is not None and row["next_wall_ms"] <= now_ms:
                self._run(job, row)
        times = [row["next_wall_ms"] for row in self.table.values() if row["next_wall_ms"] is not None]
        return min(LOOK_S, max(0.0, (min(times) - wall_ms()) / 1000)) if times else LOOK_S

    def _run(self, job: Job, row: dict[str, Any]) -> None:
        begun = wall_ms()
        row |= {"running": True, "began_wall_ms": begun}
        self._write()
        status, said = self._run_job(job)
        ended = {"status": status, "said": said[-SAID:], "ended_wall_ms": wall_ms(), "running": False}
        row |= {**ended, "since_wall_ms": max(begun, row["next_wall_ms"] or 0)}
        log.info("%s ended with status %d: %s", job.name, status, row["said"])
        self._plan(job)
        self._write()

    def _plan(self, job: Job) -> None:
        row = self.table[job.name]
        row |= {"next_wall_ms": due(job, row["since_wall_ms"]), "running": False}

    def _write(self) -> None:
        try:
            write_json(self.home.jobs, self.table)
        except OSError as why:
            log.warning("%s cannot be written: %s", self.home.jobs, why.strerror or why)


def run_verb(home: Home, end: threading.Event) -> Callable[[Job], tuple[int, str]]:
    """Runs a job's verb; where the end is asked for meanwhile, the verb is asked, too."""

    def run(job: Job) -> tuple[int, str]:
        command = [sys.executable, "-m", "greenlight", *job.words]
        output, both = subprocess.PIPE, subprocess.STDOUT
        with subprocess.Popen(
            command, env=home.environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=both, text=True
        ) as process:
            while True:
                try:
                    said, _ = process.communicate(timeout=0.5)
                    return process.returncode, " ".join(said.split())
                except subprocess.TimeoutExpired:
                    if end.is_set():
                        process.terminate()

    return run


def _weekday(field: str) -> str:
    """Cron's numbers as names, which mean the same to everybody. A step, as in `*/2`, is no day."""
    body, slash, step = field.partition("/")
    named = "".join(DAYS[int(c)] if c.isdigit() and int(c) < len(DAYS) else c for c in body)
    if named.startswith("sun-") and named != "sun-sun":  # APScheduler's week begins on Monday
        named = f"sun,mon-{named[4:]}"
    return named + slash + step


if __name__ == "__main__":
    speak()
    _end = asked_to_end()
    _home = Home.from_environment().open()
    _scheduler = Scheduler(_home, jobs(load().schedule), run_verb(_home, _end))
    while not _end.wait(_scheduler.step(wall_ms())):
        pass

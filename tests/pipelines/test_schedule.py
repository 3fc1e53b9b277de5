"""What runs by the clock: cron's own reading of its fields, missed times as one, and how each run ended."""

import json
import threading
from datetime import UTC, datetime

import pytest

from conf.home import Home
from conf.settings import Schedule
from events.clock import wall_ms
from pipelines.loop import write_json
from pipelines.schedule import Job, ScheduleError, Scheduler, due, jobs, run_verb, trigger_of

HOUR = 3_600_000


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def job(text: str, zone: str = "UTC") -> Job:
    return Job("prune", ("status",), trigger_of(text, zone))


class Ran:
    """Stands where a verb's process is started; keeps what was asked."""

    def __init__(self, status: int = 0) -> None:
        self.names, self.status = list[str](), status

    def __call__(self, wanted: Job) -> tuple[int, str]:
        self.names.append(wanted.name)
        return self.status, "freed nothing"


@pytest.mark.parametrize(
    ("text", "zone", "then"),
    [
        ("30 4 * * *", "UTC", "2026-11-26T04:30"),  # 26 November 2026 is a Thursday
        ("30 4 * * *", "Europe/Berlin", "2026-11-26T03:30"),
        ("0 0 * * 0", "UTC", "2026-11-29T00:00"),  # Sunday, as in cron
        ("0 0 * * 7", "UTC", "2026-11-29T00:00"),
        ("0 0 * * 1", "UTC", "2026-11-30T00:00"),
        ("0 0 * * 0-2", "UTC", "2026-11-29T00:00"),
        ("0 0 * * 1-5", "UTC", "2026-11-27T00:00"),
        ("0 0 * * mon", "UTC", "2026-11-30T00:00"),
        ("*/15 * * * *", "UTC", "2026-11-26T00:15"),
    ],
)
def test_fields_mean_what_cron_means(text: str, zone: str, then: str) -> None:
    assert due(job(text, zone), at("2026-11-26T00:00")) == at(then)


@pytest.mark.parametrize("text", ["every night", "61 * * * *", "* * * * 8", "1 2 3", "a b c d e"])
def test_a_time_that_is_none_is_a_sentence(text: str) -> None:
    with pytest.raises(ScheduleError, match=r"schedule\.prune"):
        jobs(Schedule(prune=text))


def test_an_empty_time_is_never() -> None:
    assert jobs(Schedule(prune="")) == []


def test_times_that_were_missed_run_as_one(home: Home) -> None:
    write_json(home.jobs, {"prune": {"since_wall_ms": wall_ms() - 100 * HOUR, "running": True}})
    ran = Ran()
    scheduler = Scheduler(home, [job("0 * * * *")], ran)
    scheduler.step(wall_ms())
    scheduler.step(wall_ms())
    assert ran.names == ["prune"]
    row = json.loads(home.jobs.read_text())["prune"]
    assert (row["status"], row["said"], row["running"]) == (0, "freed nothing", False)
    assert row["next_wall_ms"] > wall_ms()


def test_a_job_that_never_ran_waits_for_its_time(home: Home) -> None:
    ran = Ran()
    scheduler = Scheduler(home, [job("0 * * * *")], ran)
    assert scheduler.step(wall_ms() - 1) <= 20
    assert ran.names == []
    scheduler.step(wall_ms() + HOUR)
    assert ran.names == ["prune"]


def test_a_clock_that_was_far_ahead_keeps_no_job_from_running(home: Home) -> None:
    write_json(home.jobs, {"prune": {"since_wall_ms": wall_ms() + 9000 * HOUR}})
    ran = Ran()
    scheduler = Scheduler(home, [job("0 * * * *")], ran)
    scheduler.step(wall_ms())
    scheduler.step(wall_ms() + HOUR)
    assert ran.names == ["prune"]


def test_how_a_verb_ended_is_kept(home: Home) -> None:
    failing = Job("prune", ("why", "no-such-id"), trigger_of("0 * * * *", "UTC"))
    scheduler = Scheduler(home, [failing], run_verb(home, threading.Event()))
    scheduler.step(wall_ms() + HOUR)
    row = json.loads(home.jobs.read_text())["prune"]
    assert row["status"] == 2
    assert "no-such-id" in row["said"]

"""What runs by a clock: once for each time however the clock jumps, within its limit, and how each run ended."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest

from conf.home import Home
from conf.sections.jobs import Schedule
from conf.settings import Settings
from events.clock import wall_ms
from pipelines import limited
from pipelines.cron import times
from pipelines.limited import MARK, STOPPED, Ended
from pipelines.schedule import Job, Scheduler, by_mail, jobs, run_verb

HOUR, DAY = 3_600_000, 86_400_000
NOON = 1_795_694_400_000  # a Thursday, at twelve
HANGS = "import subprocess, sys, time; print('so far so good', flush=True); "
HANGS += "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True); "


def job(text: str = "0 * * * *", name: str = "prune", clock: Any = "wall", words: tuple[str, ...] = ("status",)) -> Job:
    return Job(name, words, times(text, "UTC"), clock, minutes=1)


class Ran:
    """Stands where a verb's process is started; keeps what was asked."""

    def __init__(self, status: int = 0) -> None:
        self.names, self.status = list[str](), status

    def __call__(self, wanted: Job, beat: Callable[[], None]) -> Ended | None:
        self.names.append(wanted.name)
        return Ended(self.status, "freed nothing")


def row(home: Home, name: str = "prune") -> dict[str, Any]:
    return json.loads(home.jobs.read_text())["jobs"][name]


def lived(home: Home, *wanted: Job, until: int) -> None:
    """An earlier scheduler saw that moment last, on both clocks."""
    Scheduler(home, wanted, Ran()).step(until, until)


def settle(scheduler: Scheduler, now: int, home_now: int | None = None) -> None:
    while scheduler.step(now, now if home_now is None else home_now) == 0.0:
        pass


def test_an_empty_time_is_never() -> None:
    assert [found.name for found in jobs(Schedule(prune=""), "wall") if found.name == "prune"] == []


def test_prune_goes_by_the_wall_whatever_the_homes_clock() -> None:
    assert {found.clock for found in jobs(Schedule(), "event") if found.name == "prune"} == {"wall"}
    assert {found.clock for found in jobs(Schedule(), "wall")} == {"wall"}


def test_times_that_were_missed_run_as_one(home: Home) -> None:
    lived(home, job(), until=NOON - 100 * HOUR)
    ran = Ran()
    scheduler = Scheduler(home, [job()], ran)
    settle(scheduler, NOON)
    settle(scheduler, NOON + 1)
    assert ran.names == ["prune"]
    assert (row(home)["status"], row(home)["said"], row(home)["running"]) == (0, "freed nothing", False)
    assert row(home)["next_ms"] == NOON + HOUR


def test_a_job_that_never_ran_waits_for_its_time(home: Home) -> None:
    ran = Ran()
    scheduler = Scheduler(home, [job()], ran)
    assert scheduler.step(NOON - 5000, 0) == 5
    assert scheduler.step(NOON - HOUR + 1, 0) <= 20
    assert ran.names == []
    settle(scheduler, NOON)
    assert ran.names == ["prune"]


def test_a_clock_that_jumps_runs_a_time_once(home: Home) -> None:
    ran = Ran()
    scheduler = Scheduler(home, [job()], ran)
    for now in (NOON - 60_000, NOON, NOON - 60_000, NOON + 1, NOON - 2 * HOUR, NOON + 2):  # back and forth over noon
        settle(scheduler, now)
    assert ran.names == ["prune"]
    settle(scheduler, NOON + 700 * HOUR)
    assert ran.names == ["prune"] * 2, "forwards: what was missed is one"


def test_a_clock_that_was_far_ahead_keeps_no_job_from_running(home: Home) -> None:
    lived(home, job(), until=NOON + 9000 * HOUR)
    ran = Ran()
    scheduler = Scheduler(home, [job()], ran)
    settle(scheduler, NOON)
    settle(scheduler, NOON + HOUR)
    assert ran.names == ["prune"]


DAMAGED = [
    5,
    [],
    {"prune": 7},
    *(
        {"prune": {"clock": "wall", "since_ms": bad}}
        for bad in ("yesterday", [], -1e300, float("nan"), -(10**15), True)
    ),
    {"prune": {"clock": "wall", "since_ms": NOON, "ended_wall_ms": "x", "began_wall_ms": {}, "told": 5, "said": None}},
]


@pytest.mark.parametrize("table", DAMAGED)
def test_a_table_that_was_damaged_stops_no_scheduler(home: Home, table: Any) -> None:
    home.jobs.write_text(json.dumps({"jobs": table}))
    ran = Ran()
    scheduler = Scheduler(home, [job()], ran)
    settle(scheduler, NOON)
    settle(scheduler, NOON + HOUR)
    assert ran.names == ["prune"]
    assert row(home)["status"] == 0


def test_weeks_of_events_pass_in_seconds(home: Home) -> None:
    """By the home's clock, which shows 0 until the first event, and begins to count at the first."""
    ran = Ran()
    daily = job("0 3 * * *", "retrain", "event")
    scheduler = Scheduler(home, [daily], ran)
    settle(scheduler, wall_ms(), 0)
    assert row(home, "retrain")["next_ms"] is None
    for day in range(15):
        settle(scheduler, wall_ms(), NOON + day * DAY)
    assert ran.names == ["retrain"] * 14
    settle(scheduler, wall_ms() + 100 * DAY, NOON + 14 * DAY)
    assert len(ran.names) == 14, "the wall has no part in it"
    assert scheduler.step(wall_ms(), NOON + 14 * DAY) <= 1


def test_a_job_that_is_always_due_leaves_the_others_their_turn(home: Home) -> None:
    ran = Ran()
    scheduler = Scheduler(home, [job("* * * * *", "experiment"), job("0 3 * * *", "retrain")], ran)
    for minute in range(5):
        scheduler.step(NOON + DAY + minute * 60_000 - 5 * DAY, 0)
    for minute in range(4):
        scheduler.step(NOON + minute * 60_000, 0)
        time.sleep(0.002)
    assert "retrain" in ran.names[-4:]


def test_a_scheduler_that_ends_in_the_middle_of_a_job_takes_it_up_again(home: Home) -> None:
    lived(home, job(), until=NOON - HOUR)
    Scheduler(home, [job()], lambda wanted, beat: None).step(NOON, NOON)
    assert not row(home)["running"]
    ran = Ran()
    settle(Scheduler(home, [job()], ran), NOON + 1)
    assert ran.names == ["prune"]


def test_another_clock_begins_to_count_anew(home: Home) -> None:
    lived(home, job(clock="event"), until=NOON - 9000 * HOUR)
    ran = Ran()
    settle(Scheduler(home, [job(clock="wall")], ran), NOON)
    assert ran.names == []


def test_a_job_that_does_not_end_well_is_told_once_until_it_says_another_thing(home: Home) -> None:
    told: list[str] = []
    ends = iter([Ended(2, "no disk"), Ended(2, "no disk"), Ended(1, "no disk"), Ended(0, ""), Ended(2, "no disk")])
    lived(home, job(), until=NOON - HOUR)
    for hour in range(5):
        scheduler = Scheduler(
            home, [job()], lambda wanted, beat: next(ends), tell=lambda _, ended, began: told.append(str(ended.status))
        )
        scheduler.step(NOON + hour * HOUR, 0)  # another life each time
    assert told == ["2", "1", "2"]


def test_the_letter_says_what_happened_and_what_to_do(home: Home) -> None:
    ended = Ended(STOPPED, "it did not end within 60 min")
    by_mail(home, Settings())(job(words=("retrain", "--if-due"), name="retrain"), ended, NOON)
    (file,) = home.outbox.glob("*.eml")
    letter = message_from_bytes(file.read_bytes(), policy=policy.default)
    assert letter["Subject"] == "retrain did not end and was ended"
    text = letter.get_body(("plain",)).get_content()  # type: ignore[attr-defined]
    for word in ("within 60 min", "greenlight retrain --if-due", "job-retrain.log", f"status {STOPPED}"):
        assert word in text


def test_how_a_verb_ended_is_kept(home: Home) -> None:
    failing = job(words=("why", "no-such-id"))
    lived(home, failing, until=NOON - HOUR)
    Scheduler(home, [failing], run_verb(home, threading.Event())).step(NOON, NOON)
    assert row(home)["status"] == 2
    assert "no-such-id" in row(home)["said"]
    assert "no-such-id" in (home.logs / "job-prune.log").read_text()


@pytest.mark.parametrize("stubborn", ["", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "])
def test_a_command_that_hangs_is_ended_with_all_that_it_began(tmp_path: Path, stubborn: str) -> None:
    command = [sys.executable, "-c", f"{stubborn}{HANGS}time.sleep(600)"]
    ended = limited.run(command, os.environ, tmp_path / "said.log", limit_s=2, patience_s=1)
    assert ended is not None
    assert ended.status == STOPPED
    assert "did not end within" in ended.said
    assert "so far so good" in ended.said
    assert ours() == []


def test_what_a_command_leaves_behind_is_ended_and_so_is_one_that_nobody_waits_for(tmp_path: Path) -> None:
    assert limited.run([sys.executable, "-c", HANGS], os.environ, tmp_path / "said.log", 60) == (0, "so far so good")
    assert ours() == []
    sleeper = [sys.executable, "-c", f"{HANGS}time.sleep(600)"]
    assert limited.run(sleeper, os.environ, tmp_path / "said.log", 60, lambda: False) is None
    assert ours() == []


def test_a_command_stays_in_the_session_whose_niceness_it_shares(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os; print(os.getsid(0), os.getpgid(0) == os.getpid())"]
    assert limited.run(command, os.environ, tmp_path / "said.log", 60) == (0, f"{os.getsid(0)} True")


def test_the_last_whole_lines_are_kept(tmp_path: Path) -> None:
    said = tmp_path / "said.log"
    for content, kept in (("", ""), ("\n \n", ""), ("one\n  two\n\n", "one two"), ("é" * 5000, "é" * limited.SAID)):
        said.write_text(content)
        assert limited.last_words(said) == kept
    said.write_text("a long line " * 100 + "\nthe reason\nthe end")
    assert limited.last_words(said) == "the reason the end"


def ours() -> list[int]:
    """Processes that a command of this process began."""
    found, mark = [], f"{MARK}_{os.getpid()}_".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if any(word.startswith(mark) for word in entry.read_bytes().split(b"\0")):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


def test_a_verb_that_hangs_says_so_in_the_table_while_the_scheduler_lives_on(home: Home) -> None:
    endless = Job("retrain", ("data", "import", str(home.root / "pipe")), times("0 * * * *", "UTC"), "wall", 0.05)
    os.mkfifo(home.root / "pipe")  # the verb waits for somebody to write into it
    lived(home, endless, until=NOON - HOUR)
    Scheduler(home, [endless], run_verb(home, threading.Event())).step(NOON, NOON)
    assert row(home, "retrain")["status"] == STOPPED
    assert row(home, "retrain")["next_ms"] == NOON + HOUR

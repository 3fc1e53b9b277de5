"""Status names the broken part, since when, and what helps: each part broken from outside, by what it leaves."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conf.home import Home
from conf.sections.mail import Mail, Smtp
from conf.settings import Settings
from events.clock import wall_ms
from events.local_log import LocalLog
from mlflow_server.registry import Registry
from monitoring.mail import Letter
from pipelines.carrier import Answer
from pipelines.health import Part
from pipelines.loop import write_json
from pipelines.outbox import deliver, letters, post
from pipelines.status import alarming, parts
from serving.report import ArmReport, Refusal, Reporter, WorkerReport
from tests import town

HOUR = 3_600_000


def found(home: Home, name: str) -> Part:
    (part,) = [part for part in parts(home, Settings()) if part.name == name]
    return part


def children(**states: str) -> list[dict]:
    common = {"pid": os.getpid(), "since_wall_ms": wall_ms() - HOUR, "restarts": 3, "url": "", "log": "/tmp/log"}
    return [{"name": name, "state": state, "last_exit": "exit status 1", **common} for name, state in states.items()]


@pytest.fixture
def supervised(townhome: Home) -> Iterator[Home]:
    """A home whose supervisor's lock is held."""
    with townhome.up.with_suffix(".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield townhome


def says(home: Home, beat: int | None = None, **states: str) -> None:
    beat = wall_ms() if beat is None else beat
    write_json(home.up, {"pid": os.getpid(), "beat_wall_ms": beat, "state": "up", "children": children(**states)})


def report(home: Home, refused: dict[str, Refusal] | None = None, **arm: str) -> Reporter:
    now = wall_ms()
    shown = ArmReport(
        release=town.made(home, 1)["release"], since_wall_ms=now, model="Tiny", **{"state": "ready", **arm}
    )
    arms, times = {"champion": shown}, {"started_wall_ms": now, "beat_wall_ms": now, "clock_ms": now}
    made = Reporter(home)
    made.write(WorkerReport(pid=os.getpid(), offset=0, arms=arms, refused=refused or {}, **times))
    return made


def test_a_home_where_nothing_runs_is_not_broken(townhome: Home) -> None:
    assert [part.name for part in parts(townhome, Settings()) if part.state == "broken"] == []
    assert (found(townhome, "up").state, found(townhome, "up").next) == ("empty", "greenlight up")


def test_who_is_asked_by_cron_tells_that_nothing_runs(townhome: Home, tmp_path: Path) -> None:
    (silent,) = alarming(parts(townhome, Settings()))
    assert (silent.name, silent.state, silent.next) == ("up", "broken", "greenlight up")
    (nowhere,) = alarming(parts(Home(tmp_path / "misspelt"), Settings()))
    assert (nowhere.name, nowhere.state) == ("home", "broken")


def test_who_is_asked_by_cron_says_nothing_of_health(supervised: Home) -> None:
    says(supervised, registry="up")
    assert alarming(parts(supervised, Settings())) == []


def test_a_supervisor_that_was_killed_and_one_that_hangs(townhome: Home) -> None:
    says(townhome, beat=wall_ms() - HOUR, api="up")
    part = found(townhome, "up")
    assert (part.state, "killed" in part.detail) == ("broken", True)
    assert part.since_wall_ms
    assert part.next.startswith("greenlight up")
    with townhome.up.with_suffix(".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "hung" in found(townhome, "up").detail


def test_a_child_that_keeps_ending_is_named(supervised: Home) -> None:
    says(supervised, registry="up", api="waiting", archiving="down")
    assert found(supervised, "up").state == "ok"
    part = found(supervised, "archiving process")
    assert (part.state, part.next) == ("broken", "tail /tmp/log")
    assert "exit status 1" in part.detail
    assert part.since_wall_ms
    assert found(supervised, "api").next == "greenlight train"


def test_workers_arm_by_arm_and_what_they_refuse(supervised: Home) -> None:
    says(supervised, api="up")
    assert "no worker reports" in found(supervised, "workers").detail
    report(supervised)
    assert (found(supervised, "workers").state, "Tiny" in found(supervised, "workers").detail) == ("ok", True)
    report(supervised, state="fallback-only", trouble="the weights are missing")
    assert "the weights are missing" in found(supervised, "workers").detail
    report(supervised, refused={"abc": Refusal(reason="its golden slates differ", wall_ms=wall_ms())})
    part = found(supervised, "workers")
    assert (part.state, "golden" in part.detail, "rollback" in part.next) == ("broken", True, True)
    Reporter(supervised).close()


def test_an_archive_that_cannot_or_does_not_go_on(supervised: Home) -> None:
    says(supervised, archiving="up")
    state = {"events": 1, "trouble": "", "since_wall_ms": 0, "done_wall_ms": wall_ms()}
    write_json(supervised.archiving, state)
    assert found(supervised, "archive").state == "ok"
    write_json(supervised.archiving, state | {"done_wall_ms": wall_ms() - HOUR})
    assert "nothing is archived" in found(supervised, "archive").detail
    since = wall_ms() - HOUR
    write_json(supervised.archiving, state | {"trouble": "no space left", "since_wall_ms": since})
    part = found(supervised, "archive")
    assert (part.state, part.since_wall_ms, "no space left" in part.detail) == ("broken", since, True)


def test_an_alias_that_is_not_the_ledgers(townhome: Home) -> None:
    assert found(townhome, "aliases").state == "ok"
    Registry(townhome).client.set_registered_model_alias("recommender", "champion", "3")
    part = found(townhome, "aliases")
    assert (part.state, "version 3" in part.detail) == ("broken", True)
    assert "greenlight up" in part.next


def test_jobs_that_failed_are_late_or_hang(supervised: Home) -> None:
    says(supervised, schedule="up")
    now = wall_ms()
    table(supervised, now)
    assert "next" in found(supervised, "prune job").detail
    table(supervised, now, status=1)
    assert (found(supervised, "prune job").state, "refused" in found(supervised, "prune job").detail) == ("ok", True)
    for beat, change, words in (
        (now, {"status": 2}, "status 2"),
        (now, {"next_ms": now - HOUR}, "has not run"),
        (now - HOUR, {"next_ms": now - HOUR, "running": True, "began_wall_ms": now - HOUR}, "has not run"),
        (now, {"running": True, "began_wall_ms": now - 2 * HOUR}, "runs since"),
    ):
        table(supervised, beat, **change)
        part = found(supervised, "prune job")
        assert (part.state, words in part.detail) == ("broken", True), part


def test_a_job_by_the_event_clock_is_overdue_when_the_scheduler_died(supervised: Home) -> None:
    says(supervised, schedule="up")
    with LocalLog(supervised.log) as log:
        event_now = log.now_ms()
    for beat, due, state in ((HOUR, event_now, "broken"), (HOUR, event_now + 1, "ok"), (0, event_now, "ok")):
        table(supervised, wall_ms() - beat, clock="event", next_ms=due)
        assert found(supervised, "prune job").state == state, (beat, due)


def table(home: Home, beat: int, **change: Any) -> None:
    """What a scheduler leaves behind, which lived last at `beat`."""
    row = {"status": 0, "said": "fine", "ended_wall_ms": wall_ms(), "next_ms": wall_ms() + HOUR, "running": False}
    row |= {"clock": "wall", "command": "greenlight prune", "minutes": 60, **change}
    write_json(home.jobs, {"pid": 1, "beat_wall_ms": beat, "late_minutes": 10, "jobs": {"prune": row}})


def test_letters_that_wait_or_were_refused(supervised: Home) -> None:
    says(supervised, mailing="up")
    post(supervised, Settings(), Letter("quiet", ""))
    assert (found(supervised, "mail").state, "none waits" in found(supervised, "mail").detail) == ("ok", True)
    away = Settings(mail=Mail(via="smtp", smtp=Smtp(host="127.0.0.1", port=9)))
    name = post(supervised, away, Letter("moved", ""))
    assert found(supervised, "mail").state == "ok"  # it was posted just now
    file = supervised.outbox / "waiting" / f"{name}.eml"
    os.utime(file, (0, wall_ms() / 1000 - 3600))
    assert found(supervised, "mail").next == f"tail {supervised.logs / 'mailing.log'}"
    deliver(supervised, away)
    part = found(supervised, "mail")
    assert (part.state, "127.0.0.1:9" in part.detail, "mail send" in part.next) == ("broken", True, True)
    assert part.since_wall_ms
    (letter,) = letters(supervised, "waiting")
    letter.answers = {"ml-lead@localhost": Answer("refused", "550 no such user")}
    letter.move(supervised.outbox / "failed")
    part = found(supervised, "mail")
    assert (part.state, "550 no such user" in part.detail, part.next) == ("broken", True, "greenlight mail list")


def test_files_that_are_not_ours_break_their_part_only(townhome: Home) -> None:
    townhome.up.write_text("[]")
    townhome.archiving.write_text('{"done_wall_ms": "yesterday"}')
    townhome.registry.write_bytes(b"not a database at all" * 200)
    states = {part.name: part.state for part in parts(townhome, Settings())}
    assert (states["archive"], states["aliases"], states["ledger"]) == ("broken", "broken", "ok")
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(townhome.registry).execute("SELECT * FROM runs")

"""Who serves what was decided: told from the workers' reports, with a bounded wait."""

import os
import threading
import time
from pathlib import Path

import orjson
import pytest

from conf.home import Home
from pipelines.takeup import takeup, wait
from serving.report import reports


def says(home: Home, pid: int, release: str, refused: dict[str, str] | None = None) -> Path:
    """The report of a worker: this process and its parent stand for workers, since they live."""
    home.workers.mkdir(exist_ok=True)
    now = time.time_ns() // 1_000_000
    arm = {"release": release, "since_wall_ms": now, "state": "ready"}
    why = {digest: {"reason": reason, "wall_ms": now} for digest, reason in (refused or {}).items()}
    facts = {"pid": pid, "started_wall_ms": now, "beat_wall_ms": now, "clock_ms": 0, "offset": 0}
    file = home.workers / f"{pid}.json"
    file.write_bytes(orjson.dumps({**facts, "arms": {"champion": arm}, "refused": why}))
    return file


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("new", "new", "All 2 workers serve it."),
        ("new", "old", "1 of 2 workers serve it; not yet: worker {b} (greenlight status tells when)."),
        ("new", "bad", "1 of 2 workers serve it; worker {b} refuses it: damaged."),
        ("bad", "bad", "0 of 2 workers serve it; worker {a} refuses it: damaged; worker {b} refuses it: damaged."),
    ],
)
def test_each_worker_is_told_of(home: Home, first: str, second: str, words: str) -> None:
    a, b = sorted((os.getpid(), os.getppid()))
    for pid, state in ((a, first), (b, second)):
        says(home, pid, "new" if state == "new" else "old", {"new": "damaged"} if state == "bad" else None)
    assert takeup(reports(home), "new", "champion").sentence == words.format(a=a, b=b)


def test_it_waits_until_all_have_it(home: Home) -> None:
    says(home, os.getpid(), "old")
    later = threading.Timer(1.0, says, (home, os.getpid(), "new"))
    later.start()
    told: list[int] = []
    assert wait(home, "new", "champion", told.append, patience_s=60).sentence == "The one worker serves it."
    assert (told[0], told[-1]) == (0, 1)


def test_it_does_not_wait_for_ever_nor_for_nobody(home: Home) -> None:
    assert wait(home, "new", "champion", lambda done: None).sentence.startswith("No worker runs")
    says(home, os.getpid(), "old")
    assert wait(home, "new", "champion", lambda done: None, patience_s=0.3).waiting == (os.getpid(),)

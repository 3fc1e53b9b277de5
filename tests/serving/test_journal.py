"""Impressions on their way to the log, while requests add to them and while they cannot be written."""

import sys
import time
from collections.abc import Iterator

import pytest

from conf.home import Home
from events.event import IMPRESSIONS
from events.local_log import LocalLog
from serving.journal import Journal, Served
from serving.metrics import Metrics

MANY = 60_000
PATIENCE_S = 60.0


@pytest.fixture
def short_turns() -> Iterator[None]:
    """Threads take turns so often that one meets the other anywhere."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def served(number: int, **more: object) -> Served:
    fields = {"request_id": f"r{number}", "ts": number, "wall_ts": number, "user_id": "u", "arm": "champion"}
    rest = {"release": "f", "rung": "model", "items": ["m"], "k": 1, "latency_ms": 1.0, "propensities": [1.0]}
    return Served(**{**fields, **rest, "explored": False, **more})  # type: ignore[arg-type]


def in_log(home: Home) -> int:
    with LocalLog(home.log) as log:
        return log.count(IMPRESSIONS)


def test_what_is_added_while_others_are_written_is_written_too(home: Home, short_turns: None) -> None:
    journal = Journal(home, 2 * MANY, Metrics())
    journal.start()
    for number in range(MANY):
        journal.put(served(number))
        if number % 100 == 0:
            time.sleep(0.001)  # so that some are written meanwhile
    until = time.monotonic() + PATIENCE_S
    while in_log(home) < MANY and time.monotonic() < until:
        time.sleep(0.05)
    journal.close()
    assert in_log(home) == MANY
    assert not home.lost.exists()


def test_one_that_is_no_impression_ends_nobody_and_what_waits_is_told_as_lost(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(home, 10, Metrics())
    journal.start()
    journal.put(served(1))
    journal.put(served(2, ts="yesterday"))
    until = time.monotonic() + PATIENCE_S
    while "cannot be written" not in caplog.text and time.monotonic() < until:
        time.sleep(0.05)
    assert "2 wait" in caplog.text
    for number in range(3, 20):
        journal.put(served(number))
    journal.close()
    assert sum(int(line.split('"impressions": ')[1].rstrip("}")) for line in home.lost.read_text().splitlines()) == 19

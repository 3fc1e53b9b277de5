"""The loop that archives: what comes in is in the history soon, and a trouble is said once and got over."""

import json
import logging

import pytest

from conf.home import Home
from conf.settings import Settings
from events.archive import PIECE, read_topic
from events.event import EVENTS, Rating
from events.local_log import LocalLog
from events.store import FolderStore
from pipelines.archiving import Archiving, run


def add(home: Home, count: int, start: int = 0) -> None:
    events = [
        Rating(event_id=f"e{n}", ts=1_700_000_000_000 + n, user_id="u", movie_id=f"m{n}", rating=4, scale=5)
        for n in range(start, start + count)
    ]
    with LocalLog(home.log) as log:
        log.append(EVENTS, events)


def archived(home: Home) -> int:
    return len(read_topic(FolderStore(home.history), EVENTS, ["offset"]))


def test_what_comes_in_is_archived_round_by_round(home: Home) -> None:
    loop, rounds = Archiving(home, Settings()), iter([2, 3, 0])

    def wait(seconds: float) -> bool:
        if count := next(rounds):
            add(home, count, start=count * 10)
        return not count

    run(loop, wait)
    assert archived(home) == 5
    told = json.loads(home.archiving.read_text())
    assert (told["events"], told["trouble"]) == (5, "")
    assert told["done_wall_ms"] > 0


def test_it_rests_between_pieces_of_its_work(home: Home) -> None:
    add(home, 2 * PIECE + 1)
    rests = 0

    def rest() -> None:
        nonlocal rests
        rests += 1

    loop = Archiving(home, Settings(), rest=rest)
    loop.step()
    loop.close()
    assert archived(home) == 2 * PIECE + 1
    assert rests >= 3 + 1, "after each read, and after each day that is written"


def test_a_trouble_is_said_once_and_got_over(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    add(home, 3)
    home.history.write_text("a file where the folder should be")
    loop = Archiving(home, Settings())
    for _ in range(3):
        loop.step()
    assert len([r for r in caplog.records if "nothing is archived" in r.message]) == 1
    told = json.loads(home.archiving.read_text())
    assert str(home.history) in told["trouble"]
    assert told["since_wall_ms"] > 0
    home.history.unlink()
    loop.step()
    assert archived(home) == 3
    assert json.loads(home.archiving.read_text())["trouble"] == ""
    assert "goes on" in caplog.text
    loop.close()


def test_a_home_without_events_is_no_trouble(home: Home) -> None:
    loop = Archiving(home, Settings())
    loop.step()
    assert loop.trouble == ""
    assert not home.log.exists()

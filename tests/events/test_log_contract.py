"""The contract of a log, run on every log there is: one suite, so that consumers need not know which one they read."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from events.event import EVENTS, IMPRESSIONS, Rating
from events.kafka_log import KafkaLog
from events.local_log import LocalLog
from events.log import Log

OpenLog = Callable[[], Log]


@pytest.fixture(params=["local", pytest.param("kafka", marks=pytest.mark.server)])
def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> OpenLog:
    """Opens the same log each time: another process, or the same one after a restart."""
    if request.param == "local":
        return lambda: LocalLog(tmp_path / "log.db")
    conf = request.getfixturevalue("kafka").conf(topic_prefix=str(uuid.uuid4()))
    return lambda: KafkaLog(conf)


@pytest.fixture
def log(open_log: OpenLog) -> Iterator[Log]:
    opened = open_log()
    yield opened
    opened.close()


def rating(number: int, user: str = "u1") -> Rating:
    return Rating(
        event_id=f"e{number}", ts=1_700_000_000_000 + number, user_id=user, movie_id=f"m{number}", rating=4, scale=5
    )


def numbers(log: Log, group: str = "g", limit: int = 100) -> list[str]:
    return [record.event.event_id for record in log.read(EVENTS, group, limit)]


def test_events_come_back_equal_in_order_with_rising_offsets(log: Log) -> None:
    sent = [rating(n) for n in range(5)]
    assert log.append(EVENTS, sent) == (5, 0)
    records = log.read(EVENTS, "g", 100)
    assert [record.event for record in records] == sent
    offsets = [record.offset for record in records]
    assert offsets == sorted(set(offsets))


def test_an_event_id_is_stored_once_per_topic(log: Log) -> None:
    log.append(EVENTS, [rating(1), rating(2)])
    assert log.append(EVENTS, [rating(2), rating(3), rating(3)]) == (1, 2)
    assert numbers(log) == ["e1", "e2", "e3"]
    assert log.append(IMPRESSIONS, [rating(1)]) == (1, 0)


def test_what_is_not_committed_is_read_again(log: Log) -> None:
    log.append(EVENTS, [rating(n) for n in range(4)])
    first = log.read(EVENTS, "g", 2)
    assert log.read(EVENTS, "g", 2) == first
    log.commit(EVENTS, "g", first[-1].offset)
    assert numbers(log) == ["e2", "e3"]


def test_reading_on_without_committing(log: Log) -> None:
    log.append(EVENTS, [rating(n) for n in range(4)])
    first = log.read(EVENTS, "g", 3)
    assert [r.event.event_id for r in log.read(EVENTS, "g", 3, after=first[-1].offset)] == ["e3"]


def test_groups_do_not_disturb_each_other(log: Log) -> None:
    log.append(EVENTS, [rating(n) for n in range(3)])
    log.commit(EVENTS, "a", log.read(EVENTS, "a", 100)[-1].offset)
    assert numbers(log, "a") == []
    assert numbers(log, "b") == ["e0", "e1", "e2"]
    assert (log.lag(EVENTS, "a"), log.lag(EVENTS, "b")) == (0, 3)


def test_a_commit_never_moves_backwards(log: Log) -> None:
    log.append(EVENTS, [rating(n) for n in range(3)])
    offsets = [record.offset for record in log.read(EVENTS, "g", 100)]
    log.commit(EVENTS, "g", offsets[2])
    log.commit(EVENTS, "g", offsets[0])
    assert log.lag(EVENTS, "g") == 0


def test_topics_are_apart(log: Log) -> None:
    log.append(EVENTS, [rating(1)])
    log.append(IMPRESSIONS, [rating(2)])
    log.append(EVENTS, [rating(3)])
    assert numbers(log) == ["e1", "e3"]
    assert log.lag(EVENTS, "g") == 2
    assert log.lag("nothing", "g") == 0


def test_nothing_appended_is_nothing_stored(log: Log) -> None:
    assert log.append(EVENTS, []) == (0, 0)
    assert log.read(EVENTS, "g", 10) == []


def test_events_and_commits_outlive_a_restart(open_log: OpenLog) -> None:
    before = open_log()
    before.append(EVENTS, [rating(n) for n in range(3)])
    before.commit(EVENTS, "g", before.read(EVENTS, "g", 1)[0].offset)
    before.close()
    after = open_log()
    assert numbers(after) == ["e1", "e2"]
    after.close()


def test_two_writers_and_a_reader_share_the_log(open_log: OpenLog) -> None:
    one, two = open_log(), open_log()
    for n in range(0, 20, 2):
        one.append(EVENTS, [rating(n)])
        two.append(EVENTS, [rating(n), rating(n + 1)])
    assert numbers(one) == [f"e{n}" for n in range(20)]
    one.close()
    two.close()

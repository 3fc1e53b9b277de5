"""Acts: the log in brief, whole although its older part lies in the archive alone."""

import apsw
import pytest

from conf.home import Home
from conf.settings import Settings
from events.archive import archive
from events.event import (
    CATALOGUE,
    EVENTS,
    Account,
    AnyEvent,
    Click,
    Impression,
    Movie,
    Rating,
    Watch,
)
from events.local_log import LocalLog
from events.state import Act, Acts
from events.store import history_store

START = 1_700_000_000_000
CONF = Settings()


def rating(number: int, ts: int = START) -> Rating:
    return Rating(event_id=f"r{number}", ts=ts, user_id=f"u{number}", movie_id="m", rating=4, scale=5)


def slate(number: int) -> Impression:
    return Impression(
        event_id=f"s{number}",
        ts=START,
        wall_ts=START,
        user_id="u",
        arm="champion",
        release="r",
        rung="model",
        items=("m",),
        propensities=(1.0,),
        k=1,
        latency_ms=1,
    )


EVERY_KIND: list[AnyEvent] = [
    Movie(event_id="a", movie_id="m", title="M", genres=("Drama", "Comedy")),
    Rating(event_id="b", ts=START, user_id="u", movie_id="m", rating=3.5, scale=5),
    slate(1),
    Watch(event_id="c", ts=START + 1, user_id="u", movie_id="m+1", minute=7),
    Click(event_id="d", ts=START + 2, user_id="v", movie_id="m", request_id="s1"),
    Account(event_id="e", ts=START + 3, user_id="w"),
    slate(2),
    Movie(event_id="f", movie_id="bare"),
    slate(3),
]
IN_BRIEF = [
    Act(1, "movie", 0, "", "m", 0, "M", ("Drama", "Comedy")),
    Act(2, "rating", START, "u", "m", 0.7),
    Act(4, "watch", START + 1, "u", "m+1", 7),
    Act(5, "click", START + 2, "v", "m"),
    Act(6, "account", START + 3, "w", ""),
    Act(8, "movie", 0, "", "bare"),
]


def everything(acts: Acts, after: int = 0, limit: int = 500) -> tuple[list[Act], int]:
    found: list[Act] = []
    while True:
        batch = acts.since(after, limit)
        assert batch.offset > after or not batch.more
        found, after = found + batch.acts, batch.offset
        if not batch.more:
            return found, after


@pytest.fixture
def filled(home: Home) -> Home:
    with LocalLog(home.log) as log:
        log.append_all(EVERY_KIND)
    return home


def drop(home: Home, where: str) -> None:
    """What retention does: remove records that the archive holds."""
    with LocalLog(home.log) as log:
        archive(log, history_store(home, CONF.storage))
    db = apsw.Connection(str(home.log))
    db.execute(f"DELETE FROM records WHERE {where}")
    db.close()


def damage(home: Home, offset: int, body: bytes) -> None:
    db = apsw.Connection(str(home.log))
    db.execute("UPDATE records SET body = ? WHERE offset = ?", (body, offset))
    db.close()


@pytest.mark.parametrize("limit", [1, 2, 500])
def test_every_kind_comes_in_brief_and_the_offset_passes_slates(filled: Home, limit: int) -> None:
    assert everything(Acts(filled, CONF), limit=limit) == (IN_BRIEF, len(EVERY_KIND))


@pytest.mark.parametrize("limit", [1, 2, 500])
@pytest.mark.parametrize(
    "where",
    [
        "offset <= 1",
        "offset <= 4",
        "offset <= 8",
        "true",
        f"topic = '{EVENTS}' AND offset <= 4",
        f"topic = '{CATALOGUE}'",
        "topic = 'impressions'",
    ],
)
def test_what_the_log_has_dropped_comes_from_the_archive(filled: Home, where: str, limit: int) -> None:
    drop(filled, where)
    with LocalLog(filled.log) as log:
        log.append(EVENTS, [rating(1)])
    newest = len(EVERY_KIND) + 1
    expected = [*IN_BRIEF, Act(newest, "rating", START, "u1", "m", 0.8)]
    assert everything(Acts(filled, CONF), limit=limit) == (expected, newest)
    assert everything(Acts(filled, CONF), after=4, limit=limit) == (expected[3:], newest)


def test_what_is_dropped_while_it_is_read_is_not_lost(filled: Home) -> None:
    acts = Acts(filled, CONF)
    first = acts.since(0, 2)
    drop(filled, "true")
    found, offset = everything(acts, first.offset)
    assert (first.acts + found, offset) == (IN_BRIEF, len(EVERY_KIND))


def test_the_archive_is_left_alone_where_the_log_is_whole(filled: Home) -> None:
    with LocalLog(filled.log) as log:
        archive(log, history_store(filled, CONF.storage))
    for file in filled.history.rglob("*.parquet"):
        file.write_bytes(b"damaged")
    assert everything(Acts(filled, CONF)) == (IN_BRIEF, len(EVERY_KIND))


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'{"kind":"rating","ts":1,"user_id":"u","movie_id":"m"}',
        b'{"kind":"rating","ts":1,"user_id":"u","movie_id":"m","rating":6,"scale":5}',
        b'{"kind":"rating","ts":1,"user_id":"u","movie_id":"m","rating":0,"scale":0}',
        b'{"kind":"rating","ts":"1","user_id":"u","movie_id":"m","rating":4,"scale":5}',
        b'{"kind":"watch","ts":1,"user_id":"u","movie_id":"m","minute":100001}',
        b'{"kind":"watch","ts":1,"user_id":7,"movie_id":"m","minute":1}',
        b'{"kind":"watch","ts":1,"user_id":"u","movie_id":"","minute":1}',
        b'{"kind":"movie","ts":0,"movie_id":"m","title":"M","genres":[7]}',
        b'{"kind":"unheard of","ts":1,"user_id":"u","movie_id":"m"}',
    ],
)
def test_a_record_that_cannot_be_read_is_passed_over(filled: Home, body: bytes) -> None:
    damage(filled, 2, body)
    expected = [act for act in IN_BRIEF if act.offset != 2]
    assert everything(Acts(filled, CONF)) == (expected, len(EVERY_KIND))


def test_a_log_that_is_not_there_yet_holds_nothing_and_is_not_made(home: Home) -> None:
    acts = Acts(home, CONF)
    assert acts.since(0, 500) == ([], 0, False)
    assert not home.log.exists()
    with LocalLog(home.log) as log:
        log.append(EVENTS, [rating(1)])
    assert [act.user_id for act in acts.since(0, 500).acts] == ["u1"]
    assert acts.since(1, 500) == ([], 1, False)
    acts.close()

"""Both codecs: every event there and back, and the traps of the streaming site's lines."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.codecs import Rules, decode, encode, encode_line
from events.event import Account, AnyEvent, Click, Impression, Movie, Rating, Unreadable, Watch

WALL = 1_790_000_000_000  # September 2026: a fixed latest time, so that the tests do not age
RULES = Rules(latest_ms=WALL)
MARCH = int(datetime(2025, 3, 8, 12, 0, tzinfo=UTC).timestamp() * 1000)

ids = st.from_regex(r"[a-zA-Z0-9+_.\-=/]{1,20}", fullmatch=True)
times = st.integers(631_152_000_000, WALL)
numbers = st.floats(0, 1, allow_nan=False)
events = st.one_of(
    st.builds(Watch, event_id=ids, ts=times, user_id=ids, movie_id=ids, minute=st.integers(0, 500)),
    st.builds(Rating, event_id=ids, ts=times, user_id=ids, movie_id=ids, rating=numbers, scale=st.floats(1, 10)),
    st.builds(Click, event_id=ids, ts=times, user_id=ids, movie_id=ids, request_id=st.none() | ids),
    st.builds(Account, event_id=ids, ts=times, user_id=ids),
    st.builds(Movie, event_id=ids, movie_id=ids, title=st.text(), genres=st.lists(st.text()).map(tuple)),
    st.builds(
        Impression, event_id=ids, ts=times, wall_ts=times, user_id=ids, arm=ids, release=ids, rung=st.just("model"),
        items=st.lists(ids).map(tuple), propensities=st.lists(numbers).map(tuple), k=st.integers(0, 9),
        latency_ms=numbers, failure=st.text(),
    ),
    st.builds(Unreadable, event_id=ids, ts=times, source=st.text(), line=st.integers(0, 9), reason=ids, raw=st.text()),
)  # fmt: skip


@given(events)
def test_json_gives_the_same_event_back(event: AnyEvent) -> None:
    assert decode(encode(event).encode(), "t", 1) == event
    assert decode(encode(event).encode(), "t", 1, RULES) == event


def read(line: str, rules: Rules = RULES) -> AnyEvent:
    return decode(line.encode(), "site", 7, rules)


@pytest.mark.parametrize(
    ("when", "milliseconds"),
    [
        ("2025-03-08T12:00:00", 0),
        ("2025-03-08T12:00:00.250000", 250),
        ("2025-03-08T12:00:00.250999999", 250),
        ("2025-03-08T13:00:00.250+01:00", 250),
        ("2025-03-08T12:00:00Z", 0),
        ("2025-03-08 12:00:00", 0),
        ("1741435200", 0),
        ("1741435200250", 250),
        ("1741435200250000", 250),
        ("1741435200250000000", 250),
    ],
)
def test_times_of_lines(when: str, milliseconds: int) -> None:
    event = read(f"{when},42,GET /data/m/some+movie+1999/3.mpg")
    assert isinstance(event, Watch)
    assert (event.ts, event.user_id, event.movie_id, event.minute) == (
        MARCH + milliseconds,
        "42",
        "some+movie+1999",
        3,
    )


def test_times_without_a_zone_are_in_the_declared_one() -> None:
    berlin = Rules(zone=ZoneInfo("Europe/Berlin"), latest_ms=WALL)
    assert read("2025-03-08T13:00:00,42,GET /create_account", berlin).ts == MARCH
    assert read("2025-07-08T13:00:00,42,GET /create_account", berlin).ts == 1_751_972_400_000


@pytest.mark.parametrize(
    "movie", ["the+matrix+1999", "m.a.s.h", "x-men_2", "se7en", "what=if+2001", "no_year", "a/b", "été"]
)
def test_odd_movie_ids(movie: str) -> None:
    rated, watched = read(f"{MARCH},u,GET /rate/{movie}=4"), read(f"{MARCH},u,GET /data/m/{movie}/0.mpg")
    assert isinstance(rated, Rating)
    assert isinstance(watched, Watch)
    assert rated.movie_id == watched.movie_id == movie
    assert rated.strength == 0.8


def test_a_ten_point_site_declares_its_scale() -> None:
    assert isinstance(read(f"{MARCH},u,GET /rate/m=8"), Unreadable)
    event = read(f"{MARCH},u,GET /rate/m=8", Rules(scale=10, latest_ms=WALL))
    assert isinstance(event, Rating)
    assert event.strength == 0.8


def test_a_request_keeps_its_result_with_commas() -> None:
    event = read(f"{MARCH},u,recommendation request team1.example:8082, status 200, result: a+1999, b,c.d, 48 ms")
    assert isinstance(event, Impression)
    assert event.items == ("a+1999", "b", "c.d")
    assert (event.arm, event.rung, event.release, event.latency_ms) == ("site", "unknown", "team1.example:8082", 48)
    assert (event.k, event.propensities, event.failure) == (3, (1.0, 1.0, 1.0), "")


def test_a_failed_request_keeps_its_exception() -> None:
    cause = "java.net.SocketTimeoutException: Read timed out, after 800, sorry"
    event = read(f"{MARCH},u,recommendation request host:80, status 0, result: {cause}, 801 ms")
    assert isinstance(event, Impression)
    assert (event.items, event.failure, event.latency_ms) == ((), f"status 0: {cause}", 801)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x,y", "expected <time>,<userid>,<what happened>"),
        (f"{MARCH},u,GET /favicon.ico", "not a watched minute"),
        (f"{MARCH},,GET /create_account", "user_id"),
        (f"{MARCH},u v,GET /create_account", "user_id"),
        (f"{MARCH},u,GET /rate/m=6", "rating 6 is out of range: from 1 to 5"),
        (f"{MARCH},u,GET /rate/m=0", "rating 0 is out of range: from 1 to 5"),
        (f"{MARCH},u,GET /rate/m=nan", "rating 'nan' is not a number"),
        (f"{MARCH},u,GET /rate/m=good", "rating 'good' is not a number"),
        (f"{MARCH},u,GET /data/m/x/999999.mpg", "minute"),
        ("soon,u,GET /create_account", "time 'soon' is not a number"),
        ("2025-13-08T12:00:00,u,GET /create_account", "neither ISO 8601 nor a number"),
        ("1970-01-02T00:00:00,u,GET /create_account", "before 1990"),
        ("2027-03-08T12:00:00,u,GET /create_account", "in the future"),
        (f"{WALL + 1},u,GET /create_account", "in the future"),
        ("12345,u,GET /create_account", "not between 1990 and 2100"),
        ("inf,u,GET /create_account", "time 'inf' is not a number"),
        ("9" * 400 + ",u,GET /create_account", "not between 1990 and 2100"),
        ('{"kind":"rating"', "not JSON"),
        ('{"kind":"dance","event_id":"e"}', "dance"),
        ('{"kind":"account","event_id":"e","ts":1741435200250}', "user_id: Field required"),
        ('{"kind":"account","event_id":"e","ts":1741435200250,"user_id":"u","age":3}', "age: Extra inputs"),
    ],
)
def test_a_line_that_cannot_be_read_says_why(line: str, reason: str) -> None:
    event = read(line)
    assert isinstance(event, Unreadable)
    assert reason in event.reason
    assert (event.source, event.line, event.raw) == ("site", 7, line)


def test_evt_01_bytes_null_and_text_are_quarantined_with_their_offset() -> None:
    good = [f"{MARCH},u{n},GET /create_account".encode() for n in range(10)]
    partition: list[bytes | None] = [b"\xff\xfe", None, b"x,y", *good]
    read_back = [decode(raw, "events-0", offset, RULES) for offset, raw in enumerate(partition)]
    bad = [event for event in read_back if isinstance(event, Unreadable)]
    assert [(event.line, event.reason.split(":")[0]) for event in bad] == [
        (0, "byte 0xFF at position 1 is not UTF-8"),
        (1, "null value"),
        (2, "expected <time>,<userid>,<what happened>"),
    ]
    assert len(read_back) - len(bad) == 10


@given(times, ids, ids.filter(lambda movie: "=" not in movie and "/" not in movie), st.integers(1, 5))
def test_what_is_written_as_a_line_reads_back(ts: int, user: str, movie: str, number: int) -> None:
    common = {"event_id": "e", "ts": ts, "user_id": user}
    for event in (
        Watch(**common, movie_id=movie, minute=number),
        Rating(**common, movie_id=movie, rating=number, scale=5),
        Account(**common),
        read(f"{ts},{user},recommendation request h:1, status 200, result: {movie}, {number} ms"),
        read(f"{ts},{user},recommendation request h:1, status 0, result: boom, bang, {number} ms"),
    ):
        back = read(encode_line(event))
        assert back.model_copy(update={"event_id": "e"}) == event.model_copy(update={"event_id": "e"})

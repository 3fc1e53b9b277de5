"""Events that are posted: durable when acknowledged, each judged by itself, bounded, and never in a slate's way."""

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf.home import Home
from events.event import DEAD_LETTER, EVENTS, Rating, Unreadable
from events.local_log import LocalLog

START = 1_700_000_000_000
HOUR_MS = 3_600_000
ROOT = Path(__file__).parents[2]
MAY = {"anonymous": ["read", "events"]}


def rating(number: int, ts: int | None = START, **more: Any) -> dict[str, Any]:
    fields = {"kind": "rating", "event_id": f"e{number}", "user_id": f"u{number}", "movie_id": "m1", "rating": 4}
    return {**fields, **({} if ts is None else {"ts": ts}), **more}


@pytest.fixture
def post(client: Callable, home: Home) -> Callable[..., Any]:
    call = client(home=home, door=MAY, intake={"max_bytes": 200_000, "max_events": 1000})

    def send(content: Any, kind: str = "application/json", **headers: str) -> Any:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return call("POST", "/v1/events", content=body, headers={"content-type": kind, **named})

    send.call = call  # type: ignore[attr-defined]
    return send


def stored(home: Home, topic: str = EVENTS) -> list[Any]:
    with LocalLog(home.log) as log:
        return [record.event for record in log.iterate(topic)]


def test_a_batch_is_in_the_log_when_it_is_acknowledged(post: Callable, home: Home) -> None:
    answer = post([rating(n, START + n) for n in range(500)])
    assert answer.status_code == 200
    assert answer.json() == {"accepted": 500, "stored": 500, "duplicates": 0, "quarantined": 0, "refused": []}
    assert [event.event_id for event in stored(home)] == [f"e{n}" for n in range(500)]
    assert post(rating(1000)).json()["stored"] == 1
    assert post([]).json()["accepted"] == 0


def test_text_lines_and_json_lines(post: Callable, home: Home) -> None:
    body = (
        b"2023-11-14T22:13:20.123456,42,GET /rate/a+b_(1999)=4\n\n"
        b'{"kind":"click","event_id":"c1","ts":1700000000000,"user_id":"42","movie_id":"m"}\n'
        b"1700000001,42,GET /data/m/a+b_(1999)/7.mpg\n"
    )
    assert post(body, "text/plain; charset=utf-8").json()["stored"] == 3
    assert post(body, "application/x-ndjson").json()["duplicates"] == 3
    kinds = [(event.kind, event.user_id, event.ts) for event in stored(home)]
    assert kinds == [("rating", "42", START + 123), ("click", "42", START), ("watch", "42", START + 1000)]


def test_of_a_batch_with_bad_events_the_good_ones_are_stored(post: Callable, home: Home) -> None:
    bad = [
        (rating(1, user_id="x" * 10_000), "user_id"),
        (rating(2, rating=9), "above its scale"),
        ("text", "JSON object is expected"),
        (rating(3, kind="impression"), "kind is"),
        (rating(4, kind=["a"]), "kind is"),
        (rating(5, ts=3), "1990"),
        (rating(6, ts="soon"), "time"),
        ({"kind": "rating", "event_id": "e7"}, "user_id"),
        (rating(8, extra=1), "extra"),
    ]
    batch = [event for n, (event, _) in enumerate(bad) for event in (rating(100 + n), event)]
    answer = post(batch)
    assert answer.status_code == 200
    told = answer.json()
    assert (told["stored"], told["quarantined"]) == (len(bad), len(bad))
    assert [refused["index"] for refused in told["refused"]] == [2 * n + 1 for n in range(len(bad))]
    for refused, (_, says) in zip(told["refused"], bad, strict=True):
        assert says in refused["reason"], refused
        assert len(refused["reason"]) < 300
    dead = stored(home, DEAD_LETTER)
    assert [(letter.source, letter.line) for letter in dead] == [("posted", 2 * n + 1) for n in range(len(bad))]
    assert "x" * 10_000 in dead[0].raw
    assert post.call.metric('greenlight_events_posted_total{outcome="quarantined"}') == len(bad)
    assert post(rating(1, user_id="x" * 10_000)).status_code == 422


def test_duplicates_are_dropped_and_counted(post: Callable, home: Home) -> None:
    assert post([rating(1), rating(2), rating(1)]).json()["duplicates"] == 1
    again = post([rating(2), rating(3)]).json()
    assert (again["accepted"], again["stored"], again["duplicates"]) == (2, 1, 1)
    assert len(stored(home)) == 3


def test_an_event_without_a_time_gets_the_homes_now_and_a_late_one_keeps_its_own(post: Callable, home: Home) -> None:
    post([rating(1, START), rating(2, START - 900 * HOUR_MS)])
    post([rating(3, None)])
    assert [event.ts for event in stored(home)] == [START, START - 900 * HOUR_MS, START]


def test_on_the_wall_clock_and_before_any_event_now_is_wall_time(post: Callable, home: Home) -> None:
    before = time.time_ns() // 1_000_000
    post(rating(1, None))
    assert before <= stored(home)[0].ts <= time.time_ns() // 1_000_000


def test_events_from_the_future_move_no_clock(post: Callable, home: Home) -> None:
    """Further ahead than a day of the event clock, or than five minutes of the wall's, is quarantined and said."""
    post(rating(0, START))
    soon = time.time_ns() // 1_000_000 + 2 * HOUR_MS
    assert post(rating(9, float(soon))).json()["refused"][0]["reason"].endswith("is in the future")
    late = [rating(1, START + 25 * HOUR_MS), rating(2, soon), rating(3, START + 23 * HOUR_MS)]
    told = post(late).json()
    assert (told["stored"], told["quarantined"]) == (1, 2)
    assert "ahead of the newest event" in told["refused"][0]["reason"]
    assert "future" in told["refused"][1]["reason"]
    with LocalLog(home.log) as log:
        assert log.now_ms() == START + 23 * HOUR_MS


def test_the_event_clock_counts_what_came_through_kafka(post: Callable, home: Home) -> None:
    """From elsewhere: an event without a time is of then, and one that follows it is not ahead."""
    with LocalLog(home.mirror) as mirror:
        mirror.append(EVENTS, [Rating(event_id="e", ts=START, user_id="u", movie_id="m", rating=1, scale=5)])
    assert post(rating(1, None)).json()["stored"] == 1
    assert [event.ts for event in stored(home)] == [START]
    with LocalLog(home.mirror) as mirror:
        later = START + 48 * HOUR_MS
        mirror.append(EVENTS, [Rating(event_id="f", ts=later, user_id="u", movie_id="m", rating=1, scale=5)])
    told = post([rating(2, START + 50 * HOUR_MS), rating(3, START + 99 * HOUR_MS)]).json()
    assert (told["stored"], told["quarantined"]) == (1, 1)


def test_evt_03_milliseconds_taken_for_seconds_move_nothing(post: Callable, home: Home) -> None:
    lines = ["1700000000000,42,GET /rate/9001=4", *(f"{1_700_000_000 + n},{n},GET /rate/9001=4" for n in range(100))]
    assert post("\n".join(lines).encode(), "text/plain").json()["stored"] == 101
    with LocalLog(home.log) as log:
        assert log.now_ms() == START + 99_000


def test_gzip_and_a_gzip_bomb(post: Callable, home: Home) -> None:
    whole = json.dumps([rating(1)]).encode()
    assert post(gzip.compress(whole), content_encoding="gzip").json()["stored"] == 1
    two = gzip.compress(b"[") + gzip.compress(json.dumps(rating(2)).encode() + b"]")
    assert post(two, content_encoding="gzip").json()["stored"] == 1
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < 200_000
    assert post(bomb, content_encoding="gzip").status_code == 413
    for broken in (b"not gzip", gzip.compress(whole)[:-9], gzip.compress(whole) + b"more"):
        assert post(broken, content_encoding="gzip").status_code == 400, broken
    assert post(whole, content_encoding="br").status_code == 415


def test_what_is_no_batch_is_refused_with_one_sentence(post: Callable, home: Home) -> None:
    for body, status in ((b"", 400), (b"{", 400), (b"[" * 5000, 400), (b"\xff\xfe", 400), (b"[1] 2", 400)):
        answer = post(body)
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), body
    assert post(b"3").status_code == 422
    assert post(b"\xff\xfe\n", "text/plain").json()["refused"][0]["reason"] == "byte 0xFF at position 1 is not UTF-8"
    assert post([rating(1)], "application/x-pickle").status_code == 415
    assert post([rating(n) for n in range(1001)]).status_code == 413
    assert post(b" " * 200_001).status_code == 413
    assert post(rating(7, movie_id=[[[]]])).status_code == 422
    deep: Any = {}
    for _ in range(300):
        deep = [deep]
    assert post([rating(8), rating(9, movie_id=deep)]).json()["stored"] == 1
    assert all(isinstance(letter, Unreadable) for letter in stored(home, DEAD_LETTER))


def test_events_need_a_key_with_their_scope(client: Callable, home: Home) -> None:
    from serving.keys import KeyStore

    call, store = client(home=home), KeyStore(home)
    reader, poster = store.create("site")[0], store.create("site", ("events",))[0]
    for headers, status in (({}, 401), ({"x-api-key": reader}, 403), ({"x-api-key": poster}, 200)):
        assert call("POST", "/v1/events", json=rating(1), headers=headers).status_code == status


def test_without_a_home_events_are_not_taken(client: Callable) -> None:
    answer = client(door=MAY)("POST", "/v1/events", json=rating(1))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_many_at_once_are_all_stored(post: Callable, home: Home) -> None:
    wishes = [("POST", "/v1/events", {"json": [rating(100 * p + n) for n in range(50)]}) for p in range(40)]
    answers = post.call.all(*wishes, ("GET", "/recommend/u0", {}))
    assert {answer.status_code for answer in answers} == {200}
    assert len(stored(home)) == 2000


def test_more_than_may_wait_is_answered_503(client: Callable, home: Home) -> None:
    call = client(home=home, door=MAY, intake={"waiting_bytes": 20_000})
    wishes = [("POST", "/v1/events", {"json": [rating(100 * p + n) for n in range(50)]}) for p in range(20)]
    statuses = [answer.status_code for answer in call.all(*wishes)]
    assert set(statuses) == {200, 503}
    assert len(stored(home)) == 50 * statuses.count(200)
    assert call("POST", "/v1/events", json=rating(1)).status_code == 200


def test_a_log_that_cannot_be_written_is_503_and_slates_are_served(client: Callable, home: Home) -> None:
    home.log.mkdir()  # where the file should be
    call = client(home=home, door=MAY)
    answer = call("POST", "/v1/events", json=rating(1))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert call("GET", "/recommend/u0").status_code == 200
    home.log.rmdir()
    assert call("POST", "/v1/events", json=rating(1)).status_code == 200
    assert isinstance(stored(home)[0], Rating)


def test_what_is_acknowledged_after_the_log_was_put_back_from_a_copy_is_in_that(post: Callable, home: Home) -> None:
    assert post(rating(1)).json()["stored"] == 1
    with LocalLog(home.log) as log:
        log._db.execute("VACUUM INTO ?", (str(home.root / "copy.db"),))
    for part in ("", "-wal", "-shm"):
        (home.root / f"log.db{part}").unlink()
    (home.root / "copy.db").rename(home.log)
    assert post([rating(1), rating(2)]).json() == {
        "accepted": 2, "stored": 1, "duplicates": 1, "quarantined": 0, "refused": []
    }  # fmt: skip
    assert [event.event_id for event in stored(home)] == ["e1", "e2"]
    assert post.call("GET", "/recommend/u0").headers["x-rung"] == "model"


def test_a_spool_at_its_cap_refuses_events_and_slates_are_served(client: Callable, home: Home) -> None:
    call = client(home=home, door=MAY, journal_capacity=3, kafka={"servers": "127.0.0.1:9", "spool_max_mb": 0.2})
    taken = 0
    while (answer := call("POST", "/v1/events", json=[rating(taken + n) for n in range(200)])).status_code == 200:
        taken += 200
        assert taken < 10_000
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "as much as it may" in answer.text
    assert {call("GET", f"/recommend/u{n}").status_code for n in range(8)} == {200}
    assert len(stored(home)) == taken > 0, "what was acknowledged is there, and nothing else"
    assert call.metric("greenlight_impressions_dropped_total") == 5  # three wait
    with LocalLog(home.log) as log:
        log.commit(EVENTS, "relay", taken)
        assert log.trim(0, ["relay"], 4_000_000_000_000) == taken - 1
    assert call("POST", "/v1/events", json=rating(taken)).status_code == 200

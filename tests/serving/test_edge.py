"""The edge's routes, in process: slates, refusals, health, metrics."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from conf.home import Home
from conf.settings import Settings
from events.event import EVENTS, IMPRESSIONS, Click, Impression
from events.local_log import LocalLog
from serving.edge import Edge
from serving.reading import LINGER_BYTES, MAX_BODY_BYTES

BEST_OF_U0 = "m21,m20,m29,m28,m27"  # boosted first, then by descending code; u0 has seen m0, m1, m2


def test_a_slate_is_one_line_of_ids_best_first(client: Callable) -> None:
    answer = client()("GET", "/recommend/u0?k=5")
    assert (answer.status_code, answer.text) == (200, BEST_OF_U0)
    assert answer.headers["content-type"].startswith("text/plain")
    assert (answer.headers["x-rung"], answer.headers["x-arm"]) == ("model", "champion")
    assert len(answer.headers["x-release"]) == 64
    assert answer.headers["x-request-id"]
    assert answer.headers["x-state"] == "ready"


def test_the_json_answer_has_scores_titles_and_the_ids_of_everything(client: Callable) -> None:
    answer = client()("POST", "/v1/recommend", json={"user_id": "u0", "k": 2})
    body = answer.json()
    assert body.pop("request_id") == answer.headers["x-request-id"]
    assert body.pop("release") == answer.headers["x-release"]
    assert body == {
        "arm": "champion",
        "rung": "model",
        "items": [
            {"movie_id": "m21", "title": "Movie 21, é", "score": 1021.0},
            {"movie_id": "m20", "title": "Movie 20, é", "score": 1020.0},
        ],
    }


def test_k_is_twenty_by_default_and_seen_movies_never_come(client: Callable) -> None:
    items = client()("GET", "/recommend/u0").text.split(",")
    assert len(items) == 20
    assert not {"m0", "m1", "m2"} & set(items)
    assert client()("POST", "/v1/recommend", json={"user_id": "u0"}).json()["items"][0]["movie_id"] == items[0]


def test_a_viewer_never_seen_gets_a_slate(client: Callable) -> None:
    for name in ("never seen here", "новый", "a/b", "x" * 256):
        user = name.replace(" ", "-")
        answer = client()("GET", f"/recommend/{quote(user, safe='')}?k=3")
        assert (answer.status_code, answer.headers["x-rung"]) == (200, "model"), user


@pytest.mark.parametrize(
    "k", ["0", "-1", "101", "1000000000000", "9" * 5000, "abc", "", "1.5", "NaN", "1e2", "%00", "²"]
)
def test_a_k_that_cannot_be_is_refused_with_a_sentence(client: Callable, k: str) -> None:
    answer = client()("GET", f"/recommend/u0?k={k}")
    assert answer.status_code == 400
    assert "it must be a whole number from 1 to 100" in answer.text
    assert len(answer.text) < 200
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("k", [0, -1, 101, 10**30, "20", 1.5, None, True, [5]])
def test_a_k_in_json_that_cannot_be_is_refused_with_a_sentence(client: Callable, k: object) -> None:
    answer = client()("POST", "/v1/recommend", content=json.dumps({"user_id": "u0", "k": k}))
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize("user", ["", "x" * 257, "a%20b", "a%2Cb", "a%0Ab", "%FF", "%00"])
def test_an_id_that_no_viewer_can_have_is_refused(client: Callable, user: str) -> None:
    answer = client()("GET", f"/recommend/{user}")
    assert answer.status_code == 400, user
    assert "viewer" in answer.text or "user_id" in answer.text


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"k": 3}', "must be a JSON object"),
        (b'{"user_id": 3}', "user_id is 3"),
        (b'{"user_id": "u0", "K": 3}', "unknown field 'K'"),
        (b'{"user_id": NaN}', "not JSON"),
        (b'{"user_id": "\xff"}', "not JSON"),
        (b"[" * 5000, "not JSON"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_with_a_sentence(client: Callable, body: bytes, says: str) -> None:
    answer = client()("POST", "/v1/recommend", content=body)
    assert answer.status_code == 400
    assert says in answer.json()["error"]


def test_a_connection_ends_with_a_refusal_only_where_a_part_of_the_body_was_not_read(client: Callable) -> None:
    ask = client()
    assert "connection" not in ask("POST", "/v1/recommend", content=b"{").headers
    assert ask("POST", "/v1/recommend", content=b"[" * 2 * MAX_BODY_BYTES).headers["connection"] == "close"
    assert ask("GET", "/recommend/u0?k=0", content=b"{}").headers["connection"] == "close"


def test_another_content_type_is_refused(client: Callable) -> None:
    answer = client()(
        "POST", "/v1/recommend", content=b"\x80\x04", headers={"content-type": "application/vnd.bentoml+pickle"}
    )
    assert answer.status_code == 415


def test_srv_05_the_body_limit_counts_what_is_read(client: Callable) -> None:
    """A chunked body has no Content-Length; no more than the limit and one chunk is ever taken."""
    taken = taken_when_answered = 0

    async def chunks():
        nonlocal taken
        for _ in range(50_000):
            taken += 1024
            yield b"x" * 1024

    edge: Edge = client().edge

    async def run() -> int:
        source, sent = chunks(), []

        async def receive() -> dict:
            chunk = await anext(source, b"")
            return {"type": "http.request", "body": chunk, "more_body": bool(chunk)}

        async def send(message: dict) -> None:
            nonlocal taken_when_answered
            taken_when_answered = taken_when_answered or taken
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/recommend", "raw_path": b"/v1/recommend"}
        headers = [(b"transfer-encoding", b"chunked")]
        await edge({**scope, "query_string": b"", "headers": headers, "client": ("127.0.0.1", 1)}, receive, send)
        return sent[0]["status"]

    assert asyncio.run(run()) == 413
    assert taken_when_answered <= MAX_BODY_BYTES + 1024
    assert taken <= LINGER_BYTES + 2 * MAX_BODY_BYTES  # what came after was read on and thrown away


@pytest.mark.parametrize("deadline", ["0", "-5", "nan", "soon", ""])
def test_a_deadline_that_cannot_be_is_refused(client: Callable, deadline: str) -> None:
    answer = client()("GET", "/recommend/u0", headers={"X-Deadline-Ms": deadline})
    assert answer.status_code == 400
    assert "X-Deadline-Ms" in answer.text


def test_methods(client: Callable) -> None:
    call = client()
    head = call("HEAD", "/recommend/u0?k=5")
    assert (head.status_code, head.content) == (200, b"")
    assert call("HEAD", "/recommend/u0?k=0").status_code == 400
    assert call("HEAD", "/readyz").headers["x-state"] == "ready"
    options = call("OPTIONS", "/recommend/u0")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS")
    for method, path in (("POST", "/recommend/u0"), ("DELETE", "/recommend/u0"), ("GET", "/v1/recommend")):
        refused = call(method, path)
        assert refused.status_code == 405
        assert "allow" in refused.headers
    assert call.metric('greenlight_slates_total{rung="model"}') == 0


def test_other_paths_are_passed_on(client: Callable) -> None:
    call = client()
    assert call("GET", "/beneath").text == "from beneath"
    for path in ("/recommend", "/recommend/u0/more", "/nowhere"):
        assert call("GET", path).status_code == 404, path


def test_the_metrics_have_bounded_labels(client: Callable) -> None:
    call = client()
    call.all(*(("GET", f"/recommend/secret{n}", {}) for n in range(50)))
    text = call("GET", "/metrics").text
    assert "secret" not in text
    assert call.metric('greenlight_requests_total{route="/recommend/{user_id}",status="2xx"}') == 50
    assert call.metric('greenlight_latency_seconds_count{route="/recommend/{user_id}"}') == 50


def test_a_worker_that_has_not_started_is_not_ready(tmp_path: Path, client: Callable) -> None:
    started = client()
    not_started = Edge(started.edge.inner, started.edge.open_shelf, None, Settings())
    started.edge = not_started
    assert started("GET", "/readyz").status_code == 503
    assert started("GET", "/recommend/u0").status_code == 503
    assert started("GET", "/livez").status_code == 200


def test_impressions_reach_the_log_of_the_home(client: Callable, home: Home) -> None:
    call = client(home=home)
    answers = call.all(*(("GET", f"/recommend/u{n}?k=3", {}) for n in range(12)))
    call.edge.stop()
    with LocalLog(home.log) as log:
        found = {r.event.event_id: r.event for r in log.tail(IMPRESSIONS, 0)}
    assert set(found) == {answer.headers["x-request-id"] for answer in answers}
    one = found[answers[0].headers["x-request-id"]]
    assert isinstance(one, Impression)
    assert (one.user_id, one.arm, one.rung, one.k) == ("u0", "champion", "model", 3)
    assert (one.items, one.propensities) == (tuple(answers[0].text.split(",")), (1.0, 1.0, 1.0))
    assert one.release == answers[0].headers["x-release"]
    assert one.ts == 1_700_000_000_000 - 1, "the home's now: the newest event of the snapshot, which ends just after"
    assert one.wall_ts > one.ts


def test_without_a_home_impressions_are_dropped_and_counted(client: Callable) -> None:
    call = client()
    call.all(*(("GET", f"/recommend/u{n}", {}) for n in range(7)))
    assert call.metric("greenlight_impressions_dropped_total") == 7


def test_a_log_that_cannot_be_written_costs_no_slate_and_the_loss_is_counted(client: Callable, home: Home) -> None:
    home.log.mkdir()  # where the file should be
    call = client(home=home, journal_capacity=5)
    answers = call.all(*(("GET", f"/recommend/u{n}", {}) for n in range(12)))
    assert {answer.status_code for answer in answers} == {200}
    assert call.metric("greenlight_impressions_dropped_total") == 7  # five wait
    call.edge.stop()
    assert call.metric("greenlight_impressions_dropped_total") == 12
    told = [json.loads(line) for line in home.lost.read_text().splitlines()]
    assert sum(one["impressions"] for one in told) == 12


def test_what_waited_is_written_when_the_log_is_back(client: Callable, home: Home) -> None:
    home.log.mkdir()
    call = client(home=home)
    answer = call("GET", "/recommend/u0")
    home.log.rmdir()
    call.edge.stop()
    with LocalLog(home.log) as log:
        assert log.get(IMPRESSIONS, answer.headers["x-request-id"]) is not None


def test_request_ids_never_repeat(client: Callable) -> None:
    first, second = client(), client()
    ids = [call("GET", "/recommend/u0").headers["x-request-id"] for call in (first, second) for _ in range(20)]
    assert len(set(ids)) == 40


def test_lag_is_told_for_each_reader_at_the_moment_of_asking(client: Callable, home: Home) -> None:
    call = client(home=home)
    lag = 'greenlight_lag_messages{group="archive",worker=""}'
    assert call.metric(lag) == 0
    with LocalLog(home.log) as log:
        log.append(EVENTS, [Click(event_id=f"e{n}", ts=n + 1, user_id="u", movie_id="m1") for n in range(3)])
    assert call.metric(lag) == 3
    assert call.metric(lag.replace("messages", "seconds")) < 3600
    with LocalLog(home.log) as log:
        log.commit(EVENTS, "archive", log.newest())
    assert call.metric(lag) == 0
    text = call("GET", "/metrics").text
    assert text.count("# TYPE greenlight_lag_messages gauge") == 1
    home.log.write_bytes(b"not a log" * 1000)
    assert "greenlight_requests" in call("GET", "/metrics").text, "one that cannot be told hides no other"

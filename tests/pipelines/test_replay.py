"""`replay` of a small recorded day: through candidates in the shadow, and through a real service."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread, Timer
from typing import Any, ClassVar

import pytest

from conf.home import Home
from conf.sections.serving import Serving
from conf.settings import Settings
from events.event import EVENTS, IMPRESSIONS, Click, Impression, Rating
from events.local_log import LocalLog
from mlflow_server.building import build
from mlflow_server.ledger import Ledger, SigningKey
from models.shelf import find, load_file
from pipelines.package import package
from pipelines.recorded import Did, NothingRecorded, Recorded, Wish
from pipelines.replay import Replayed, ReplayError, moment, replay
from pipelines.sending import SendingError
from pipelines.serve import serve
from serving.keys import KeyStore
from tests.town import TINY

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(serving=Serving(popularity_share=0.0, exploration_share=0.0))
tiny = load_file(TINY)
END, HOUR = tiny.END_MS, 3_600_000
DAY = ("2023-11-14T22:13:20", "2023-11-16")  # from the end of what the releases learned from
FIRST, SECOND = ("m25", "m1", "m29"), ("m0", "m25", "m28")


def served(ts: int, user: str, items: tuple[str, ...]) -> Impression:
    return Impression(
        event_id=f"{user}-{ts}", ts=ts, wall_ts=ts, user_id=user, arm="champion", release="old", rung="model",
        items=items, propensities=(1.0,) * len(items), k=len(items), latency_ms=4.0,
    )  # fmt: skip


def rated(ts: int, user: str, movie: str, rating: float = 5) -> Rating:
    return Rating(event_id=f"{user}-{movie}", ts=ts, user_id=user, movie_id=movie, rating=rating, scale=5)


def record(home: Home) -> None:
    """Ann gets a slate, likes m29 of it, gets another one, and likes m1, which is not in it."""
    with LocalLog(home.log) as log:
        log.append(IMPRESSIONS, [served(END + HOUR, "ann", FIRST), served(END + 3 * HOUR, "ann", SECOND)])
        log.append(EVENTS, [rated(END + 2 * HOUR, "ann", "m29"), rated(END + 4 * HOUR, "ann", "m1")])
        click = Click(event_id="c", ts=END + HOUR + 1, user_id="ann", movie_id="m29", request_id=f"ann-{END + HOUR}")
        log.append(EVENTS, [click])


@pytest.fixture
def recorded(townhome: Home) -> Home:
    record(townhome)
    return townhome


def test_through_a_candidate_in_the_shadow(recorded: Home) -> None:
    """Version 1 ranks m25, m0, m29, m28, …, less what was seen."""
    with LocalLog(recorded.log) as log:
        before = log.newest()
    done = replay(recorded, SETTINGS, *DAY, against=1)
    assert (done.requests, done.requests_are, done.failed, done.events) == (2, "recorded slates", {}, 3)
    assert (done.compared, done.overlap_at_10, done.same_first) == (2, pytest.approx((2 / 3 + 1) / 2), 0.5)
    assert (done.followed, done.hit_rate_at_10, done.recorded_hit_rate_at_10) == (2, 0.5, 0.5)
    assert done.ndcg_at_10 == pytest.approx(0.5 / 1.63093 / 2, abs=1e-5)
    assert done.recorded_ndcg_at_10 == pytest.approx((0.63093 + 0.5) / 1.63093 / 2, abs=1e-5)
    assert (done.recorded_latency_p50_ms, done.through) == (4.0, "version 1 (Tiny), in the shadow")
    assert "never react to another slate" in done.notes[0]
    with LocalLog(recorded.log) as log:
        assert log.newest() == before, "nothing is written down"


def test_another_version_makes_other_slates(recorded: Home) -> None:
    """Version 3 begins with m25, m2."""
    assert replay(recorded, SETTINGS, *DAY, against=3).overlap_at_10 == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_without_recorded_slates_the_first_act_of_a_day_is_a_visit(townhome: Home) -> None:
    with LocalLog(townhome.log) as log:
        log.append(EVENTS, [rated(END + HOUR, "ann", "m25"), rated(END + HOUR + 1, "ann", "m0", 1)])
        log.append(EVENTS, [rated(END + 25 * HOUR, "ann", "m29"), rated(END + 25 * HOUR, "bob", "m5")])
    done = replay(townhome, SETTINGS, DAY[0], "2023-11-17", against=1)
    assert (done.requests, done.requests_are, done.compared) == (3, "visits", 0)
    assert (done.followed, done.hit_rate_at_10) == (3, pytest.approx(2 / 3)), "bob's m5 is on no tenth place"
    assert "first act of a day is taken for a visit" in done.notes[1]


def test_what_the_candidate_learned_from_tells_nothing(recorded: Home) -> None:
    with LocalLog(recorded.log) as log:
        log.append(EVENTS, [rated(END - HOUR, "u1", "m9")])
    learned = replay(recorded, SETTINGS, "2023-11-14", "2023-11-14T22:13", against=1)
    assert (learned.followed, learned.hit_rate_at_10) == (0, None)
    assert "all of this period: hits cannot be told" in learned.notes[-1]
    partly = replay(recorded, SETTINGS, "2023-11-14", DAY[1], against=1)
    assert (partly.followed, partly.hit_rate_at_10) == (2, 0.5)
    assert "hits are of slates from then on" in partly.notes[-1]


def test_at_the_speed_asked_for(recorded: Home) -> None:
    begun = time.monotonic()
    replay(recorded, SETTINGS, *DAY, against=1, speed=4 * 3600 / 2)
    assert time.monotonic() - begun >= 2


def test_moments_are_told_in_the_order_of_time(recorded: Home) -> None:
    found = list(Recorded(recorded, SETTINGS, END, END + 30 * HOUR))
    assert [type(one) for one in found] == [Wish, Did, Did, Wish, Did]
    assert [one.ts for one in found] == sorted(one.ts for one in found)


def test_times() -> None:
    assert moment("2023-11-14T22:13:20") == moment("2023-11-14T23:13:20+01:00") == END
    assert moment("1970-01-02") == 24 * HOUR


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"since": "2023-11-17"}, ReplayError, "--from 2023-11-17 is not before --to 2023-11-16"),
        ({"since": "last week"}, ReplayError, "'last week' is no time: write a day or a time, such as 2013-10-01"),
        ({"until": "2023-02-30"}, ReplayError, "'2023-02-30' is no time"),
        ({"since": "2001-01-01", "until": "2001-01-02"}, NothingRecorded, "its events go from 2023-11-14 23:13:20"),
        ({"against": 9}, ReplayError, "there is no version 9: the ledger knows 1, 2, 3, 4"),
        ({"speed": 0.0}, ReplayError, "speed 0 is out of range"),
        ({"service": "http://127.0.0.1:1"}, ReplayError, "name one of them"),
        ({"against": None}, ReplayError, "the service of this home does not run: greenlight up, or --service URL"),
        ({"against": None, "service": "localhost:3000"}, ReplayError, "localhost:3000 is no address: write one such as http://localhost"),
        ({"until": "9999-12-31T23:59-14:00"}, ReplayError, "is no time"),
        ({"since": "0001-01-01T00:00+14:00"}, ReplayError, "is no time"),
        ({"against": None, "service": "http://[::1"}, ReplayError, "http://[::1 is no address"),
        ({"against": None, "service": "http://127.0.0.1:99999"}, ReplayError, "is no address"),
        ({"against": None, "service": "http://127.0.0.1:1/?key=a"}, ReplayError, "is no address"),
        ({"against": None, "service": "http://a:secret@h"}, ReplayError, "--service must not hold a password"),
        ({"against": None, "service": "http://127.0.0.1:1/below/"}, SendingError, "http://127.0.0.1:1/below does not"),
        ({"against": None, "service": "http://127.0.0.1:1"}, SendingError, "http://127.0.0.1:1 does not answer"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(
    recorded: Home, wrong: dict[str, Any], error: type[Exception], says: str
) -> None:
    asked = {"since": DAY[0], "until": DAY[1], "against": 1, **wrong}
    with pytest.raises(error) as found:
        replay(recorded, SETTINGS, asked.pop("since"), asked.pop("until"), **asked)
    assert says in str(found.value)


LAGS = b'greenlight_lag_messages{group="live",worker="1"} 0.0\n'
COUNTS = b'{"stored":1,"duplicates":0,"quarantined":0}'


class Odd(BaseHTTPRequestHandler):
    """A service whose answers are as a test says: by the beginning of the path, status and body."""

    says: ClassVar[dict[str, tuple[int, bytes]]] = {}

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, body = next(said for path, said in self.says.items() if self.path.startswith(path))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *about: object) -> None:
        pass


@pytest.fixture
def odd() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "status", "body", "says"),
    [
        ("/recommend", 429, b"", "answered none of 2 requests: 2 status 429"),
        ("/v1/events", 200, b"hello", "is it Greenlight"),
        ("/v1/events", 200, b"[1]", "is it Greenlight"),
        ("/v1/events", 200, b"{}", "is it Greenlight"),
        ("/v1/events", 503, b"the log\r\n\x1b[31mis full \xff", "takes no events (status 503): the log   [31mis full"),
        ("/recommend", 200, b"\xff,m\x00", ""),
    ],
)
def test_a_service_that_answers_oddly(home: Home, odd: str, path: str, status: int, body: bytes, says: str) -> None:
    record(home)
    rest = {"/metrics": (200, LAGS), "/recommend": (200, b"m,n"), "/v1/events": (200, COUNTS)}
    Odd.says = {path: (status, body), **{other: said for other, said in rest.items() if other != path}}
    if not says:
        assert replay(home, SETTINGS, *DAY, service=odd).requests == 2
        return
    with pytest.raises(SendingError) as found:
        replay(home, SETTINGS, *DAY, service=odd)
    assert says in str(found.value)
    assert str(found.value).isprintable()


def test_a_service_that_does_not_say_how_far_its_readers_are_is_waited_for(home: Home, odd: str) -> None:
    record(home)
    Odd.says = {"/metrics": (200, b""), "/recommend": (200, b"m"), "/v1/events": (200, COUNTS)}
    later = Timer(1.0, lambda: Odd.says.update({"/metrics": (200, LAGS)}))
    later.start()
    assert replay(home, SETTINGS, *DAY, service=odd).events == 3
    assert Odd.says["/metrics"] == (200, LAGS)


@pytest.mark.parametrize("key", [b"abc\x00def", "schlüssel".encode(), b"\xff"])
def test_a_key_that_no_header_can_hold(home: Home, tmp_path: Path, key: bytes) -> None:
    record(home)
    (tmp_path / "key").write_bytes(key)
    with pytest.raises(ReplayError, match=r"--key-file .* (control characters|not ASCII)") as found:
        replay(home, SETTINGS, *DAY, service="http://127.0.0.1:1", key_file=tmp_path / "key")
    assert "abc" not in str(found.value)


def test_an_empty_home(home: Home) -> None:
    with pytest.raises(ReplayError, match="there is no version 1: greenlight train makes the first"):
        replay(home, SETTINGS, *DAY, against=1)
    with pytest.raises(NothingRecorded, match="it holds no events yet"):
        replay(home, SETTINGS, *DAY, service="http://127.0.0.1:1")


@pytest.mark.server
def test_the_verb(recorded: Home) -> None:
    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "greenlight.py", "replay", "--from", DAY[0], "--to", DAY[1], *more]
        return subprocess.run(
            command, cwd=ROOT, env=recorded.environment(), capture_output=True, text=True, check=False
        )

    assert json.loads(run("--against", "1", "--json").stdout)["requests"] == 2
    refused = run("--against", "9")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "there is no version 9" in refused.stderr
    assert "never react" in run("--against", "1").stdout


@pytest.mark.server
@pytest.mark.timeout(600)
def test_through_a_running_service(home: Home, tmp_path: Path) -> None:
    """The traffic of one home, through the service of another: it comes to know what happened, in order."""
    site = Home(tmp_path / "site").open()
    shelved, key = find(f"{TINY}:Tiny"), SigningKey(site.keys)
    model = shelved.cls(shelved.cls.Config(boosts=(0, 25))).fit(tiny.world())
    release = build(site.releases, model, shelved, "snap1", tiny.world(), "abc123", key)
    ledger = Ledger(site.ledger, key)
    facts = {"version": 1, "model": "Tiny", "release": release.digest, "run_id": "r", "snapshot": "snap1"}
    ledger.append("registered", facts, actor="ada", ts=1)
    ledger.append("promotion", {"version": 1, "release": release.digest, "alias": "champion"}, actor="ada", ts=1)
    package(site, SETTINGS, release, {"median_ms": 0.1})
    store = KeyStore(site)
    right, wrong = tmp_path / "key", tmp_path / "small-key"
    right.write_text(store.create("replay", ("read", "events", "admin"))[0] + "\n")
    wrong.write_text(store.create("reader", ("read",))[0])
    record(home)
    with serve(site, SETTINGS, port=0) as server:

        def through(**how: Any) -> Replayed:
            return replay(home, SETTINGS, *DAY, service=server.url, **{"key_file": right, **how})

        with pytest.raises(SendingError, match="refuses the key: it needs one with the scopes read, events and admin"):
            through(key_file=wrong)
        done = through()
        assert (done.requests, done.failed, done.rungs, done.events, done.events_known) == (2, {}, {"model": 2}, 3, 0)
        assert (done.overlap_at_10, done.same_first) == (pytest.approx((2 / 3 + 1) / 2), 0.5)
        assert (done.followed, done.hit_rate_at_10) == (2, 0.5)
        again = through(speed=100_000.0)
        assert (again.events_known, again.followed, again.hit_rate_at_10) == (3, 0, None)
        assert any("3 of 3 events were known to the service before: hits cannot be told" in n for n in again.notes)
    with LocalLog(site.log) as log:
        acts = [record.event for record in log.iterate(EVENTS)]
        slates = [record.event for record in log.iterate(IMPRESSIONS)]
    assert len(acts) == 3
    clicks = [act.request_id for act in acts if isinstance(act, Click)]
    assert clicks[0] in {slate.event_id for slate in slates}, "the click names the slate that came in place of its own"

"""`greenlight up` as a person meets it: real processes, real signals. The API is a Bento of a tiny release."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from conf.home import Home
from conf.settings import Settings
from events.archive import read_topic
from events.clock import wall_ms
from events.event import EVENTS
from events.reading import reached
from events.store import FolderStore
from mlflow_server.release import Release, verify
from pipelines import health, status
from pipelines.child import MARK
from pipelines.cron import times
from pipelines.latest import latest
from pipelines.package import package
from pipelines.schedule import Job, Scheduler
from pipelines.strays import end_marked, marked
from pipelines.up import CHILDREN, LOOPS, mark, running
from serving.report import reports
from tests import town

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240.0


class Up:
    """A running `greenlight up --json`."""

    def __init__(self, home: Home, api: int, registry: int, **more: str) -> None:
        self.home, self._errors = home, home.root.parent / f"said-{time.monotonic_ns()}.txt"
        ports = {"GREENLIGHT_SERVING__PORT": str(api), "GREENLIGHT_REGISTRY__PORT": str(registry)}
        environment = {**os.environ, "GREENLIGHT_HOME": str(home.root), "GREENLIGHT_CLOCK": "wall", **ports, **more}
        command = [sys.executable, "-m", "greenlight", "up", "--json"]
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
            )

    @property
    def said(self) -> str:
        return self._errors.read_text()

    def ready(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, self.said
        return json.loads(line)

    def children(self) -> dict[str, dict[str, Any]]:
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(self.home.up.read_text())
            if told["pid"] == self.process.pid:
                return {child["name"]: child for child in told["children"]}
        return {}


@pytest.fixture
def up() -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(home: Home, api: int = 0, registry: int = 0, **more: str) -> Up:
        started.append(Up(home, api, registry, **more))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        for name in CHILDREN:
            end_marked(f"{MARK}={mark(one.home, name)}")


def within(holds: Callable[[], Any], up: Up) -> Any:
    until = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        assert time.monotonic() < until, up.said
        time.sleep(0.1)
    return found


def family(home: Home) -> list[int]:
    return [pid for name in CHILDREN for pid in marked(f"{MARK}={mark(home, name)}")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def step_aside(pid: int) -> bool:
    """Whether a process does, and, where the kernel groups processes by session, its session too."""
    group = Path(f"/proc/{pid}/autogroup")
    nice = os.nice(0) + 10
    grouped = group.read_text().split() if group.exists() else []
    return os.getpriority(os.PRIO_PROCESS, pid) == nice and (not grouped or grouped[-1] == str(nice))


def upgraded(home: Home) -> Path:
    """The Bento of the champion, as an earlier Greenlight would have left it."""
    folder = home.releases / town.made(home, 1)["release"]
    package(home, town.SETTINGS, Release(folder.name, folder, verify(folder)), {"median_ms": 0.1})
    now = latest(home)
    assert now
    before = now.rename(now.with_name("tiny-earlier"))
    (before.parent / "latest").write_text(before.name)
    packaged = before / "src" / "packaged.json"
    packaged.write_text(json.dumps(json.loads(packaged.read_text()) | {"source": "of an earlier Greenlight"}))
    return before


def test_all_of_it_comes_up_mends_itself_and_ends_whole(townhome: Home, up: Callable[..., Up]) -> None:
    earlier = upgraded(townhome)
    first = up(townhome)
    told = first.ready()
    assert httpx.get(told["registry"] + "/health", timeout=PATIENCE_S).status_code == 200
    assert told["key"].startswith("gl_local_")
    second = up(townhome)
    assert second.process.wait(PATIENCE_S) == 2
    assert str(first.process.pid) in second.said
    assert told["registry"] in second.said
    within(lambda: first.children()["api"]["state"] == "up", first)  # once the champion's Bento is built anew
    assert "Greenlight has changed" in first.said
    assert latest(townhome) != earlier
    assert earlier.exists(), "nobody may have taken it away from who runs from it"
    assert httpx.get(told["api"] + "/recommend/u1?k=3", timeout=PATIENCE_S).status_code == 200
    seen = {"kind": "rating", "user_id": "42", "movie_id": "m3", "rating": 9, "scale": 10}
    bearer = {"authorization": f"Bearer {told['key']}"}
    posted = httpx.post(told["api"] + "/v1/events", json=seen, headers=bearer, timeout=PATIENCE_S)
    assert (posted.status_code, posted.json()["stored"]) == (200, 1), posted.text
    within(lambda: any(townhome.history.glob("events/day=*/*.parquet")), first)
    within(lambda: all(step_aside(first.children()[name]["pid"]) for name in LOOPS), first)
    assert not step_aside(first.children()["api"]["pid"])
    before = first.children()["archiving"]["pid"]
    os.kill(before, signal.SIGKILL)
    within(lambda: first.children()["archiving"]["pid"] not in (None, before), first)
    assert "archiving ended: killed by SIGKILL" in first.said
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(PATIENCE_S) == 0
    assert family(townhome) == []
    assert not townhome.up.exists()
    assert not running(townhome)


def test_it_comes_up_after_everything_or_only_the_supervisor_was_killed(home: Home, up: Callable[..., Up]) -> None:
    ports = {"api": free_port(), "registry": free_port()}
    first = up(home, **ports)
    within(lambda: first.children().get("registry", {}).get("pid"), first)
    first.process.kill()
    first.process.wait()
    assert family(home), "the children outlive it"
    second = up(home, **ports)
    within(lambda: second.children().get("registry", {}).get("pid"), second)
    assert "left behind" in second.said
    for pid in (second.process.pid, *family(home)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    second.process.wait()
    third = up(home, **ports)
    told = third.ready()
    assert "greenlight train" in told["waits"]["api"]
    assert told["key"] is None, "a key is shown once"
    third.process.terminate()
    assert third.process.wait(PATIENCE_S) == 0
    assert family(home) == []


def test_an_overdue_job_is_told_by_mail_though_the_scheduler_is_what_dies(
    home: Home, up: Callable[..., Up], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENLIGHT_SCHEDULE__LATE_MINUTES", "0.05")
    for name in ("EXPERIMENT", "PRECOMPUTE", "DRIFT", "RETRAIN"):
        monkeypatch.setenv(f"GREENLIGHT_SCHEDULE__{name}", "")
    hourly = Job("prune", ("prune",), times("0 * * * *", "UTC"), "wall", 60)
    earlier = Scheduler(home, [hourly], lambda job, beat: None, 0.05)
    earlier.step(wall_ms() - 3 * 3_600_000, 0)  # it lived three hours ago
    first = up(home)
    killed, seen = set[int](), set[tuple[str, str]]()

    def alarmed() -> list[Path]:
        child = first.children().get("schedule", {})
        if child.get("pid"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child["pid"], signal.SIGKILL)
            killed.add(child["pid"])
        seen.update((part.state, part.next) for part in health.jobs(home))
        return list(home.outbox.glob("*.eml"))

    (letter,) = within(alarmed, first)
    assert b"Subject: overdue: prune" in letter.read_bytes()
    assert killed
    assert ("broken", "greenlight prune") in seen, "status says so, too"


def test_a_port_that_is_taken_and_a_time_that_is_none_are_sentences(
    home: Home, up: Callable[..., Up], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = up(home, registry=taken.getsockname()[1])
        assert refused.process.wait(PATIENCE_S) == 2
        assert "GREENLIGHT_REGISTRY__PORT" in refused.said
    monkeypatch.setenv("GREENLIGHT_SCHEDULE__PRUNE", "every night")
    refused = up(home)
    assert refused.process.wait(PATIENCE_S) == 2
    assert "schedule.prune" in refused.said
    assert "Traceback" not in refused.said
    assert family(home) == []


def test_with_kafka_what_is_posted_comes_through_it_to_every_worker_and_the_archive(
    townhome: Home, up: Callable[..., Up], kafka: Any
) -> None:
    settings = Settings.model_validate(
        {"kafka": {"servers": kafka.servers, "topic_prefix": f"t{uuid.uuid4().hex[:8]}"}, "clock": "wall"}
    )
    one = up(townhome, GREENLIGHT_KAFKA=settings.kafka.model_dump_json(), GREENLIGHT_SERVING__WORKERS="2")
    told = one.ready()
    within(lambda: one.children()["api"]["state"] == "up", one)
    bearer = {"authorization": f"Bearer {told['key']}"}

    def post(*numbers: int) -> None:
        seen = [rated(number, movie) for number in numbers]
        posted = httpx.post(told["api"] + "/v1/events", json=seen, headers=bearer, timeout=PATIENCE_S)
        assert (posted.status_code, posted.json()["stored"]) == (200, len(numbers)), posted.text

    def everywhere(count: int) -> bool:
        end = reached(townhome, settings)
        told = reports(townhome)
        table = read_topic(FolderStore(townhome.history), EVENTS, ["event_id"])
        archived = table["event_id"].to_pylist()
        assert len(set(archived)) == len(archived)
        return end is not None and len(told) == 2 and all(w.offset >= end for w in told) and len(archived) == count

    def slate() -> list[str]:
        return httpx.get(told["api"] + "/recommend/u0?k=9", timeout=PATIENCE_S).text.strip().split(",")

    movie = slate()[0]
    post(0)
    within(lambda: everywhere(1), one)
    assert not any(movie in slate() for _ in range(8)), "seen, as every worker knows"
    before = one.children()["mirroring"]["pid"]
    os.kill(before, signal.SIGKILL)
    post(*range(1, 200))
    within(lambda: everywhere(200), one)
    for name in ("relay", "mirror"):
        (part,) = (part for part in status.parts(townhome, settings) if part.name == name)
        assert part.state == "ok", part


def rated(number: int, movie: str) -> dict[str, Any]:
    fields = {"kind": "rating", "event_id": f"e{number}", "user_id": f"u{number % 10}", "movie_id": movie}
    return {**fields, "rating": 9, "scale": 10}

"""A real redis-server that is flushed, frozen, killed, made read-only, filled and filled with junk, all under load."""

import asyncio
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from starlette.applications import Starlette

from conf.sections.serving import Cache, Door, Serving
from conf.settings import Settings
from mlflow_server.building import build
from mlflow_server.ledger import SigningKey
from models.shelf import find, load_file
from serving.edge import Edge
from serving.opened import Opened, Packaged
from serving.shelf import Shelf

pytestmark = pytest.mark.server
TINY = Path(__file__).parents[1] / "serving" / "tiny.py"
PATIENCE_S = 30.0
PASSWORD = "hunter2"


class Redis:
    """A redis-server in a process of its own, on a port that stays the same."""

    def __init__(self, program: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.program, self.folder = program, folder
        self.start()

    def start(self) -> None:
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command += ["--requirepass", PASSWORD]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL)
        self.admin = redis.Redis(port=self.port, password=PASSWORD)
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            try:
                self.admin.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.05)
        raise RuntimeError("redis-server does not answer")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(need: Callable[[str], str], tmp_path: Path) -> Iterator[Redis]:
    made = Redis(need("redis-server"), tmp_path)
    yield made
    made.kill()


@pytest.fixture
def edges(server: Redis, tmp_path: Path) -> list[Edge]:
    """Two workers over one release and one Redis, as two processes would be; started where the test's loop runs."""
    key, shelved = SigningKey(tmp_path / "keys"), find(f"{TINY}:Tiny")
    world = load_file(TINY).world()
    release = build(tmp_path / "releases", shelved.cls().fit(world), shelved, "snap1", world, "abc123", key)
    serving = Serving(inline_below_ms=1000, popularity_share=0.0, exploration_share=0.0)
    cache = Cache(redis=f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0", timeout_ms=100)
    conf, made = Settings(serving=serving, cache=cache, door=Door(anonymous_per_minute=1_000_000)), []
    for number in range(2):
        folder = tmp_path / f"release{number}"
        shutil.copytree(release.folder, folder)
        shelf = Shelf(Opened(folder, Packaged(release.digest, key.public, {"median_ms": 0.1}), conf))
        made.append(Edge(Starlette(), lambda shelf=shelf: shelf, None, conf))
    return made


class Load:
    """Requests of ever new viewers to both workers, one after the other, until told to stop."""

    def __init__(self, edges: list[Edge]) -> None:
        self.clients = [httpx.AsyncClient(transport=httpx.ASGITransport(e), base_url="http://edge") for e in edges]
        self.answers: list[httpx.Response] = []
        self.number, self.over = 0, False

    async def ask(self, worker: int, user: str) -> httpx.Response:
        return await self.clients[worker].get(f"/recommend/{user}?k=5")

    async def run(self) -> None:
        while not self.over:
            self.number += 1
            self.answers.append(await self.ask(self.number % 2, f"load{self.number}"))
            await asyncio.sleep(0.001)

    async def shared(self) -> None:
        """Wait until one worker is answered with what the other made."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            self.number += 1
            user = f"shared{self.number}"
            await self.ask(0, user)
            await asyncio.sleep(0.05)
            if "age" in (await self.ask(1, user)).headers:
                return
        raise AssertionError("the workers do not share")


def through(edges: list[Edge], harm: Callable[[], Any], mend: Callable[[], Any]) -> Load:
    """Load before, during and after; sharing before and after."""

    async def run() -> Load:
        for edge in edges:
            edge.start()
        load = Load(edges)
        going = asyncio.create_task(load.run())
        try:
            await load.shared()
            await asyncio.to_thread(harm)
            before = load.number
            await asyncio.sleep(1.5)
            assert load.number - before > 20  # nobody waits for Redis
            await asyncio.to_thread(mend)
            await load.shared()
        finally:
            load.over = True
            await going
            for edge in edges:
                edge.stop()
            await asyncio.sleep(0)
        return load

    return asyncio.run(run())


def _nothing() -> None:
    pass


def _harms(server: Redis) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    admin = server.admin
    return {
        "flushed": (admin.flushall, _nothing),
        "frozen": (
            lambda: server.process.send_signal(signal.SIGSTOP),
            lambda: server.process.send_signal(signal.SIGCONT),
        ),
        "killed": (server.kill, server.start),
        "demoted": (lambda: admin.replicaof("127.0.0.1", "1"), lambda: admin.replicaof("NO", "ONE")),
        "without replicas": (
            lambda: admin.config_set("min-replicas-to-write", 1),
            lambda: admin.config_set("min-replicas-to-write", 0),
        ),
        "full": (lambda: admin.config_set("maxmemory", 1), lambda: admin.config_set("maxmemory", 0)),
        "cut off": (lambda: admin.client_kill_filter(_type="normal", skipme=True), _nothing),
        "asking for another password": (
            lambda: (admin.config_set("requirepass", "other"), admin.client_kill_filter(_type="normal", skipme=True)),
            lambda: admin.config_set("requirepass", PASSWORD),
        ),
    }


@pytest.mark.parametrize(
    "harm",
    ["flushed", "frozen", "killed", "demoted", "without replicas", "full", "cut off", "asking for another password"],
)
def test_whatever_befalls_redis_every_slate_is_served_and_sharing_comes_back(
    server: Redis, edges: list[Edge], harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    done, undone = _harms(server)[harm]
    load = through(edges, done, undone)
    assert {(answer.status_code, answer.headers["x-rung"]) for answer in load.answers} == {(200, "model")}
    assert PASSWORD not in caplog.text


def test_junk_in_redis_is_passed_over_and_written_anew(server: Redis, edges: list[Edge]) -> None:
    def spoil() -> None:
        for number, name in enumerate(server.admin.scan_iter("greenlight:slate:*")):
            if number % 2:
                server.admin.set(name, b'{"ids": ["m1"], "scores": [NaN]}')
            else:
                server.admin.delete(name)
                server.admin.lpush(name, "not", "a", "string")

    async def run() -> list[httpx.Response]:
        for edge in edges:
            edge.start()
        load = Load(edges)
        await load.shared()
        for number in range(20):
            await load.ask(0, f"u{number}")
        await asyncio.sleep(0.3)
        await asyncio.to_thread(spoil)
        answers = [await load.ask(1, f"u{number}") for number in range(20)]
        await load.shared()
        for edge in edges:
            edge.stop()
        await asyncio.sleep(0)
        return answers

    answers = asyncio.run(run())
    assert {(a.status_code, a.headers["x-rung"], "age" in a.headers) for a in answers} == {(200, "model", False)}


def test_a_redis_that_is_not_there_at_the_start_keeps_nobody_waiting(server: Redis, edges: list[Edge]) -> None:
    server.kill()

    async def run() -> None:
        for edge in edges:
            edge.start()
        load = Load(edges)
        answers = [await load.ask(0, f"u{number}") for number in range(50)]
        assert {answer.status_code for answer in answers} == {200}
        await asyncio.to_thread(server.start)
        await load.shared()
        for edge in edges:
            edge.stop()
        await asyncio.sleep(0)

    asyncio.run(run())

"""`kill -9` of the serving process while callers post events on several connections.

Mostly the worker alone is killed, and BentoML starts another; in one of `ALL_OF_IT` cycles the whole family is, and the
service is started anew. A caller who was not answered sends the same batch again, as callers do.
"""

import itertools
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import httpx
import psutil

from conf.home import Home
from conf.sections.serving import Door, Serving
from conf.settings import Settings
from events.event import DEAD_LETTER
from events.local_log import LocalLog
from mlflow_server.building import build
from mlflow_server.ledger import SigningKey
from models.shelf import find, load_file
from pipelines.package import package
from pipelines.serve import Server, serve
from tests.faults.drills.drill import ENOUGH, Drill, Tally
from tests.faults.drills.posting import batches, body
from tests.faults.drills.viewers import ids_in

TINY = Path(__file__).parents[2] / "serving" / "tiny.py"
SETTINGS = Settings(serving=Serving(workers=1), door=Door(anonymous=("read", "events"), anonymous_per_minute=1_000_000))
CONNECTIONS, BATCH = 4, 50
ALL_OF_IT = 10
JSON = {"content-type": "application/json"}
PATIENCE_S = 120.0


class Callers:
    """Each posts batch after batch on a connection of its own, while the `with` lasts; what they raise, that raises."""

    def __init__(self, url: str, name: str, tally: Tally) -> None:
        self.url, self.name, self.tally = url, name, tally
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(CONNECTIONS)
        self._calls = [self._pool.submit(self._call, connection) for connection in range(CONNECTIONS)]
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._pool.shutdown()
        for call in self._calls:
            call.result()

    def _call(self, connection: int) -> None:
        with httpx.Client(timeout=10, trust_env=False) as client:
            for number in itertools.count():
                (events,) = batches(f"{self.name}-{connection}-{number}", [BATCH]).values()
                self.tally.sent.update(event.event_id for event in events)
                if not self._acknowledged(client, body(events)):
                    return
                self.tally.acknowledged.update(event.event_id for event in events)

    def _acknowledged(self, client: httpx.Client, content: bytes) -> bool:
        """Post it until it is; False where the callers are told to end before."""
        while not self._over.is_set():
            try:
                answer = client.post(f"{self.url}/v1/events", content=content, headers=JSON)
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            if answer.status_code == 200:
                assert answer.json()["accepted"] == BATCH, answer.text
                return True
            assert answer.status_code == 503, answer.text
        return False


def run(folder: Path, cycles: int) -> Tally:
    home, tally, chance = Home(folder / "home").open(), Tally(), random.Random(6)
    _package(home)
    server = serve(home, SETTINGS, port=0)
    try:
        for cycle in tally.until(cycles):
            with Callers(server.url, f"c{cycle}", tally):
                _until_enough(tally)
                time.sleep(chance.uniform(0, 0.2))
                whole = cycle % ALL_OF_IT == ALL_OF_IT - 1
                _kill(server, whole)
                if whole:
                    server = serve(home, SETTINGS, port=int(server.url.rsplit(":")[-1]))
                _again(server)
            with LocalLog(home.log) as log:
                ids = ids_in(log)
                assert not log.count(DEAD_LETTER)
            tally.check(ids, ids)
    finally:
        server.stop()
    return tally


def _package(home: Home) -> None:
    """The service with a model of a few lines: what it recommends is not asked."""
    shelved, world = find(f"{TINY}:Tiny"), load_file(TINY).world()
    release = build(home.releases, shelved.cls().fit(world), shelved, "snap1", world, "abc123", SigningKey(home.keys))
    package(home, SETTINGS, release, {"median_ms": 0.1})


def _until_enough(tally: Tally) -> None:
    until, wanted = time.monotonic() + PATIENCE_S, tally.before + ENOUGH
    while len(tally.acknowledged) < wanted:
        assert time.monotonic() < until, f"{len(tally.acknowledged)} of {wanted} events were acknowledged"
        time.sleep(0.01)


def _kill(server: Server, whole: bool) -> None:
    """The worker, or with it the process that would start another."""
    parent = psutil.Process(server.process.pid)
    victims = [parent, *parent.children(recursive=True)] if whole else [psutil.Process(pid) for pid in server.workers]
    for victim in victims:
        victim.kill()
    psutil.wait_procs(victims, PATIENCE_S)


def _again(server: Server) -> None:
    """Wait until a worker answers."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            if server.readiness():
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("no worker answers")


DRILLS = (
    Drill(
        "kill-serving",
        "`kill -9` of the serving process while events are posted",
        run,
        short=2,
        long=200,
        server=True,
    ),
)

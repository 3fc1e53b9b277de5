"""Releases exchanged under `bentoml serve` with two workers, while requests come all the time."""

import asyncio
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from conf.home import Home
from conf.sections.serving import Door
from conf.settings import Settings
from events.event import EVENTS, Rating
from events.local_log import LocalLog
from mlflow_server.ledger import Ledger, SigningKey
from mlflow_server.release import Release
from pipelines.package import package
from pipelines.serve import Server, serve
from serving.report import reports

pytestmark = pytest.mark.server

OPEN = Settings(door=Door(anonymous_per_minute=1_000_000))  # these tests ask more often than strangers may

CALLERS, PAUSE_S = 4, 0.01


def within(seconds: float, holds: Callable[[], Any]) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := holds():
            return found
        time.sleep(0.1)
    return holds()


class Load:
    """Callers who ask for slates until told to stop, and what they got: status, release, arm and rung."""

    def __init__(self, url: str) -> None:
        self.url, self.got, self.over = url, Counter[tuple[int, str, str, str]](), False
        self.arms: dict[str, set[str]] = {}
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as client:
            await asyncio.gather(*(self._call(client, n) for n in range(CALLERS)))

    async def _call(self, client: httpx.AsyncClient, number: int) -> None:
        while not self.over:
            user = f"v{number % 60}"
            number += CALLERS
            answer = await client.get(f"/recommend/{user}?k=3")
            arm, release = answer.headers.get("x-arm", ""), answer.headers.get("x-release", "")
            self.got[answer.status_code, release, arm, answer.headers.get("x-rung", "")] += 1
            self.arms.setdefault(user, set()).add(arm)
            await asyncio.sleep(PAUSE_S)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *why: object) -> None:
        self.over = True
        self._thread.join()

    def since(self, before: Counter) -> Counter:
        return self.got - before


class Site:
    """A home whose releases are kept and whose ledger is written here, and its server."""

    def __init__(self, home: Home, key: SigningKey) -> None:
        self.home, self.ledger = home, Ledger(home.ledger, key)
        self.server: Server | None = None

    def keep(self, release: Release) -> Path:
        return Path(shutil.copytree(release.folder, self.home.releases / release.digest, dirs_exist_ok=True))

    def write(self, kind: str, release: Release, alias: str = "champion") -> None:
        self.ledger.append(kind, {"version": 1, "release": release.digest, "alias": alias}, actor="ada", ts=1)

    def serves(self, release: Release, arm: str = "champion") -> bool:
        """Whether both workers say so."""
        told = [report.arms.get(arm) for report in reports(self.home)]
        return len(told) == 2 and all(one and one.release == release.digest and one.state == "ready" for one in told)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, built: Callable[[str], Release], key: SigningKey) -> Iterator[Site]:
    home = Home(tmp_path_factory.mktemp("swapped") / "home").open()
    package(home, Settings(), built("Tiny"), {"median_ms": 0.1})
    made = Site(home, key)
    with serve(home, OPEN, port=0) as running:
        made.server = running
        yield made


def test_promotions_and_rollbacks_under_load_lose_no_request(site: Site, built: Callable[[str], Release]) -> None:
    one, two = built("Tiny"), built("Nested")
    site.keep(two)
    assert within(60, lambda: site.serves(one))
    with Load(site.server.url) as load:
        for kind, release in (("promotion", one), ("promotion", two), ("rollback", one), ("promotion", two)):
            site.write(kind, release)
            assert within(60, lambda release=release: site.serves(release)), reports(site.home)
            before = load.got.copy()
            assert within(60, lambda before=before: load.since(before).total() > 100)
            got = load.since(before)
            late = {key: n for key, n in got.items() if key[1] != release.digest}
            assert sum(late.values()) <= CALLERS, got  # under way when the report was read
    assert {status for status, *_ in load.got} == {200}
    assert {release for _, release, *_ in load.got} == {one.digest, two.digest}
    assert {rung for *_, rung in load.got} <= {"model", "popularity"}


def test_a_damaged_release_is_refused_and_the_old_one_serves(site: Site, built: Callable[[str], Release]) -> None:
    two, three = built("Nested"), built("Moody")
    folder = site.keep(three)
    weights = next((folder / "weights").rglob("*.npy"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8] + b"\0" * 8)
    site.write("promotion", two)
    assert within(60, lambda: site.serves(two))
    with Load(site.server.url) as load:
        site.write("promotion", three)
        assert within(60, lambda: [three.digest in report.refused for report in reports(site.home)] == [True, True])
        assert within(60, lambda: all(report.arms["champion"].trouble for report in reports(site.home)))
        ready = httpx.get(f"{site.server.url}/readyz", timeout=30).json()
        assert "damaged" in ready["refused"][three.digest]["reason"]
        assert (ready["release"], ready["state"]) == (two.digest, "ready")
        assert "refused" in ready["reason"]
        assert {(status, release) for status, release, *_ in load.got} <= {(200, two.digest)}
        weights.write_bytes(whole)
        assert within(60, lambda: site.serves(three))
    assert {(status, release) for status, release, *_ in load.got} <= {(200, two.digest), (200, three.digest)}


def test_arms_are_the_same_in_all_workers_and_after_a_restart(site: Site, built: Callable[[str], Release]) -> None:
    one, three = built("Tiny"), built("Moody")
    for release in (one, three):
        site.keep(release)
    site.write("promotion", three)
    site.write("promotion", one, "challenger")
    assert within(60, lambda: site.serves(three) and site.serves(one, "challenger"))
    with Load(site.server.url) as load:
        assert within(60, lambda: len(load.arms) == 60 and load.got.total() > 500)
        victim = reports(site.home)[0].pid
    before = dict(load.arms)
    assert all(len(arms) == 1 for arms in before.values())
    assert {arm for arms in before.values() for arm in arms} >= {"champion", "challenger"}
    assert {(arm, release) for _, release, arm, _ in load.got if arm == "challenger"} == {("challenger", one.digest)}
    os.kill(victim, signal.SIGKILL)
    assert within(90, lambda: victim not in [r.pid for r in reports(site.home)] and site.serves(one, "challenger"))
    with Load(site.server.url) as again:
        assert within(60, lambda: len(again.arms) == 60 and again.got.total() > 500)
    assert again.arms == before
    assert {status for status, *_ in again.got} == {200}


def test_what_a_viewer_does_is_in_the_next_slates_of_all_workers(site: Site) -> None:
    def slate() -> list[str]:
        return httpx.get(f"{site.server.url}/recommend/newcomer?k=5", timeout=30).text.split(",")

    seen = slate()[0]
    with Load(site.server.url) as load:
        with LocalLog(site.home.log) as log:
            rating = Rating(event_id="newcomers-first", ts=1, user_id="newcomer", movie_id=seen, rating=5, scale=5)
            log.append(EVENTS, [rating])
            offset = log.newest()
        assert within(60, lambda: all(report.offset >= offset for report in reports(site.home)))
        for _ in range(20):
            assert seen not in slate()
    assert {status for status, *_ in load.got} == {200}


def test_a_worker_that_stops_takes_its_report_with_it(site: Site) -> None:
    assert len(reports(site.home)) == 2
    site.server.process.send_signal(signal.SIGTERM)
    assert within(60, lambda: not list(site.home.workers.glob("*.json")))

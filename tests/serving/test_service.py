"""The Bento as people run it: alone, without network or state; its seam to BentoML; workers robbed or killed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bentoml
import httpx
import psutil
import pytest

from conf.home import Home
from conf.sections.serving import Door, Serving
from conf.settings import Settings
from events.event import IMPRESSIONS
from events.local_log import LocalLog
from mlflow_server.release import Release
from pipelines.package import package
from pipelines.serve import ServeError, Server, serve

pytestmark = pytest.mark.server

GREEDY = Serving(exploration_share=0.0)
OPEN = Settings(serving=GREEDY, door=Door(anonymous_per_minute=1_000_000))  # these tests ask more than strangers may
UNEXPLORED = {"GREENLIGHT_SERVING__EXPLORATION_SHARE": "0"}
MEASURED = {"median_ms": 0.1}


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory, built: Callable[[str], Release]) -> tuple[Home, str]:
    """A home with the Bento of the model `Tiny`, and its tag."""
    home = Home(tmp_path_factory.mktemp("served") / "home").open()
    return home, package(home, Settings(), built("Tiny"), MEASURED)


@pytest.fixture(scope="module")
def server(packaged: tuple[Home, str]) -> Iterator[Server]:
    with serve(packaged[0], OPEN, port=0) as running:
        yield running


def source_of(packaged: tuple[Home, str]) -> Path:
    home, tag = packaged
    return home.bentos / "bentos" / tag.replace(":", "/") / "src"


def get(server: Server, path: str) -> httpx.Response:
    """A request that is sent again where the connection broke, as callers of an idempotent route do."""
    for _ in range(5):
        try:
            return httpx.get(f"{server.url}{path}", timeout=10)
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError(f"{path} was not answered")


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.2)
    return False


SEAM = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
import bentoml, httpx
from serving.service import EdgeService, Greenlight
from serving.edge import Edge

edge = Greenlight.to_asgi()
said = []

async def main():
    heard = asyncio.Queue()
    await heard.put({"type": "lifespan.startup"})
    async def send(message): said.append(message["type"])
    life = asyncio.ensure_future(edge({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, heard.get, send))
    while not said: await asyncio.sleep(0.01)
    body = {"user_id": "u0", "k": 2}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(edge), base_url="http://x") as client:
        front = (await client.post("/v1/recommend", json=body)).json()
        passed_on = (await client.get("/docs.json")).json()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(edge.inner), base_url="http://x") as client:
        native = (await client.post("/v1/recommend", json=body)).json()
        refused = (await client.post("/v1/recommend", json={"user_id": "u0", "k": 0})).status_code
    await heard.put({"type": "lifespan.shutdown"})
    await life
    return front, native, refused, passed_on

front, native, refused, passed_on = asyncio.run(main())
print(json.dumps({
    "is_service": isinstance(Greenlight, bentoml.Service), "is_edge": isinstance(edge, Edge), "said": said,
    "front": front["items"], "native": native["items"], "refused": refused, "documented": list(passed_on["paths"]),
    "ours": {name: module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] in
             ("conf", "events", "models", "mlflow_server", "monitoring", "pipelines", "serving")},
    "mlflow": "mlflow" in sys.modules,
}))
"""


def test_the_seam_to_bentoml_holds(packaged: tuple[Home, str], tmp_path: Path) -> None:
    """A subclass of its Service, `to_asgi`, start-up and shutdown passed on, and its own API over the same function."""
    source = source_of(packaged)
    command = [sys.executable, "-c", SEAM, str(source)]
    environment = Home(tmp_path / "no-home").environment(BENTOML_HOME=str(packaged[0].bentos), **UNEXPLORED)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["is_service"]
    assert seen["is_edge"]
    assert seen["said"] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert seen["front"] == seen["native"]
    assert [item["movie_id"] for item in seen["front"]] == ["m21", "m20"]
    assert seen["refused"] == 400
    assert "/v1/recommend" in seen["documented"]
    assert {name: file for name, file in seen["ours"].items() if not str(file).startswith(str(source))} == {}
    assert not seen["mlflow"]


ALONE = """
import json, os, subprocess, sys, time, urllib.request
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
server = subprocess.Popen([sys.executable, "-m", "bentoml", "serve", "greenlight:latest", "--port", "3999"],
                          stdout=sys.stderr, stderr=sys.stderr)
try:
    until = time.monotonic() + 90
    while True:
        try:
            ready = json.load(urllib.request.urlopen("http://127.0.0.1:3999/readyz", timeout=5))
            break
        except OSError:
            if time.monotonic() > until or server.poll() is not None: raise
            time.sleep(0.2)
    answer = urllib.request.urlopen("http://127.0.0.1:3999/recommend/u0?k=3", timeout=5)
    try:
        urllib.request.urlopen("http://198.51.100.1/", timeout=3); network = True
    except OSError:
        network = False
    print(json.dumps({"ready": ready, "slate": answer.read().decode(), "rung": answer.headers["x-rung"],
                      "network": network, "here": os.listdir(".")}))
finally:
    server.terminate(); server.wait()
"""


def test_the_bento_alone_answers_from_its_model(
    packaged: tuple[Home, str], tmp_path: Path, need: Callable[[str], str]
) -> None:
    """`bentoml serve greenlight:latest` in an empty folder: no network but loopback, no home, no environment."""
    unshare = need("unshare")
    empty, alone = tmp_path / "empty", tmp_path / "bentoml"
    empty.mkdir()
    shutil.copytree(packaged[0].bentos, alone)  # so that no path of the home is left in it
    environment = {"PATH": os.environ["PATH"], "BENTOML_HOME": str(alone), "BENTOML_DO_NOT_TRACK": "True", **UNEXPLORED}
    command = [unshare, "--map-root-user", "--net", "--pid", "--fork", "--kill-child", sys.executable, "-c", ALONE]
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert (seen["slate"], seen["rung"], seen["network"], seen["here"]) == ("m21,m20,m29", "model", False, [])
    assert (seen["ready"]["state"], seen["ready"]["mlflow_imported"]) == ("ready", False)
    assert seen["ready"]["source"].startswith(str(alone))  # the Bento's own source, not an installed one


def test_bentomls_client_and_its_pages_work(server: Server) -> None:
    with bentoml.SyncHTTPClient(server.url) as client:
        answer = client.recommend(user_id="u0", k=2)
    assert [item["movie_id"] for item in _plain(answer)["items"]] == ["m21", "m20"]
    assert "/v1/recommend" in httpx.get(f"{server.url}/docs.json").json()["paths"]


def test_two_workers_answer_and_the_metrics_are_of_both(server: Server, packaged: tuple[Home, str]) -> None:
    assert len(server.workers) == 2
    before = _metric(server, 'greenlight_slates_total{rung="model"}')
    answered = set()
    for n in range(40):
        get(server, f"/recommend/u{n % 12}")
        answered.add(get(server, "/readyz").json()["worker"])
    assert answered <= set(server.workers)
    assert _metric(server, 'greenlight_slates_total{rung="model"}') == before + 40
    assert within(10, lambda: _impressions(packaged[0]) >= 40)


def test_srv_01_weights_taken_away_and_a_worker_killed(server: Server, packaged: tuple[Home, str]) -> None:
    """The worker that is left still has its model; the restarted one says fallback-only, and comes back by itself."""
    weights = source_of(packaged) / "release" / "weights"
    kept = source_of(packaged) / "kept"
    weights.rename(kept)
    try:
        victim, *_ = server.workers
        os.kill(victim, signal.SIGKILL)
        states: dict[int, str] = {}

        def both_seen() -> bool:
            answer = get(server, "/recommend/u0?k=3")
            assert answer.status_code == 200
            assert answer.text == "m21,m20,m29"
            ready = get(server, "/readyz")
            states[ready.json()["worker"]] = ready.headers["x-state"]
            states.pop(victim, None)
            return sorted(states.values()) == ["fallback-only", "ready"]

        assert within(90, both_seen), states
    finally:
        kept.rename(weights)
    fallen = next(pid for pid, state in states.items() if state == "fallback-only")

    def is_back() -> bool:
        ready = get(server, "/readyz").json()
        return ready["worker"] == fallen and ready["state"] == "ready"

    assert within(30, is_back)


def test_a_port_in_use_is_a_plain_sentence(packaged: tuple[Home, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"port {port} on 127.0.0.1 cannot be used .*GREENLIGHT_SERVING__PORT"):
            serve(packaged[0], Settings(), port=port)


def test_a_server_that_cannot_start_says_why(packaged: tuple[Home, str]) -> None:
    with pytest.raises(ServeError, match="no-such-version"):
        serve(packaged[0], Settings(), "greenlight:no-such-version", 0)


def test_without_even_popularity_the_server_refuses_to_start(packaged: tuple[Home, str]) -> None:
    release = source_of(packaged) / "release"
    kept = (release / "popularity.json").read_bytes()
    (release / "popularity.json").write_bytes(kept.replace(b"m3", b"m9", 1))
    try:
        with pytest.raises(ServeError, match=r"popularity\.json: damaged"):
            serve(packaged[0], Settings(), port=0)
    finally:
        (release / "popularity.json").write_bytes(kept)


def test_stopping_leaves_no_process(packaged: tuple[Home, str]) -> None:
    one = Settings(serving=replace_workers(1))
    server = serve(packaged[0], one, port=0)
    family = [server.process.pid, *(p.pid for p in psutil.Process(server.process.pid).children(recursive=True))]
    assert len(server.workers) == 1
    server.stop()
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in family)


def replace_workers(count: int) -> Any:
    return GREEDY.model_copy(update={"workers": count})


def test_packaging_again_changes_nothing_and_mends_a_half_built_bento(
    packaged: tuple[Home, str], built: Callable[[str], Release]
) -> None:
    home, tag = packaged
    marker = source_of(packaged).parent / "bento.yaml"
    before = marker.stat().st_mtime_ns
    assert package(home, Settings(), built("Tiny"), MEASURED) == tag
    assert marker.stat().st_mtime_ns == before
    (source_of(packaged) / "release" / "counts.npy").unlink()
    assert package(home, Settings(), built("Tiny"), MEASURED) == tag
    assert (source_of(packaged) / "release" / "counts.npy").exists()


def test_latest_is_what_was_packaged_last(packaged: tuple[Home, str], built: Callable[[str], Release]) -> None:
    home, tag = packaged
    latest = home.bentos / "bentos" / "greenlight" / "latest"
    other = package(home, Settings(), built("Nested"), MEASURED)
    assert latest.read_text() == other.partition(":")[2]
    assert package(home, Settings(), built("Tiny"), MEASURED) == tag
    assert latest.read_text() == tag.partition(":")[2]


def _plain(answer: Any) -> dict[str, Any]:
    return answer.model_dump() if hasattr(answer, "model_dump") else answer


def _metric(server: Server, line: str) -> float:
    text = get(server, "/metrics").text
    return sum(float(found.rsplit(" ", 1)[1]) for found in text.splitlines() if found.startswith(line))


def _impressions(home: Home) -> int:
    with LocalLog(home.log) as log:
        return log.count(IMPRESSIONS)

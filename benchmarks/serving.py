"""`make bench-serving`: /recommend of the edge beside bare Starlette, native BentoML and `mlflow models serve`.

One machine, one run, one worker each, the same release and the same scoring; nothing is cached but where a row says so.
The load generator is a process of its own. Rounds alternate, so that a noisy minute hits everyone; the table shows each
server's best round, and the least processor time that a request took, which does not mind a busy machine.
"""

import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.load import Plan, Result
from benchmarks.peers import NATIVE, ids
from conf.home import Home
from conf.sections.serving import Cache, Door
from conf.settings import Settings, load
from mlflow_server.building import build
from mlflow_server.ledger import SigningKey
from mlflow_server.release import Release
from mlflow_server.release import load as load_release
from models.shelf import find
from pipelines.data import import_data
from pipelines.package import package
from pipelines.serve import serve
from pipelines.snapshot import cut
from serving.keys import KeyStore

ROOT = Path(__file__).resolve().parent.parent
TARGET_P99 = 3.0  # of the edge, as a share of the bare server's
TARGET_RPS = {"edge alone": 0.8, "edge, all on": 0.5}  # likewise
VIEWERS = 500
Requests = Callable[[str], str]  # a viewer's id -> a whole HTTP request
Best = dict[tuple[str, int], tuple[Result, float]]  # by server and connections: the best round, least CPU ms a request


class Peer(NamedTuple):
    """A running server: where, what to send it, and the process that it and its workers descend from."""

    port: int
    request: Requests
    pid: int

    def cpu_s(self) -> float:
        """Processor time of all its processes: unlike the clock, it does not mind a busy machine."""
        family = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        return sum(times.user + times.system for times in (process.cpu_times() for process in family))


def main() -> int:
    """Measure, print the table, and exit 1 where the edge misses its target."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="ease", help="which model to serve (default: ease)")
    options.add_argument("--seconds", type=float, default=2.0, help="of each measurement (default: 2)")
    options.add_argument("--rounds", type=int, default=5, help="default: 5")
    args = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="greenlight-bench-") as folder, ExitStack() as running:
        release, home, users = _prepare(Path(folder), args.model)
        servers = {
            "bare Starlette": running.enter_context(_bare(release)),
            "edge alone": running.enter_context(_edge(home, release, whole=False)),
            "edge, all on": running.enter_context(_edge(home, release)),
            "edge, all on, cached": running.enter_context(_edge(home, release, cached=True)),
            "native BentoML": running.enter_context(_native(release, Path(folder))),
            "mlflow models serve": running.enter_context(_mlflow(release, Path(folder))),
        }
        best: Best = {}
        for connections in (1, 8):
            for _ in range(args.rounds):
                for name, peer in servers.items():
                    requests = [peer.request(user) for user in users]
                    before_s = peer.cpu_s()
                    got = _drive(Plan("127.0.0.1", peer.port, connections, args.seconds, requests), Path(folder))
                    cpu_ms = 1000 * (peer.cpu_s() - before_s) / got.requests
                    best[name, connections] = _better(best.get((name, connections)), (got, cpu_ms))
    return _show(args.model, best, list(servers))


def _prepare(folder: Path, model: str) -> tuple[Release, Home, list[str]]:
    """A release of a model fitted on MovieTweetings, and the viewers to ask for."""
    home, settings = Home(folder / "home").open(), load({})
    import_data(home, settings, "movietweetings")
    snapshot = cut(home, settings)
    shelved = find(model)
    fitted = shelved.cls().fit(snapshot.interactions)
    release = build(
        home.releases, fitted, shelved, snapshot.id, snapshot.interactions, "benchmark", SigningKey(home.keys)
    )
    return release, home, snapshot.interactions.user_ids[-VIEWERS:].tolist()


def _median_ms(release: Release) -> float:
    """Of one slate, in this process, in the quietest of some tries: what the infra gate tells the server."""
    loaded = load_release(release.folder)
    viewers, medians = loaded.viewers.histories.viewer_ids[-VIEWERS:], []
    for _ in range(10):
        times = []
        for user in viewers[:50]:
            begun = time.perf_counter()
            ids(loaded, user, 20)
            times.append(1000 * (time.perf_counter() - begun))
        medians.append(statistics.median(times))
    return min(medians)


def _get(path: str, headers: str = "") -> Requests:
    return lambda user: f"GET {path.format(user)} HTTP/1.1\r\nHost: bench\r\n{headers}\r\n"


def _post(path: str, body: Callable[[str], object]) -> Requests:
    def request(user: str) -> str:
        text = json.dumps(body(user))
        head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(text)}"
        return f"{head}\r\n\r\n{text}"

    return request


@contextmanager
def _edge(home: Home, release: Release, *, whole: bool = True, cached: bool = False) -> Iterator[Peer]:
    """`bentoml serve` of the release's Bento; `whole`: with a home, and so with keys, journal and live state."""
    settings = Settings(
        serving=Settings().serving.model_copy(update={"workers": 1}),
        door=Door(anonymous_per_minute=1_000_000_000),  # without a home there are no keys
        cache=Cache() if cached else Cache(ttl_s=1e-9),
    )
    tag = package(home, settings, release, {"median_ms": _median_ms(release)})
    where = home if whole else _WithoutHome(home.root)
    shown = f"X-API-Key: {KeyStore(home).create('benchmark')[0]}\r\n" if whole else ""
    with serve(where, settings, tag, 0) as server:
        yield Peer(int(server.url.rpartition(":")[2]), _get("/recommend/{}?k=20", shown), server.process.pid)


class _WithoutHome(Home):
    """The same Bentos, for a server that is told of no home."""

    def environment(self, **extra: str) -> dict[str, str]:
        return super().environment(**extra) | {"GREENLIGHT_HOME": str(self.root / "no-home")}


@contextmanager
def _bare(release: Release) -> Iterator[Peer]:
    port = _free_port()
    command = [sys.executable, "-m", "benchmarks.peers", "bare", str(release.folder), str(port)]
    with _running(command, Home(release.folder.parent), f"http://127.0.0.1:{port}/recommend/1", ROOT) as pid:
        yield Peer(port, _get("/recommend/{}?k=20"), pid)


@contextmanager
def _native(release: Release, folder: Path) -> Iterator[Peer]:
    port, place = _free_port(), folder / "native"
    place.mkdir()
    head = f"import sys\nsys.path.append({str(ROOT)!r})\nRELEASE = {str(release.folder)!r}\n"
    (place / "native.py").write_text(head + NATIVE)
    command = [sys.executable, "-m", "bentoml", "serve", "native:Native", "--port", str(port)]
    with _running(command, Home(folder / "native-home"), f"http://127.0.0.1:{port}/readyz", place) as pid:
        yield Peer(port, _post("/v1/recommend", lambda user: {"user_id": user, "k": 20}), pid)


@contextmanager
def _mlflow(release: Release, folder: Path) -> Iterator[Peer]:
    import mlflow

    port, place = _free_port(), folder / "mlflow-model"
    mlflow.pyfunc.save_model(
        place,
        python_model=str(ROOT / "mlflow_server" / "pyfunc.py"),
        artifacts={"release": str(release.folder)},
        pip_requirements=["mlflow"],
    )
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(place), "-p", str(port)]
    with _running([*command, "--env-manager", "local"], Home(folder), f"http://127.0.0.1:{port}/ping", ROOT) as pid:
        yield Peer(port, _post("/invocations", lambda user: {"inputs": [user]}), pid)


@contextmanager
def _running(command: list[str], home: Home, url: str, folder: Path) -> Iterator[int]:
    """The process id of a server, once it answers."""
    with tempfile.TemporaryFile() as output:
        environment = home.environment()
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # mlflow looks for uvicorn there
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            _wait(process, url)
            yield process.pid
        except TimeoutError:
            output.seek(0)
            raise SystemExit(f"{command} did not start: {output.read().decode(errors='replace')[-2000:]}") from None
        finally:
            _end(process)


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + 90
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise TimeoutError


def _end(process: subprocess.Popen[bytes]) -> None:
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    for child in family:
        if child.is_running():
            child.kill()
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _better(before: tuple[Result, float] | None, now: tuple[Result, float]) -> tuple[Result, float]:
    if before is None:
        return now
    return max(before[0], now[0], key=lambda result: result.rps), min(before[1], now[1])


def _drive(plan: Plan, folder: Path) -> Result:
    path = folder / "plan.json"
    path.write_text(json.dumps(asdict(plan)))
    command = [sys.executable, "-m", "benchmarks.load", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return Result(**json.loads(done.stdout))


def _show(model: str, best: Best, names: list[str]) -> int:
    """The table, and 1 where the edge misses its target."""
    table = Table(title=f"{model} on MovieTweetings, k = 20, one worker each, keep-alive")
    columns = ("server", "conn.", "req/s", "of bare", "p50 ms", "p99 ms", "of bare", "CPU ms", "of bare", "failed")
    for column in columns:
        table.add_column(column, justify="left" if column == "server" else "right")
    missed = 0
    for connections in (1, 8):
        bare, bare_cpu_ms = best["bare Starlette", connections]
        for name in names:
            got, cpu_ms = best[name, connections]
            share, tail = got.rps / bare.rps, got.p99_ms / bare.p99_ms
            missed += name in TARGET_RPS and (share < TARGET_RPS[name] or tail > TARGET_P99)
            row = (f"{got.rps:,.0f}", f"{share:.2f}", f"{got.p50_ms:.2f}", f"{got.p99_ms:.2f}", f"{tail:.2f}")
            cpu = (f"{cpu_ms:.2f}", f"{cpu_ms / bare_cpu_ms:.2f}")
            table.add_row(name, str(connections), *row, *cpu, str(got.failures))
        table.add_section()
    out = Console(width=120)
    out.print(table)
    out.print(
        "target: "
        + ", ".join(f"{name} at {share} of bare's requests/s or more" for name, share in TARGET_RPS.items())
        + f", under {TARGET_P99:g} x its p99: {'missed' if missed else 'met'}"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

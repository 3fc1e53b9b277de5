"""The two servers as child processes, each in a process group of its own: `bentoml serve` and MLflow's."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from mlflow_server import app
from pipelines.broker import VARIABLE, of_home
from serving.bind import check_bind, tls_files
from serving.keys import first_key

START_S = 90.0  # the longest that a server may take to answer
KAFKA = "kafka"  # scheme of a broker's address
STOP_S = 10.0  # the longest that it may take to end by itself


class ServeError(PlainError):
    """The server cannot start; the message says why and what to do."""


@dataclass
class Server:
    """A running server. `workers` are the processes that answer; `stop` ends all of them."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    first_key: str | None = None  # the API key that was made at this start, to be shown once

    def readiness(self) -> dict[str, Any]:
        """What the worker that happens to answer says of itself."""
        return httpx.get(f"{self.url}/readyz", timeout=5, verify=False).json()

    @property
    def workers(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children() if _is_worker(child)]

    def stop(self) -> None:
        """Ask it to end, then make it. The workers have sessions of their own, so they are found by descent."""
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for child in family:
            if child.is_running():
                child.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, why: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@dataclass(frozen=True)
class Start:
    """How a server is started, in which folder, and where it will answer."""

    command: list[str]
    url: str
    folder: Path
    environment: dict[str, str]
    first_key: str | None = None


def api(home: Home, settings: Settings, port: int, tag: str = "greenlight:latest") -> Start:
    """`bentoml serve` on the settings' host. BindError where it is beyond this machine without TLS.

    In a home without API keys the first one is made: its text is in `first_key`, to be shown, and kept nowhere.
    """
    host, files = settings.serving.host, tls_files(settings.serving)
    made = first_key(home, settings)
    check_bind(host, files is not None, home)
    folder = home.root / "serving"  # an empty working directory, so that no file there is taken for a module
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bentoml", "serve", tag, "--host", host, "--port", str(port)]
    if files:
        command += ["--ssl-certfile", files[0], "--ssl-keyfile", files[1]]
    url = f"{'https' if files else 'http'}://{_reached(host)}:{port}"
    return Start(command, url, folder, home.environment_of(settings), made)


def registry(home: Home, settings: Settings, port: int) -> Start:
    """MLflow's server on the home's registry, on loopback, with a login."""
    return Start(
        app.command(home, port), f"http://{app.HOST}:{port}", home.root, app.environment(home, settings.storage)
    )


def serve(home: Home, settings: Settings, tag: str = "greenlight:latest", port: int | None = None) -> Server:
    """Start `bentoml serve` and wait until it answers. `port` 0 takes a free one; without, the settings' own.

    ServeError where the port is taken, or the server ends or does not answer: with the end of its log.
    """
    return _started(api(home, settings, api_port(settings, port), tag), home.root / "serving.log")


def serve_registry(home: Home, settings: Settings, port: int | None = None) -> Server:
    """Start MLflow's server and wait until it answers. Ports and errors as for `serve`."""
    return _started(registry(home, settings, registry_port(settings, port)), home.root / "registry.log")


def api_port(settings: Settings, port: int | None = None) -> int:
    """The API's port, free now; 0 becomes one that is. ServeError names the setting where something listens there."""
    wanted = settings.serving.port if port is None else port
    return _free_port(settings.serving.host, wanted, "GREENLIGHT_SERVING__PORT")


def registry_port(settings: Settings, port: int | None = None) -> int:
    """As `api_port`, of the registry."""
    return _free_port(app.HOST, settings.registry.port if port is None else port, "GREENLIGHT_REGISTRY__PORT")


def broker(home: Home, settings: Settings) -> Start:
    """A Kafka broker of this home's own. BrokerError, ServeError where it cannot run here."""
    host, _, port = settings.kafka.servers.rpartition(":")
    node = of_home(home, _free_port(host, int(port), VARIABLE))
    return Start(node.prepare(), f"{KAFKA}://{host}:{port}", node.folder, home.environment())


def begin(start: Start, log: Path, **extra: str) -> subprocess.Popen[bytes]:
    """Start it in a session of its own, so that a Ctrl-C in the terminal does not reach it; output goes to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            start.command,
            cwd=start.folder,
            env={**start.environment, **extra},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _started(start: Start, log: Path) -> Server:
    server = Server(start.url, begin(start, log), log, start.first_key)
    try:
        _wait(server)
    except BaseException:
        server.stop()
        raise
    return server


def _reached(host: str) -> str:
    """Where a program on this machine reaches a server that listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _free_port(host: str, port: int, setting: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as why:
            raise ServeError(
                f"port {port} on {host} cannot be used ({os.strerror(why.errno or 0)}): "
                f"stop what listens there, or set {setting} to another"
            ) from why
        return probe.getsockname()[1]


def _wait(server: Server) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if server.process.poll() is not None:
            raise ServeError(f"the server ended at once: {_tail(server.log)}")
        try:
            httpx.get(f"{server.url}/livez", timeout=5, trust_env=False, verify=False)  # our own; its name may differ
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise ServeError(f"the server did not answer within {START_S:g} s: {_tail(server.log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-1500:]


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "_bentoml_impl.worker.service" in process.cmdline()
    except psutil.NoSuchProcess:
        return False

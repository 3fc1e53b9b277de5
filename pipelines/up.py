"""`greenlight up`: the registry, the API and the loops beside it, under one supervisor that starts again what ends.

    kafka        with `--kafka local`: a broker, for who develops against one
    registry     MLflow's pages, with a login
    api          `bentoml serve` of the newest Bento; it waits while there is none
    archiving    the log becomes the history
    reconcile    aliases in MLflow and the ledger are kept in agreement
    schedule     what runs by a clock: prune, and all that a week of the loop needs
    mailing      letters leave the outbox; one is written when a job is overdue
    relaying     where Kafka is configured: the spool goes there
    mirroring    where Kafka is configured: what came through it is what everything reads

`up.json` in the home says how each one is; the lock beside it is held as long as the supervisor lives. Children are
known by a variable that they were given, so one that outlives a killed supervisor is ended by the next.
"""

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from events.clock import wall_ms
from mlflow_server.accounts import FILE, LEAD
from pipelines.broker import VARIABLE
from pipelines.child import MARK, Child
from pipelines.latest import latest, outdated
from pipelines.loop import read_json, write_json
from pipelines.schedule import jobs
from pipelines.serve import KAFKA, Start, api, api_port, broker, registry, registry_port
from pipelines.strays import end_marked
from serving.keys import first_key

LOOPS = ("archiving", "reconcile", "schedule", "mailing")
WITH_KAFKA = ("relaying", "mirroring")
CHILDREN = ("kafka", "registry", "api", *LOOPS, *WITH_KAFKA)
TICK_S = 0.1
STOP_S = 20.0  # the longest that children may take to end by themselves, all together
BEAT_S = 2.0  # `up.json` is written at least so often


class UpError(PlainError):
    """It cannot start; the message says why and what to do."""


@dataclass(frozen=True)
class Ready:
    """What is told once everything is up, or waits for a person. key: the first API key, where it was made just now."""

    api: str
    registry: str
    pid: int
    login: str
    password_in: str
    key: str | None
    waits: dict[str, str]  # child: what for
    kafka: str | None = None  # address of the broker that was started too

    @property
    def lines(self) -> list[str]:
        """For people."""
        password = f"the password that stands beside that name in {self.password_in}"
        return [
            f"API       {self.api}",
            f"registry  {self.registry}   log in as {self.login}, with {password}",
            *([f"API key   {self.key}   shown this once; greenlight keys makes more"] if self.key else []),
            *([f"Kafka     {self.kafka}   other terminals need {VARIABLE}={self.kafka}"] if self.kafka else []),
            *(f"the {name} waits: {why}" for name, why in self.waits.items()),
            "Ctrl-C ends all of it; greenlight status says how it is.",
        ]


@dataclass
class Supervisor:
    """Runs the children until a signal asks it to end. `tell` gets sentences, `ready` what to announce, once."""

    home: Home
    children: list[Child]
    key: str | None
    tell: Callable[[str], None]
    ready: Callable[[Ready], None]
    asked: int = 0  # how often it was asked to end
    started_wall_ms: int = field(default_factory=wall_ms)
    _announced: bool = False
    _written: tuple[float, Any] = (0.0, None)

    def run(self) -> None:
        """Until a signal. Whatever happens, no child is left."""
        try:
            while not self.asked:
                for child in self.children:
                    child.tick()
                if not self._announced and all(child.state in ("up", "waiting") for child in self.children):
                    self._announced = True
                    self.ready(self._ready())
                self._note("up" if self._announced else "starting")
                time.sleep(TICK_S)
        finally:
            self._stop()

    def ask(self, number: int, frame: FrameType | None) -> None:
        """A signal. The second one makes children end that take their time."""
        self.asked += 1

    def _stop(self) -> None:
        self.tell("stopping; once more makes it quick")
        self._note("stopping")
        for child in self.children:
            child.ask_to_end()
        until = time.monotonic() + STOP_S
        for child in self.children:
            child.end(until - time.monotonic(), lambda: self.asked > 1)
        self.home.up.unlink(missing_ok=True)
        self.tell("stopped")

    def _ready(self) -> Ready:
        urls = {child.name: child.start.url for child in self.children}
        waits = {child.name: child.waits_for() for child in self.children if child.state == "waiting"}
        pid, where = os.getpid(), str(self.home.keys / FILE)
        kafka = urls["kafka"].removeprefix(f"{KAFKA}://") if "kafka" in urls else None
        return Ready(urls["api"], urls["registry"], pid, LEAD, where, self.key, waits, kafka)

    def _note(self, state: str) -> None:
        """Write `up.json` where something changed, and now and then. A disk that is full stops nobody."""
        told = {"pid": os.getpid(), "started_wall_ms": self.started_wall_ms, "state": state}
        told |= {"children": [child.record() for child in self.children]}
        now = time.monotonic()
        if told == self._written[1] and now - self._written[0] < BEAT_S:
            return
        self._written = (now, told)
        for child in self.children:
            child.bound_log()
        try:
            write_json(self.home.up, told | {"beat_wall_ms": wall_ms()})
        except OSError as why:
            self.tell(f"{self.home.up} cannot be written: {why.strerror or why}")


def run(
    home: Home,
    settings: Settings,
    tell: Callable[[str], None],
    ready: Callable[[Ready], None],
    local_kafka: bool = False,
) -> None:
    """Start everything and stay until SIGINT, SIGTERM or SIGHUP. UpError, ServeError where it cannot start."""
    with alone(home):
        if left := sum(end_marked(f"{MARK}={mark(home, name)}") for name in CHILDREN):
            tell(f"ended {left} processes that an earlier greenlight up, which was killed, had left behind")
        home.logs.mkdir(exist_ok=True)
        jobs(settings.schedule, settings.clock)  # a time that is none is said here, not by a child again and again
        key = first_key(home, settings)
        _renew(home, settings, tell)
        supervisor = Supervisor(home, list(children(home, settings, tell, local_kafka)), key, tell, ready)
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, supervisor.ask) for number in numbers}
        try:
            supervisor.run()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def alone(home: Home) -> Iterator[None]:
    """Be the only supervisor of a home; the kernel frees the lock of one that was killed. UpError where one runs."""
    with home.up.with_suffix(".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UpError(_runs_already(home)) from None
        yield


def running(home: Home) -> bool:
    """Whether a supervisor of this home lives."""
    path = home.up.with_suffix(".lock")
    if not path.exists():
        return False
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def mark(home: Home, name: str) -> str:
    """By which a child, and all that it starts, is known again."""
    return f"{home.root}:{name}"


def children(home: Home, settings: Settings, tell: Callable[[str], None], local_kafka: bool = False) -> Iterator[Child]:
    """What runs in a home, in the order in which it begins; none has begun."""
    pages = registry(home, settings, registry_port(settings))
    service = api(home, settings, api_port(settings))
    if local_kafka:
        yield _child(home, "kafka", broker(home, settings), tell, answers="/")
    yield _child(home, "registry", pages, tell, answers="/health")
    yield _child(home, "api", service, tell, answers="/livez", waits_for=lambda: _no_bento(home))
    for name in (*LOOPS, *(WITH_KAFKA if settings.kafka.servers else ())):
        command = [sys.executable, "-m", f"pipelines.{name}"]
        yield _child(home, name, Start(command, "", home.root, home.environment()), tell)


def _child(home: Home, name: str, start: Start, tell: Callable[[str], None], **more: Any) -> Child:
    return Child(name, start, home.logs / f"{name}.log", mark(home, name), tell, **more)


def _renew(home: Home, settings: Settings, tell: Callable[[str], None]) -> None:
    """So that the API does not run what Greenlight was before an upgrade. Where that fails, it does."""
    try:
        if outdated(home):
            from pipelines.package import renew  # 40 MB that a supervisor does without otherwise

            tell(f"Greenlight has changed since the last Bento was built, so {renew(home, settings)} was built now")
    except (PlainError, OSError) as why:
        tell(f"the Bento could not be built anew, so the API starts with the last one: {why}")


def _no_bento(home: Home) -> str:
    if latest(home):
        return ""
    return "nothing was packaged yet: greenlight train makes the first champion and its Bento; it starts by itself then"


def _runs_already(home: Home) -> str:
    found = read_json(home.up) or {}
    urls = {child["name"]: child["url"] for child in found.get("children", [])}
    where = f" (process {found['pid']}, API {urls.get('api')}, registry {urls.get('registry')})" if urls else ""
    return f"greenlight up runs already for {home.root}{where}: greenlight status says how it is, Ctrl-C there ends it"

"""One child of the supervisor: started, watched, started again after a pause, ended with all that it began."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from events.clock import wall_ms
from pipelines.serve import KAFKA, Start, begin
from pipelines.strays import end_marked

MARK = "UNDER_GREENLIGHT_UP"  # the variable by which a child, and all that it starts, is known again
LONGEST_PAUSE_S = 30.0  # between two starts of a child that keeps ending
STEADY_S = 60.0  # a child that ran so long begins with a short pause again
QUIET_S = 60.0  # how often one that keeps ending is spoken of
ANSWER_S = 120.0  # the longest that a server may take to answer
LOG_BYTES = 5 << 20  # a log beyond this becomes `<name>.log.1`
LINE = 300  # characters of a log's last line that are told


def pause_s(failures: int) -> float:
    """How long to wait after so many ends in a row: 1, 2, 4 … 30 s."""
    return min(LONGEST_PAUSE_S, 2.0 ** (failures - 1))


@dataclass
class Child:
    """A process that should run. `tick` is called often and never waits for long.

    waits_for: why it cannot be started yet, in words; empty where it can. answers: the path that a server answers with
    200 when it is ready (a broker that takes connections is); empty for a loop, which is up once it runs.
    """

    name: str
    start: Start
    log: Path
    mark: str
    tell: Callable[[str], None]
    answers: str = ""
    waits_for: Callable[[], str] = lambda: ""
    process: subprocess.Popen[bytes] | None = None
    state: str = "down"  # waiting, starting, up, down, stopped
    since_wall_ms: int = field(default_factory=wall_ms)
    restarts: int = 0
    last_exit: str = ""
    failures: int = 0  # ends in a row
    unsaid: int = 0  # ends that were not spoken of
    _begun: float = 0.0
    _next: float = 0.0
    _told: float = float("-inf")

    def record(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "pid": self.process.pid if self.process else None,
            "state": self.state,
            "since_wall_ms": self.since_wall_ms,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
            "url": self.start.url,
            "log": str(self.log),
        }

    def tick(self) -> None:
        now = time.monotonic()
        if self.process is None:
            if now >= self._next:
                self._start(now)
        elif (status := self.process.poll()) is not None:
            self._ended(_manner(status), now)
        elif self.state == "starting":
            self._is_it_up(now)
        elif self.failures and now - self._begun > STEADY_S:
            self.failures = 0

    def ask_to_end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def end(self, patience_s: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """Wait for one that was asked to end, then make it, and whatever it began in sessions of its own."""
        until = time.monotonic() + patience_s
        while self.process and self.process.poll() is None and time.monotonic() < until and not hurry():
            time.sleep(0.05)
        if self.process and self.process.poll() is None:
            self.process.kill()
        end_marked(f"{MARK}={self.mark}")
        if self.process:
            self.process.wait()
        self.process = None
        self._is("stopped")

    def bound_log(self) -> None:
        """Keep the log small. The child writes on at the new end, for it appends."""
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            shutil.copyfile(self.log, self.log.with_suffix(".log.1"))
            os.truncate(self.log, 0)

    def _start(self, now: float) -> None:
        if reason := self.waits_for():
            if self.state != "waiting":
                self.tell(f"{self.name} waits: {reason}")
            self._next = now + 1
            return self._is("waiting")
        self.bound_log()
        try:
            self.process = begin(self.start, self.log, **{MARK: self.mark})
        except OSError as why:  # no memory, no process left, no disk for the log
            return self._ended(f"it could not be started: {why.strerror or why}", now)
        self._begun = now
        return self._is("starting" if self.answers else "up")

    def _is_it_up(self, now: float) -> None:
        if _answers(self.start.url + self.answers):
            self._is("up")
            again = " again" if self.restarts else ""
            if not again or now - self._told >= QUIET_S or self.failures == 1:
                self.tell(f"{self.name} answers{again} at {self.start.url}, after {now - self._begun:.0f} s")
        elif now - self._begun > ANSWER_S and self.process is not None:
            self.process.kill()
            self.process.wait()
            self._ended(f"it did not answer within {ANSWER_S:.0f} s", now)

    def _ended(self, manner: str, now: float) -> None:
        """Note how it ended, say so, and plan the next start."""
        end_marked(f"{MARK}={self.mark}")  # workers that outlived it would keep its port
        if self._begun and now - self._begun > STEADY_S:
            self.failures = 0
        self.process, self.last_exit = None, manner
        self.failures, self.restarts = self.failures + 1, self.restarts + 1
        pause = pause_s(self.failures)
        self._next = now + pause
        self._is("down")
        if now - self._told < QUIET_S:
            self.unsaid += 1
            return
        more = f" ({self.unsaid} more times since this was last said)" if self.unsaid else ""
        said = _last_line(self.log)
        because = f"; its log ends: {said}" if said else ""
        self.tell(
            f"{self.name} ended{more}: {manner}{because}. It is started again in {pause:.0f} s; all of it: {self.log}"
        )
        self._told, self.unsaid = now, 0

    def _is(self, state: str) -> None:
        if state != self.state:
            self.state, self.since_wall_ms = state, wall_ms()


def _answers(url: str) -> bool:
    place = urlsplit(url)
    try:
        if place.scheme == KAFKA:
            socket.create_connection((place.hostname, place.port), timeout=1).close()
            return True
        return httpx.get(url, timeout=1, trust_env=False, verify=False).status_code == 200
    except (httpx.HTTPError, OSError):
        return False


def _manner(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line), "")[-LINE:]

"""Impressions on their way to the log: a bounded queue and one writing thread, so that no request waits for a disk.

Without a home, or where the queue is full, impressions are dropped and counted. While the log cannot be written they
wait in the queue, and the writer tries again.
"""

import itertools
import json
import logging
import os
import threading
from collections import deque
from typing import NamedTuple

from conf.home import Home
from events.clock import wall_ms
from events.event import IMPRESSIONS, Impression
from events.local_log import LocalLog
from events.log import LogError
from serving.ladder import Rung
from serving.metrics import Metrics

log = logging.getLogger("greenlight.serving")

EVERY_S = 0.2  # the writer gathers this long: a commit costs a sync of the disk, however many impressions it holds
BATCH = 5000
RETRY_S = 1.0  # after the log could not be written
LAST_TRY_S = 3.0  # the longest that closing waits for the log


class RequestIds:
    """Ids that no other worker and no later start gives: 64 random bits of this process, and a count."""

    def __init__(self) -> None:
        self._prefix = os.urandom(8).hex()
        self._count = itertools.count(1)

    def next(self) -> str:
        return f"{self._prefix}-{next(self._count):x}"


class Served(NamedTuple):
    """A slate that was served, as the edge knows it; it becomes an `Impression` in the writing thread."""

    request_id: str
    ts: int
    wall_ts: int
    user_id: str
    arm: str
    release: str
    rung: Rung
    items: list[str]
    k: int
    latency_ms: float
    propensities: list[float]
    explored: bool

    def impression(self) -> Impression:
        return Impression(
            event_id=self.request_id,
            ts=self.ts,
            wall_ts=self.wall_ts,
            user_id=self.user_id,
            arm=self.arm,
            release=self.release,
            rung=self.rung,
            items=tuple(self.items),
            propensities=tuple(self.propensities),
            k=self.k,
            latency_ms=self.latency_ms,
            explored=self.explored,
        )


class Journal:
    """`put` never blocks and never fails. `close` writes what waits, for a few seconds at most."""

    def __init__(self, home: Home | None, capacity: int, metrics: Metrics, cap_mb: float | None = None) -> None:
        self._home, self._capacity, self._metrics, self._cap_mb = home, capacity, metrics, cap_mb
        self._waiting: deque[Served] = deque()
        self._batch: list[Served] = []  # taken from there, and not written yet
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._write, name="journal", daemon=True)
        self._log: LocalLog | None = None
        self._lost, self._told = 0, 0  # impressions: in all, and those that `lost.jsonl` tells of

    def start(self) -> None:
        if self._home is not None:
            self._writer.start()

    def put(self, served: Served) -> None:
        """Hand over one impression. Called on one thread only, the event loop's."""
        if self._home is None or self._held >= self._capacity:
            self._metrics.dropped.inc()
            self._lost += 1
        else:
            self._waiting.append(served)

    def close(self) -> None:
        """Write what waits; what cannot be written by now is lost, and counted."""
        self._closing.set()
        if self._writer.is_alive():
            self._writer.join(LAST_TRY_S)
        self._metrics.dropped.inc(self._held)
        self._lost += self._held
        self._tell_losses()

    @property
    def _held(self) -> int:
        return len(self._waiting) + len(self._batch)

    def _write(self) -> None:
        pause = EVERY_S
        while not self._closing.wait(pause):
            pause = EVERY_S if self._flushed() else RETRY_S
            self._tell_losses()
        self._flushed()
        if self._log is not None:
            self._log.close()

    def _flushed(self) -> bool:
        """Whether all that waits is in the log now. Whatever goes wrong, the writer lives: what it cannot write waits,
        and is counted as lost where there is no more room."""
        try:
            self._flush()
        except LogError as why:
            log.warning("impressions cannot be written, %d wait: %s", self._held, why)
            return False
        except Exception:
            log.exception("impressions cannot be written, %d wait", self._held)
            return False
        return True

    def _flush(self) -> None:
        """Move what waits into the log, batch by batch. Popped, not iterated over: requests add to it meanwhile."""
        while self._held:
            while self._waiting and len(self._batch) < BATCH:
                self._batch.append(self._waiting.popleft())
            self._append(self._batch)
            self._metrics.written.inc(len(self._batch))
            self._batch = []

    def _tell_losses(self) -> None:
        """Keep that evidence was lost: whoever compares arms later must know. Tried again while the disk is full."""
        lost = self._lost - self._told
        if self._home is None or not lost:
            return
        try:
            with self._home.lost.open("a+b") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
                torn = file.read(1) not in (b"", b"\n")  # by a full disk; who wrote it tells it again
                line = json.dumps({"wall_ts": wall_ms(), "pid": os.getpid(), "impressions": lost})
                file.write(b"\n" * torn + line.encode() + b"\n")
        except OSError as why:
            log.warning("%d impressions are lost, and %s cannot say so: %s", lost, self._home.lost, why.strerror or why)
            return
        self._told += lost

    def _append(self, batch: list[Served]) -> None:
        if self._log is not None and self._log.gone:
            self._log.close()
            self._log = None
        if self._log is None:
            assert self._home is not None
            self._log = LocalLog(self._home.log, max_mb=self._cap_mb)
        self._log.append(IMPRESSIONS, [served.impression() for served in batch])

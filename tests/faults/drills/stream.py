"""A stream as a site has it: a writer is acknowledged by the spool, relay and mirror run as processes of their own, and
Kafka is looked at directly, past any proxy, to see what it holds."""

import itertools
import random
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import psutil
from kafka import KafkaConsumer, TopicPartition

from conf.home import Home
from conf.sections.kafka import Kafka
from conf.settings import Settings
from events.event import EVENTS
from events.kafka_link import client
from events.kafka_topics import topic_name
from events.local_log import LocalLog
from events.reading import reached
from tests.faults.drills.drill import ENOUGH, Tally
from tests.faults.drills.viewers import rating

ROOT = Path(__file__).parents[3]
RELAY, MIRROR = "pipelines.relaying", "pipelines.mirroring"
VIEWERS = 50
BATCHES = (1, 1, 10, 50)
PAUSE_S = 0.01  # between two batches: about a thousand events a second
PATIENCE_S = 180.0  # until all that was acknowledged has come through, once nothing is broken any more


class Process:
    """A loop of `greenlight up`, alone. What it says is kept in a file."""

    def __init__(self, module: str, home: Home, settings: Settings) -> None:
        self.module, self._environment = module, home.environment_of(settings)
        self.log = home.root / f"{module}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._begun = 0  # where what it says now begins

    def start(self, *before: str) -> None:
        """before: the beginning of the command, where another program is to run it."""
        with self.log.open("ab") as output:
            self._begun = output.tell()
            command = [*before, sys.executable, "-m", self.module]
            self._process = subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=output, stderr=output)

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def end(self) -> int:
        """Ask it to end, as an operator does, or the process that another program runs; its status."""
        assert self._process is not None
        with suppress(psutil.NoSuchProcess):
            asked = psutil.Process(self._process.pid)
            for process in asked.children() or [asked]:
                process.terminate()
        try:
            return self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.module} does not end: {self.said()[-4000:]}") from None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def said(self) -> str:
        """Since it was started."""
        return self.log.read_bytes()[self._begun :].decode(errors="replace")

    def assert_alive(self) -> None:
        assert self.alive, f"{self.module} ended: {self.said()[-4000:]}"


class Stream:
    """servers: where relay and mirror find Kafka; directly: where it is without a proxy."""

    def __init__(self, folder: Path, tally: Tally, servers: str, directly: str, **more: Any) -> None:
        self.tally, self.home = tally, Home(folder / f"home-{uuid.uuid4().hex[:6]}").open()
        conf = {"servers": servers, "topic_prefix": f"drill-{uuid.uuid4().hex[:8]}", **more}
        self.settings = Settings(kafka=Kafka.model_validate(conf))
        self._directly = self.settings.kafka.model_copy(update={"servers": directly})
        self.relay, self.mirror = (Process(module, self.home, self.settings) for module in (RELAY, MIRROR))
        self._positions: dict[TopicPartition, int] = {}
        self._in_kafka: set[str] = set()
        self._seen: list[str] = []  # by a reader of the mirror
        self._read = 0  # the offset up to which it has read
        self._numbers, self._chance = itertools.count(), random.Random(6)

    def __enter__(self) -> Self:
        self.relay.start()
        self.mirror.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.relay.kill()
        self.mirror.kill()

    # A cycle ----------------------------------------------------------------------------------------------------------

    @contextmanager
    def load(self) -> Iterator[None]:
        """A writer that goes on meanwhile, and until enough is acknowledged."""
        enough, over = len(self.tally.acknowledged) + ENOUGH, threading.Event()
        writer = threading.Thread(target=self._write, args=(over,))
        writer.start()
        try:
            yield
            while len(self.tally.acknowledged) < enough and writer.is_alive():
                time.sleep(PAUSE_S)
        finally:
            over.set()
            writer.join()

    def flow(self) -> None:
        """Wait until what is written comes through to Kafka: before, there is nothing to break."""
        begun, until = self.delivered, time.monotonic() + PATIENCE_S
        while self.delivered <= begun:
            assert time.monotonic() < until, f"nothing comes through: {self._said()}"
            time.sleep(PAUSE_S)

    def check(self) -> None:
        """Wait until all has come through, then count: Kafka alone has to hold it, and the reader sees it once."""
        self._settle()
        self._look_into_kafka()
        self._read_on()
        self.tally.check(self._in_kafka, self._seen)
        assert not self.tally.acknowledged - set(self._seen), "the mirror does not hold all that was acknowledged"

    def write(self, count: int) -> None:
        """So many events, at once."""
        with LocalLog(self.home.log) as spool:
            self._append(spool, count)

    @property
    def through(self) -> bool:
        """Whether the mirror holds all that was written, and the relay knows that Kafka does."""
        return reached(self.home, self.settings) is not None and not self._waiting()

    @property
    def delivered(self) -> int:
        """The offset of the spool up to which everything is in Kafka."""
        with LocalLog(self.home.log) as spool:
            return spool.committed(EVENTS, "relay")

    def _write(self, over: threading.Event) -> None:
        with LocalLog(self.home.log) as spool:
            while not over.wait(PAUSE_S):
                self._append(spool, self._chance.choice(BATCHES))

    def _append(self, spool: LocalLog, count: int) -> None:
        numbers = list(itertools.islice(self._numbers, count))
        viewers = [f"viewer-{number % VIEWERS}" for number in numbers]
        batch = [
            rating(f"e{number}").model_copy(update={"user_id": viewer})
            for number, viewer in zip(numbers, viewers, strict=True)
        ]
        self.tally.sent.update(event.event_id for event in batch)
        spool.append(EVENTS, batch)
        self.tally.acknowledged.update(event.event_id for event in batch)

    def _settle(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while not self.through:
            self.relay.assert_alive()
            self.mirror.assert_alive()
            assert time.monotonic() < until, f"{PATIENCE_S:g} s after all was mended: {self._said()}"
            time.sleep(0.05)

    def _said(self) -> str:
        said = (process.said()[-2000:] for process in (self.relay, self.mirror))
        state = self.home.kafka.read_text() if self.home.kafka.exists() else "no state"
        return "\n".join([f"{self._waiting():,} records wait in the spool; {state}", *said])

    def _waiting(self) -> int:
        with LocalLog(self.home.log) as spool:
            return spool.lag(EVENTS, "relay")

    def _look_into_kafka(self) -> None:
        """Take in what its topic holds beyond what was seen there."""
        name = topic_name(self._directly, EVENTS)
        consumer = KafkaConsumer(**client(self._directly, group_id=None, enable_auto_commit=False))
        try:
            parts = [TopicPartition(name, number) for number in consumer.partitions_for_topic(name) or ()]
            consumer.assign(parts)
            for part in parts:
                consumer.seek(part, self._positions.get(part, 0))
            ends = consumer.end_offsets(parts)
            while any(consumer.position(part) < ends[part] for part in parts):
                for records in consumer.poll(timeout_ms=1000).values():
                    self._in_kafka.update(rating_id(record.value) for record in records)
            self._positions = {part: consumer.position(part) for part in parts}
        finally:
            consumer.close()

    def _read_on(self) -> None:
        """As any reader of the mirror does: by offsets. AssertionError where a viewer's events are out of order."""
        last: dict[str, int] = defaultdict(lambda: -1)
        with LocalLog(self.home.mirror) as mirror:
            for record in mirror.iterate(EVENTS, self._read):
                number, viewer = int(record.event.event_id[1:]), record.event.user_id
                assert last[viewer] < number, f"{viewer}'s event {number} comes after {last[viewer]}"
                last[viewer] = number
                self._seen.append(record.event.event_id)
                self._read = record.offset


def rating_id(body: bytes) -> str:
    return orjson.loads(body)["event_id"]

"""What it takes to store events: the local log, the relay and the mirror, each beside bare parts of it.

Every peer is given events of the same kind and stores their JSON. They take turns, so that noise hits all alike; what
is compared are medians of one run.
"""

import multiprocessing
import os
import random
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, Protocol

from kafka import KafkaConsumer, KafkaProducer

from conf.home import Home
from conf.sections.kafka import Kafka
from conf.settings import Settings
from events.codecs import encode
from events.event import EVENTS, Rating
from events.kafka_link import client
from events.kafka_topics import ensure_topics, topic_name
from events.local_log import LocalLog
from events.log import BATCH
from events.mirror import Mirror
from events.producing import BATCH_BYTES, LINGER_MS
from events.relay import Relay

START_MS = 1_700_000_000_000


class Took(NamedTuple):
    """Of one append, in ms, and acknowledged events a second."""

    per_second: float
    p50_ms: float
    p99_ms: float


class Store(Protocol):
    """`append` returns when the events are durable."""

    def append(self, events: Sequence[Rating]) -> None: ...

    def close(self) -> None: ...


class Ours:
    def __init__(self, folder: Path, conf: Kafka) -> None:
        self._log = LocalLog(folder / "log.db")
        self.close = self._log.close

    def append(self, events: Sequence[Rating]) -> None:
        self._log.append(EVENTS, events)


class Sqlite:
    """One table with unique ids; the journal and the syncs of the log."""

    def __init__(self, folder: Path, conf: Kafka) -> None:
        self._db = sqlite3.connect(folder / "bare.db", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute(
            "CREATE TABLE records (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, body BLOB NOT NULL)"
        )
        self.close = self._db.close

    def append(self, events: Sequence[Rating]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        rows = [(event.event_id, _body(event)) for event in events]
        self._db.executemany("INSERT INTO records (id, body) VALUES (?, ?)", rows)
        self._db.execute("COMMIT")


class Direct:
    """Straight to the broker, acknowledged by every replica in sync: one broker, which does not sync each record."""

    def __init__(self, folder: Path, conf: Kafka) -> None:
        self._topic = topic_name(conf, EVENTS)
        self._producer = KafkaProducer(**client(conf, acks="all", enable_idempotence=True))
        self.close = self._producer.close

    def append(self, events: Sequence[Rating]) -> None:
        sent = [self._producer.send(self._topic, _body(event), event.user_id.encode()) for event in events]
        for future in sent:
            future.get(60)


class Lines:
    """Appended to a file, which is synced."""

    def __init__(self, folder: Path, conf: Kafka) -> None:
        self._file = os.open(folder / "lines.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def append(self, events: Sequence[Rating]) -> None:
        os.write(self._file, b"".join(_body(event) + b"\n" for event in events))
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


STORES: dict[str, Callable[[Path, Kafka], Store]] = {
    "local log": Ours,
    "SQLite alone, same durability": Sqlite,
    "kafka-python, acks=all": Direct,
    "file append + fsync": Lines,
}


def appends(folder: Path, conf: Kafka, batch: int, seconds: float) -> dict[str, Took]:
    """Appends of `batch` events by one caller. The stores take turns, append by append, in random order: noise hits all
    alike, and so does what a sync leaves for the next one. Each has a process of its own: no other's threads run in it.
    """
    conf, spawn = own_topics(conf), multiprocessing.get_context("spawn")
    times: dict[str, list[float]] = {name: [] for name in STORES}
    with ExitStack() as stack:
        turns = {}
        for name in STORES:
            turns[name], theirs = spawn.Pipe()
            process = spawn.Process(target=_take_turns, args=(name, folder, conf, batch, theirs), daemon=True)
            process.start()
            stack.callback(process.join)
            stack.callback(turns[name].send, False)
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            for name in random.sample(list(STORES), len(STORES)):
                turns[name].send(True)
                times[name].append(turns[name].recv())
    return {name: _took(batch, sorted(each[1:])) for name, each in times.items()}  # the first one opens things


def _take_turns(name: str, folder: Path, conf: Kafka, batch: int, turns: Connection) -> None:
    store, fresh = STORES[name](folder, conf), events()
    while turns.recv():
        given = [next(fresh) for _ in range(batch)]
        begun = time.perf_counter()
        store.append(given)
        turns.send(time.perf_counter() - begun)
    store.close()


class Drained(NamedTuple):
    """Records a second, by round."""

    relay: list[float]  # from a spool with a backlog
    producer: list[float]  # the same records, out of memory
    mirror: list[float]  # of what the relay sent, into its own log
    consumer: list[float]  # the same, stored nowhere


def drains(folder: Path, conf: Kafka, backlog: int, rounds: int) -> Drained:
    """A backlog sent by the relay and read by the mirror, beside bare clients."""
    found = Drained([], [], [], [])
    with LocalLog(folder / "backlog.db") as spool:
        fresh = events()
        for _ in range(0, backlog, 10_000):
            spool.append(EVENTS, [next(fresh) for _ in range(min(10_000, backlog))])
        bodies = list(spool.bodies([EVENTS]))
    for number in range(rounds):
        place = folder / f"round-{number}"
        place.mkdir()
        with sqlite3.connect(folder / "backlog.db") as whole, sqlite3.connect(place / "log.db") as copy:
            whole.backup(copy)
        through = own_topics(conf)
        found.relay.append(_relayed(place / "log.db", through, len(bodies)))
        found.producer.append(_produced(bodies, own_topics(conf)))
        found.mirror.append(_mirrored(Home(root=place / "home").open(), through, len(bodies)))
        found.consumer.append(_consumed(through, len(bodies)))
    return found


def events() -> Iterator[Rating]:
    """Ratings with ids of their own, by many viewers."""
    made = uuid.uuid4().hex[:8]
    for n in count():
        yield Rating(
            event_id=f"{made}-{n}", ts=START_MS + n, user_id=f"viewer-{n % 5000}", movie_id=f"movie-{n % 900}",
            rating=4, scale=5,
        )  # fmt: skip


def own_topics(conf: Kafka) -> Kafka:
    """The settings, with topics that nobody else uses, made."""
    conf = conf.model_copy(update={"topic_prefix": f"bench-{uuid.uuid4().hex[:8]}"})
    ensure_topics(conf)
    return conf


def _body(event: Rating) -> bytes:
    return encode(event).encode()


def _took(batch: int, ordered: list[float]) -> Took:
    p50, p99 = (1000 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return Took(batch * len(ordered) / sum(ordered), p50, p99)


def _relayed(spool: Path, conf: Kafka, records: int) -> float:
    with LocalLog(spool) as log:
        relay, begun = Relay(log, conf), time.perf_counter()
        while relay.delivered < records:
            relay.step()
        took = time.perf_counter() - begun
        relay.close()
    return records / took


def _produced(bodies: list[bytes], conf: Kafka) -> float:
    """The same batches as the relay's, with keys that are there already, nothing bounded and nothing committed."""
    keys, topic = [b"viewer-%d" % (n % 5000) for n in range(len(bodies))], topic_name(conf, EVENTS)
    begun = time.perf_counter()
    producer = KafkaProducer(
        **client(conf, acks="all", enable_idempotence=True, batch_size=BATCH_BYTES, linger_ms=LINGER_MS)
    )
    for key, body in zip(keys, bodies, strict=True):
        producer.send(topic, body, key)
    producer.flush()
    took = time.perf_counter() - begun
    producer.close()
    return len(bodies) / took


def _mirrored(home: Home, conf: Kafka, records: int) -> float:
    """Each stored durably, with its id, and with how far was read."""
    mirror, begun = Mirror(home, Settings(kafka=conf)), time.perf_counter()
    while mirror.stored < records:
        mirror.step()
    took = time.perf_counter() - begun
    mirror.close()
    return records / took


def _consumed(conf: Kafka, records: int) -> float:
    begun, count = time.perf_counter(), 0
    consumer = KafkaConsumer(topic_name(conf, EVENTS), **client(conf, auto_offset_reset="earliest"))
    while count < records:
        count += sum(len(found) for found in consumer.poll(1000, max_records=BATCH).values())
    took = time.perf_counter() - begun
    consumer.close()
    return records / took

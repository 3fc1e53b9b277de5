"""The relay: consumer group `relay` of the spool, which passes every record on to Kafka, in order and at least once.

Records go as they are stored, with the viewer's id as key (the movie's for the catalogue, the event's for dead
letters). An offset is committed once everything up to it was delivered, so whatever is killed, what is not in Kafka is
sent again, and readers drop ids that they have. Where nothing was acknowledged for `kafka.timeout_s`, or Kafka refuses,
a circuit breaker opens: nothing is sent but one record, now and then, until that one is delivered.

A record that Kafka will never take (too large, or without a key) goes to the dead letter with the reason. To find it
among others, a record that was refused is sent again alone.
"""

import fcntl
import logging
import os
import random
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import orjson
from kafka import errors
from kafka.producer.future import FutureRecordMetadata
from pybreaker import STATE_HALF_OPEN, STATE_OPEN, CircuitBreaker

from conf.errors import PlainError
from conf.sections.kafka import Kafka
from events.clock import wall_ms
from events.codecs import unreadable
from events.event import CATALOGUE, DEAD_LETTER, EVENTS, IMPRESSIONS, BadRecord
from events.kafka_link import KafkaAway, KafkaError, plain
from events.kafka_topics import ensure_topics, same_cluster, topic_name
from events.local_log import LocalLog
from events.log import LogError
from events.producing import REFUSED, Failure, Producing
from events.reading import RELAY

log = logging.getLogger("greenlight.relay")

GROUP = RELAY
KEYS = {EVENTS: "user_id", CATALOGUE: "movie_id", IMPRESSIONS: "user_id", DEAD_LETTER: "event_id"}
FAILURES = 1  # until the breaker opens: the client has tried for `timeout_s` by then
FOREVER_S = 1e9  # pybreaker waits by the wall clock, which jumps: the waiting is done here
PAUSE_S, PAUSE_MAX_S = 0.1, 2.0  # between two probes: twice as long each time
PATIENCE_S = 0.2  # of one step, for acknowledgements
COMMIT_S = 0.2  # between two commits: each waits for the disk that serving writes to
CHUNK, IN_FLIGHT_BYTES = 200, 32 << 20  # records read at once; bytes in flight beside `conf.in_flight` records
LONG, SHOWN = 1 << 18, 10_000  # bytes from which a dead letter is sent shortened; characters that it shows then
TOO_LARGE = "its {:,} bytes are more than is sent to Kafka"


class RelayError(PlainError):
    """The relay cannot run; the message says why."""


class Sent(NamedTuple):
    """A record on its way. future: None where it does not go to Kafka."""

    offset: int
    body: bytes
    future: FutureRecordMetadata | None
    at: float  # monotonic


@dataclass
class Line:
    """The records of a topic on their way, in the order of the spool."""

    topic: str
    committed: int
    delivered: int  # everything up to it is in Kafka, or in the dead letter
    read: int  # everything up to it was delivered or is in `sent`
    sent: deque[Sent] = field(default_factory=deque)

    def rewind(self) -> None:
        """Begin again behind what was delivered."""
        self.sent.clear()
        self.read = self.delivered


class Relay:
    """`step` again and again. RelayError where another relay of this spool runs: the lock lives as long as this one."""

    def __init__(self, spool: LocalLog, conf: Kafka, cluster: Path | None = None) -> None:
        """cluster: where the id of the cluster is noted, see `same_cluster`."""
        self.spool, self.conf, self._cluster = spool, conf, cluster
        self._lock = _alone(spool)
        try:
            self._lines = deque(self._line(topic) for topic in KEYS)
        except LogError:
            os.close(self._lock)  # else this process would take itself for another relay
            raise
        self._breaker = CircuitBreaker(FAILURES, FOREVER_S, exclude=[_not_kafkas], throw_new_error_on_trip=False)
        self._kafka: Producing | None = None
        self._room = 1  # records in flight: doubled as long as all goes well, up to `conf.in_flight`
        self._bytes = 0  # of those that are
        self._suspects: set[tuple[str, int]] = set()  # topic and offset of what was refused among others
        self._heard = self._committed_at = time.monotonic()
        self._opened, self._probe_at = 0, 0.0  # times in a row that the breaker opened; when to try again
        self.since_wall_ms = wall_ms()  # of the breaker being closed, or not closed
        self.reason = ""  # why it is not
        self.delivered, self.dead = 0, 0  # records, since the start

    @property
    def state(self) -> str:
        """Of the breaker: closed (all is well), open or half-open."""
        return self._breaker.current_state

    @property
    def lag(self) -> int:
        """Records that the spool holds and Kafka does not, as far as is committed."""
        return sum(self.spool.lag(topic, GROUP) for topic in KEYS)

    def step(self) -> int:
        """Hand over what there is room for, wait a little for acknowledgements, commit; how many records came through.

        Never raises for what Kafka does: that is in `state` and `reason`. LogError where the spool cannot be used, or
        another file took its place.
        """
        if self.spool.gone:
            raise LogError(f"{self.spool.path} was taken away: what comes in is not stored in the file that is open")
        if self.state == STATE_OPEN:
            if time.monotonic() < self._probe_at:
                return 0
            self._breaker.half_open()
        try:
            with self._breaker.calling():
                count = self._exchange()
        except KafkaError as why:
            self._failed(why)
            return 0
        if self._opened:
            log.warning("Kafka answers again; it was out: %s", self.reason)
            self._opened, self.reason, self.since_wall_ms = 0, "", wall_ms()
        self._commit()
        self.delivered += count
        return count

    def close(self) -> None:
        """Let go of Kafka and of the lock; what is under way, or cannot be committed, is sent again by the next one."""
        self._drop()
        try:
            with suppress(LogError):  # a full disk
                self._commit(at_once=True)
        finally:
            os.close(self._lock)

    def _line(self, topic: str) -> Line:
        begin = self.spool.committed(topic, GROUP)
        return Line(topic, begin, begin, begin)

    def _exchange(self) -> int:
        """One round. KafkaError where something failed, or nothing was heard for too long."""
        if self._kafka is None:
            if self._cluster is not None:
                same_cluster(self.conf, self._cluster)
            ensure_topics(self.conf)
            self._kafka = Producing(self.conf)
        self._fill(self._kafka)
        while oldest := min(
            (line.sent[0] for line in self._lines if line.sent), key=lambda sent: sent.at, default=None
        ):
            _wait(oldest)
            count = self._settle(self._kafka)
            if count or self._kafka is None:
                self._heard, self._room = time.monotonic(), min(2 * self._room, self.conf.in_flight)
                return count
            if time.monotonic() - max(self._heard, oldest.at) > self.conf.timeout_s:
                raise KafkaAway(f"Kafka at {self.conf.servers} acknowledged nothing within {self.conf.timeout_s:g} s")
            if self.state != STATE_HALF_OPEN:
                break
        return 0

    def _fill(self, kafka: Producing) -> None:
        """Hand over what there is room for. Topics take turns at being first; a suspect goes alone."""
        self._lines.rotate()
        for line in self._lines:
            room = self._room - self._in_flight()
            if room <= 0 or self._bytes > IN_FLIGHT_BYTES or self._alone():
                return
            for offset, body in self._next(line, room):
                suspect = (line.topic, offset) in self._suspects
                if suspect and self._in_flight():
                    return
                self._hand_over(kafka, line, offset, body)
                if suspect or self._bytes > IN_FLIGHT_BYTES:
                    return

    def _next(self, line: Line, room: int) -> Iterator[tuple[int, bytes]]:
        """The next records of a topic, a few at a time: a single one may have megabytes."""
        while room > 0 and (rows := self.spool.stored(line.topic, line.read, min(room, CHUNK))):
            yield from rows
            room -= len(rows)

    def _hand_over(self, kafka: Producing, line: Line, offset: int, body: bytes) -> None:
        """Send one record, or give it up where it can never be sent."""
        line.read, future = offset, None
        if line.topic == DEAD_LETTER and len(body) > LONG:
            body = shortened(body)
        try:
            name, key = topic_name(self.conf, line.topic), _key(line.topic, body)
            future = kafka.send(name, key, body, line.topic, offset)
        except BadRecord as why:
            self._give_up(line.topic, offset, body, str(why))
        except REFUSED:
            self._give_up(line.topic, offset, body, TOO_LARGE.format(len(body)))
        except errors.KafkaError as why:
            if kafka.stopped:
                return  # by a record before it: `_settle` sees to that
            raise plain(self.conf, "sending events", why) from why
        line.sent.append(Sent(offset, body, future, time.monotonic()))
        self._bytes += len(body)

    def _settle(self, kafka: Producing) -> int:
        """Take off what was delivered, in order; how many records. KafkaError where something failed."""
        count = 0
        for line in self._lines:
            while line.sent and (line.sent[0].future is None or line.sent[0].future.succeeded()):
                sent = line.sent.popleft()
                self._bytes -= len(sent.body)
                line.delivered, count = sent.offset, count + (sent.future is not None)
                self._suspects.discard((line.topic, sent.offset))
        if kafka.stopped:
            self._stopped(kafka.close())
        return count

    def _stopped(self, failures: list[Failure]) -> None:
        """Give up what was refused though it was alone; send again alone what was refused among others. KafkaError
        where it was not for the records themselves."""
        refused = [failure for failure in failures if failure.itself]
        if not refused:
            raise plain(self.conf, "sending events", failures[0].why) from failures[0].why
        for line in self._lines:
            if line.sent and (line.topic, line.sent[0].offset) in self._suspects:
                offset, body, *_ = line.sent[0]
                self._give_up(line.topic, offset, body, f"Kafka refuses it ({refused[0].why}); {len(body):,} bytes")
                self._suspects.discard((line.topic, offset))
                line.delivered = offset
                break
        else:
            self._suspects.update((failure.topic, failure.offset) for failure in refused)
        self._drop()

    def _give_up(self, topic: str, offset: int, body: bytes, reason: str) -> None:
        """Into the dead letter with it, once. A dead letter itself stays in the spool alone."""
        letters = [] if topic == DEAD_LETTER else [unreadable(body, topic, offset, reason, GROUP)]
        if self.spool.append(DEAD_LETTER, letters).added or not letters:
            self.dead += 1
            log.warning("record %d of %s does not go to Kafka: %s", offset, topic, reason)

    def _failed(self, why: KafkaError) -> None:
        """The breaker is open now: forget what is under way, and plan the next probe."""
        self._drop()
        self._commit(at_once=True)
        self._opened += 1
        if self._opened == 1:
            self.since_wall_ms = wall_ms()
            log.warning("%s; the spool keeps everything, and sends it once Kafka answers", why)
        self.reason = str(why)
        self._probe_at = time.monotonic() + random.uniform(0.5, 1) * min(PAUSE_S * 2**self._opened, PAUSE_MAX_S)

    def _drop(self) -> None:
        if self._kafka is not None:
            self._kafka.close()
        self._kafka, self._room, self._bytes = None, 1, 0
        for line in self._lines:
            line.rewind()

    def _commit(self, at_once: bool = False) -> None:
        if not at_once and time.monotonic() - self._committed_at < COMMIT_S:
            return
        for line in self._lines:
            if line.delivered > line.committed:
                self.spool.commit(line.topic, GROUP, line.delivered)
                line.committed = line.delivered
        self._committed_at = time.monotonic()

    def _in_flight(self) -> int:
        return sum(len(line.sent) for line in self._lines)

    def _alone(self) -> bool:
        """Whether a suspect is on its way."""
        return any(line.sent and (line.topic, line.sent[0].offset) in self._suspects for line in self._lines)


def shortened(letter: bytes) -> bytes:
    """A dead letter with the beginning only of what it holds; the spool has the whole."""
    fields = orjson.loads(letter)
    fields["reason"] += f" (the first {SHOWN:,} of {len(fields['raw']):,} characters)"
    return orjson.dumps(fields | {"raw": fields["raw"][:SHOWN]})


def _key(topic: str, body: bytes) -> bytes:
    """What order is kept by. BadRecord where the record has none."""
    try:
        return orjson.loads(body)[KEYS[topic]].encode()
    except orjson.JSONDecodeError as why:
        raise BadRecord(f"not JSON: {why}") from None
    except (KeyError, TypeError, AttributeError):
        raise BadRecord(f"no {KEYS[topic]}, which is its key in Kafka") from None


def _not_kafkas(why: BaseException) -> bool:
    return not isinstance(why, KafkaError)


def _wait(sent: Sent) -> None:
    """Until a record is acknowledged or failed, or for a moment."""
    if sent.future is not None:
        with suppress(errors.KafkaError):
            sent.future.get(PATIENCE_S)


def _alone(spool: LocalLog) -> int:
    """Be the only relay of a spool: an open file whose lock the kernel frees when this process ends."""
    path = spool.path.with_name("relay.lock")
    try:
        held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(held, 0)
            os.pwrite(held, str(os.getpid()).encode(), 0)
        except OSError:
            os.close(held)
            raise
    except BlockingIOError:
        raise RelayError(f"a relay of {spool.path} runs already, process {path.read_text()}: one is enough") from None
    except OSError as why:
        raise LogError(f"{path} cannot be used: {why.strerror or why}") from why
    return held

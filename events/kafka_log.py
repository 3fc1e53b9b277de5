"""The event log in Kafka, behind the same contract as `LocalLog`.

`append` returns once every replica in sync has acknowledged. A topic has partitions, and a viewer's events are all in
one of them: their order holds, and none is promised between viewers. Kafka itself stores an id as often as it is sent:
those that this log has just sent are not sent again, those that it has just read are not given again. Both memories are
bounded and end with the process; who must never see an id twice keeps the ids, as the mirror does.

`commit` means all that this reader was given up to and with a record, whatever its partition (`kafka_places.py`). Of an
offset that it was not given only the partition is known: the others stay where they were, and are read again.

Where Kafka has dropped records before a group read them, the gap goes to the dead letter and reading goes on after it.
A topic that ends before what a group has read was made anew or has lost records: that is refused.
"""

import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from kafka import KafkaProducer
from kafka.producer.future import FutureRecordMetadata

from conf.settings import Kafka
from events.codecs import decode, encode, unreadable
from events.event import DEAD_LETTER, AnyEvent, Unreadable
from events.kafka_clients import Bounds, Clients
from events.kafka_link import KafkaError, client, plain_errors
from events.kafka_places import Batch, Positions, Recent, offset_of, place_of
from events.kafka_topics import ensure_topics, same_cluster, topic_name
from events.log import BATCH, Appended, Record

BATCHES = 16  # that were read and may still be committed by one of their records
LARGEST = 64 << 20  # bytes of a record that is handed to Kafka: how much it takes, it says itself


def key_of(event: AnyEvent) -> bytes:
    """What decides the partition: the viewer, the movie of the catalogue, or the event where it has neither."""
    return str(getattr(event, "user_id", None) or getattr(event, "movie_id", None) or event.event_id).encode()


class KafkaLog:
    """Safe for the threads of one process. note: where the id of the cluster is kept, see `same_cluster`."""

    def __init__(self, conf: Kafka, note: Path | None = None) -> None:
        self.conf = conf
        self._lock = threading.RLock()
        self._clients = Clients(conf)
        self._producer: KafkaProducer | None = None
        self._sent: dict[str, Recent] = {}
        self._met: dict[str, Recent] = {}
        self._batches: dict[str, deque[Batch]] = {}
        if note is not None:
            same_cluster(conf, note)
        ensure_topics(conf)

    def append(self, topic: str, events: Iterable[AnyEvent]) -> Appended:
        """As the contract says, but not all or none: after an error some may be stored; appending again is safe."""
        with self._lock:
            sent, given = self._sent.setdefault(topic, Recent()), list(events)
            new: dict[str, AnyEvent] = {}
            for event in given:
                if event.event_id not in sent:
                    new.setdefault(event.event_id, event)
            self._deliver(topic_name(self.conf, topic), new.values())
            for event_id in new:
                sent.is_first(event_id, 0)
            return Appended(len(new), len(given) - len(new))

    def read(self, topic: str, group: str, limit: int = BATCH, after: int | None = None) -> list[Record]:
        with self._lock:
            bounds = self._clients.bounds(topic_name(self.conf, topic))
            asked = self._after(topic, after) if after else {}
            known = {} if after == 0 else self._committed(topic, group)
            batch = Batch(self._checked(topic, group, known | asked, bounds))
            self._fill(batch, topic, {at: bound.end for at, bound in bounds.items()}, limit)
            self._batches.setdefault(topic, deque(maxlen=BATCHES)).append(batch)
            if after is None and batch.places and not batch.records:
                self._advance(topic, group, batch.end())  # only ids that were met before
            if topic != DEAD_LETTER and (bad := [r.event for r in batch.records if isinstance(r.event, Unreadable)]):
                self.append(DEAD_LETTER, bad)
            return batch.records

    def commit(self, topic: str, group: str, offset: int) -> None:
        with self._lock:
            self._advance(topic, group, self._after(topic, offset))

    def lag(self, topic: str, group: str) -> int:
        """Records of Kafka's: an id that it has twice counts twice."""
        with self._lock:
            committed = self._committed(topic, group)
            bounds = self._clients.bounds(topic_name(self.conf, topic))
            return sum(max(0, end - max(first, committed.get(at, 0))) for at, (first, end) in bounds.items())

    def close(self) -> None:
        with self._lock:
            self._clients.close()
            if self._producer is not None:
                self._producer.close()
            self._producer = None

    def _deliver(self, name: str, events: Iterable[AnyEvent]) -> None:
        """Until all are acknowledged."""
        waiting = deque[FutureRecordMetadata]()
        with plain_errors(self.conf, f"appending to {name}"):
            for event in events:
                if len(waiting) >= self.conf.in_flight:
                    waiting.popleft().get(self.conf.timeout_s)
                waiting.append(self._producing().send(name, encode(event).encode(), key_of(event)))
            for sent in waiting:
                sent.get(self.conf.timeout_s)

    def _producing(self) -> KafkaProducer:
        if self._producer is None:
            timeout_ms = int(self.conf.timeout_s * 1000)
            more = {"acks": "all", "max_request_size": LARGEST, "max_block_ms": timeout_ms}
            self._producer = KafkaProducer(**client(self.conf, delivery_timeout_ms=timeout_ms, **more))
        return self._producer

    def _fill(self, batch: Batch, topic: str, ends: Positions, limit: int) -> None:
        """Read on from the batch's start until it has `limit` records, or the ends are reached."""
        name, met, reached = topic_name(self.conf, topic), self._met.setdefault(topic, Recent()), batch.start
        while len(batch.records) < limit and any(reached[at] < end for at, end in ends.items()):
            found, reached = self._clients.fetch(name, reached, limit - len(batch.records))
            for stored in found:
                offset = offset_of(stored.partition, stored.offset)
                event = decode(stored.value, f"{name}, partition {stored.partition}", stored.offset)
                batch.places.append(offset)
                if met.is_first(event.event_id, offset):
                    batch.records.append(Record(offset, event))

    def _committed(self, topic: str, group: str) -> Positions:
        return self._clients.committed(topic_name(self.conf, topic), self._named(group))

    def _advance(self, topic: str, group: str, reached: Positions) -> None:
        """Commit positions, but for those that the group has passed."""
        before = self._committed(topic, group)
        if ahead := {at: position for at, position in reached.items() if position > before.get(at, 0)}:
            self._clients.commit(topic_name(self.conf, topic), self._named(group), ahead)

    def _named(self, group: str) -> str:
        return f"{self.conf.topic_prefix}.{group}"

    def _after(self, topic: str, offset: int) -> Positions:
        """Positions behind a record: where this reader was given it, behind all that it was given before it too."""
        for batch in reversed(self._batches.get(topic, ())):
            if (found := batch.until(offset)) is not None:
                return found
        partition, position = place_of(offset)
        return {partition: position + 1} if offset > 0 else {}

    def _checked(self, topic: str, group: str, asked: Positions, bounds: dict[int, Bounds]) -> Positions:
        """Where to begin: in a partition that is new to the group, at its beginning. A gap goes to the dead letter."""
        start, gaps = {}, []
        for at, (first, end) in bounds.items():
            position = asked.get(at, first)
            where = f"{topic_name(self.conf, topic)}, partition {at}"
            if position > end:
                raise KafkaError(
                    f"{where}: it ends at {end}, and group {self._named(group)} has read up to {position}: the topic "
                    "was made anew or has lost records; set the offsets of the group with kafka-consumer-groups "
                    "--reset-offsets, events that come again are dropped by their ids"
                )
            if position < first:
                gaps.append(
                    unreadable(None, where, position, f"records {position} to {first - 1} were dropped by Kafka")
                )
            start[at] = max(first, position)
        if gaps and topic != DEAD_LETTER:
            self.append(DEAD_LETTER, gaps)
        return start

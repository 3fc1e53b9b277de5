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
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

from kafka.errors import KafkaError as KafkaTrouble
from kafka.producer.future import FutureRecordMetadata

from conf.sections.kafka import Kafka
from events.codecs import decode, encode, unreadable
from events.event import DEAD_LETTER, AnyEvent, Unreadable
from events.kafka_groups import Groups
from events.kafka_link import KafkaAway, KafkaError, plain
from events.kafka_partitions import Moved, Partitions, Place, Span, Stored
from events.kafka_places import PARTITIONS, Batch, Positions, Recent, offset_of, place_of
from events.kafka_topics import ensure_topics, same_cluster, topic_name
from events.log import BATCH, Appended, Record
from events.producing import Producing

BATCHES = 16  # that were read and may still be committed by one of their records
KEPT = 100_000  # characters of a record in the dead letter; the record itself stays where it is


def key_of(event: AnyEvent) -> bytes:
    """What decides the partition: the viewer, the movie of the catalogue, or the event where it has neither."""
    return str(getattr(event, "user_id", None) or getattr(event, "movie_id", None) or event.event_id).encode()


def shortened(event: Unreadable) -> Unreadable:
    """What the dead letter takes of a record, however large that is."""
    if len(event.raw) <= KEPT:
        return event
    reason = f"{event.reason} (here are {KEPT} of its {len(event.raw)} characters)"
    return event.model_copy(update={"raw": event.raw[:KEPT], "reason": reason})


class KafkaLog:
    """Safe for the threads of one process. note: where the id of the cluster is kept, see `same_cluster`."""

    def __init__(self, conf: Kafka, note: Path | None = None) -> None:
        self.conf = conf
        self._lock = threading.RLock()
        self._partitions, self._groups = Partitions(conf), Groups(conf)
        self._producing: Producing | None = None
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
            self._deliver(topic, list(new.values()))
            for event_id in new:
                sent.is_first(event_id, 0)
            return Appended(len(new), len(given) - len(new))

    def read(self, topic: str, group: str, limit: int = BATCH, after: int | None = None) -> list[Record]:
        with self._lock:
            spans = self._spans(topic)
            asked = self._after(topic, after) if after else {}
            known = {} if after == 0 else self._groups.committed(topic, group)
            batch = Batch(self._checked(topic, group, known | asked, spans))
            self._fill(batch, topic, spans, limit)
            self._batches.setdefault(topic, deque(maxlen=BATCHES)).append(batch)
            if after is None and batch.places and not batch.records:
                self._groups.advance(topic, group, batch.end())  # only ids that were met before
            if topic != DEAD_LETTER and (bad := [r.event for r in batch.records if isinstance(r.event, Unreadable)]):
                self.append(DEAD_LETTER, [shortened(event) for event in bad])
            return batch.records

    def commit(self, topic: str, group: str, offset: int) -> None:
        with self._lock:
            self._groups.advance(topic, group, self._after(topic, offset))

    def lag(self, topic: str, group: str) -> int:
        """Records of Kafka's: an id that it has twice counts twice."""
        with self._lock:
            committed = self._groups.committed(topic, group)
            spans = self._spans(topic).items()
            return sum(max(0, span.end - max(span.first, committed.get(at, 0))) for at, span in spans)

    def close(self) -> None:
        with self._lock:
            self._groups.close()
            self._partitions.close()
            self._give_up_producing()

    def _deliver(self, topic: str, events: list[AnyEvent]) -> None:
        """Until all are acknowledged. What follows a failure is not sent: appended again, all stands in order."""
        name, waiting = topic_name(self.conf, topic), deque[FutureRecordMetadata]()
        try:
            self._producing = self._producing or Producing(self.conf)
            for event in events:
                if len(waiting) >= self.conf.in_flight:
                    waiting.popleft().get(self.conf.timeout_s)
                waiting.append(self._producing.send(name, key_of(event), encode(event).encode(), topic, 0))
            for sent in waiting:
                sent.get(self.conf.timeout_s)
        except KafkaTrouble as why:
            raise plain(self.conf, f"appending to {name}", self._first_failure(why)) from why
        except BaseException:
            self._give_up_producing()
            raise

    def _first_failure(self, why: BaseException) -> BaseException:
        """What began it: the records behind it fail because of it."""
        failures = self._give_up_producing()
        return failures[0] if failures else why

    def _give_up_producing(self) -> list[BaseException]:
        producing, self._producing = self._producing, None
        return [failure.why for failure in producing.close()] if producing else []

    def _fill(self, batch: Batch, topic: str, spans: Mapping[int, Span], limit: int) -> None:
        """Read on from the batch's start until it has `limit` records, or the ends are reached."""
        name, met, reached = topic_name(self.conf, topic), self._met.setdefault(topic, Recent()), batch.start
        if all(reached[at] >= span.end for at, span in spans.items()):
            return
        self._partitions.follow({Place(topic, at): position for at, position in reached.items()})
        until = time.monotonic() + self.conf.timeout_s
        while len(batch.records) < limit and any(reached[at] < span.end for at, span in spans.items()):
            found, places = self._polled()
            now, reached = reached, {place.partition: position for place, position in places.items()}
            if now == reached and time.monotonic() > until:
                raise KafkaAway(f"Kafka at {self.conf.servers} sends nothing of {name} for {self.conf.timeout_s:g} s")
            for stored in found:
                if len(batch.records) == limit:
                    return
                offset = offset_of(stored.place.partition, stored.offset)
                event = decode(stored.value, f"{name}, partition {stored.place.partition}", stored.offset)
                batch.places.append(offset)
                if met.is_first(event.event_id, offset):
                    batch.records.append(Record(offset, event))

    def _polled(self) -> tuple[list[Stored], dict[Place, int]]:
        try:
            return self._partitions.poll()
        except Moved as why:
            self._partitions.close()
            raise KafkaError(f"Kafka at {self.conf.servers} dropped records while they were read: read again") from why

    def _spans(self, topic: str) -> dict[int, Span]:
        spans = {at.partition: span for at, span in self._partitions.look().spans.items() if at.topic == topic}
        if len(spans) > PARTITIONS:
            name = topic_name(self.conf, topic)
            raise KafkaError(f"Kafka at {self.conf.servers}: {name} has {len(spans)} partitions, over {PARTITIONS}")
        return spans

    def _after(self, topic: str, offset: int) -> Positions:
        """Positions behind a record: where this reader was given it, behind all that it was given before it too."""
        for batch in reversed(self._batches.get(topic, ())):
            if (found := batch.until(offset)) is not None:
                return found
        partition, position = place_of(offset)
        return {partition: position + 1} if offset > 0 else {}

    def _checked(self, topic: str, group: str, asked: Positions, spans: Mapping[int, Span]) -> Positions:
        """Where to begin: in a partition that is new to the group, at its beginning. A gap goes to the dead letter."""
        start, gaps = {}, []
        for at, span in spans.items():
            position = asked.get(at, span.first)
            where = f"{topic_name(self.conf, topic)}, partition {at}"
            if position > span.end:
                raise KafkaError(
                    f"{where} ends at {span.end}, and group {self._groups.name(group)} has read up to {position}: the "
                    "topic was made anew or has lost records; set the offsets of the group with kafka-consumer-groups "
                    "--reset-offsets, events that come again are dropped by their ids"
                )
            if position < span.first:
                gone = f"records {position} to {span.first - 1} were dropped by Kafka before they were read"
                gaps.append(unreadable(None, where, position, gone, "gap"))
            start[at] = max(span.first, position)
        if gaps and topic != DEAD_LETTER:
            self.append(DEAD_LETTER, gaps)
        return start

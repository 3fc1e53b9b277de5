"""The mirror: everything that came through Kafka, in a log of this home, which all readers read.

All partitions of all topics are read, and stored with the positions in one transaction: whatever is killed, nothing is
missed and nothing is taken twice. Event ids are unique in it, so what producers sent again is dropped. Two mirrors of
one home at once do no harm, and a mirror that was deleted fills again from what Kafka and the archive hold.

What cannot be read goes to the dead letter with its partition and offset, and so does a gap that Kafka's retention
left; reading goes on. A topic that was made anew, or ends before what was read, is read from its beginning. In both
cases what came in here is taken from the spool, which keeps it until then. Another cluster at the same address is
refused.

Where Kafka is away for longer than `kafka.batch_after_minutes`, the spool is taken in directly (batch mode); what comes
through Kafka again later is known by its ids.
"""

import logging
import time
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from conf.home import Home
from conf.settings import Settings
from events.clock import wall_ms, when
from events.codecs import decode, unreadable
from events.event import EVENTS, TOPICS, AnyEvent, Unreadable
from events.kafka_link import KafkaError
from events.kafka_partitions import Moved, Partitions, Place, Span, Stored
from events.kafka_topics import known_cluster
from events.local_log import LocalLog
from events.log import LogError
from events.reading import RELAY, known_to_hold, mirror_of, opened, spool_mark

log = logging.getLogger("greenlight.mirroring")

LOOK_S = 2.0  # between two looks at partitions and cluster
AGAIN_S = 1.0  # after Kafka could not be read
BATCH_AGAIN_S = 10.0  # the same while the spool is read: a try may take as long as `kafka.timeout_s`
LARGEST = 1 << 20  # bytes of a record: ours have a few hundred
KEPT = 10_000  # of a larger one, in the dead letter; Kafka has the rest

Source = Literal["kafka", "spool"]


class Mirror:
    """`step` again and again. For one thread. LogError where its file or the spool cannot be used."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self.home, self.conf = home, settings.kafka
        self._ahead_ms = round(settings.intake.ahead_of_wall_minutes * 60_000)
        self._log = mirror_of(home)
        self._spool: LocalLog | None = None
        self._kafka = Partitions(self.conf)
        marks = self._log.marks
        self.away_wall_ms = int(marks.get("away", 0))  # since when Kafka cannot be read; 0: it can, as far as is known
        spool_since = int(marks.get("batch", 0))
        self.source: Source = "spool" if spool_since else "kafka"
        self.since_wall_ms = spool_since or wall_ms()  # of the source
        self.trouble = ""
        self.behind = 0  # records that Kafka held beyond what was read, at the last look
        self.caught_up_wall_ms = self._look_wall_ms = wall_ms()  # all was read that Kafka held then
        self.stored = self.duplicates = 0  # since the start
        self.unreadable, self.gaps = int(marks.get("unreadable", 0)), int(marks.get("gaps", 0))  # of all time
        self._positions: dict[Place, int] = {}
        self._spans: dict[Place, Span] = {}
        self._relayed: dict[str, int] = {}  # what the relay had sent before the last look, by topic
        self._looked_s = self._again_s = float("-inf")

    def step(self) -> int:
        """Take in what is next, or wait a little for it; how many records were new. Whatever Kafka does is in `trouble`
        and `source`."""
        if self._log.gone:
            raise LogError(f"{self.home.mirror} was taken away: it fills anew from what Kafka holds")
        if time.monotonic() >= self._again_s:
            try:
                count = self._from_kafka()
            except KafkaError as why:
                self._away(str(why))
            else:
                self._there()
                return count
        return self._from_spool() if self.source == "spool" else 0

    @property
    def state(self) -> dict[str, Any]:
        """How it is, as plain values."""
        told = ("source", "since_wall_ms", "away_wall_ms", "trouble", "behind", "caught_up_wall_ms")
        return {name: getattr(self, name) for name in (*told, "stored", "duplicates", "unreadable", "gaps")}

    def close(self) -> None:
        self._kafka.close()
        self._log.close()
        if self._spool is not None:
            self._spool.close()

    # Kafka ------------------------------------------------------------------------------------------------------------

    def _from_kafka(self) -> int:
        if time.monotonic() - self._looked_s >= LOOK_S:
            self._look()
        try:
            found, reached = self._kafka.poll()
        except Moved:
            self._look_anew()
            return 0
        count = self._take(found, reached)
        if all(self._positions[place] >= span.end for place, span in self._spans.items()):
            self.caught_up_wall_ms = self._look_wall_ms
            self._note_relayed()
        return count

    def _look(self) -> None:
        """Find new partitions, and where what was to be read next is not there any more."""
        began_wall_ms = wall_ms()
        relayed = self._committed_by_relay()  # before the ends: what is sent by then lies before them
        seen = self._kafka.look()
        known_cluster(self.conf, self.home.cluster, seen.cluster)
        marks = self._log.marks
        known = {} if marks.get("cluster") != seen.cluster else marks
        starts = {place: _start(place, span, known.get(_mark(place), "")) for place, span in seen.spans.items()}
        positions = {place: start.position for place, start in starts.items()}
        if positions != self._positions:
            if marks.get("cluster", seen.cluster) != seen.cluster or any(start.lost for start in starts.values()):
                self._all_from_spool()  # before anything is noted: killed here, it is done again
            gaps = [start.gap for start in starts.values() if start.gap]
            self.gaps += len(gaps)
            self._store(gaps, {"cluster": seen.cluster, **_marks(positions, seen.spans)})
            self._kafka.follow(positions)
        self._positions, self._spans, self._relayed = positions, seen.spans, relayed
        self.behind = self._behind()
        self._looked_s, self._look_wall_ms = time.monotonic(), began_wall_ms

    def _take(self, found: list[Stored], reached: dict[Place, int]) -> int:
        """Store records and how far they go; how many were new."""
        moved = {place: to for place, to in reached.items() if to != self._positions.get(place)}
        if not moved:
            return 0
        found.sort(key=lambda record: TOPICS.index(record.place.topic))  # stable: partitions stay in order
        latest_ms = wall_ms() + self._ahead_ms
        count = self._store([self._event(record, latest_ms) for record in found], _marks(moved, self._spans))
        self._positions |= moved
        self.behind = self._behind()
        return count

    def _behind(self) -> int:
        return sum(max(0, span.end - self._positions[place]) for place, span in self._spans.items())

    def _event(self, record: Stored, latest_ms: int) -> AnyEvent:
        event = _judged(record, latest_ms)
        if not isinstance(event, str):
            return event
        self.unreadable += 1
        raw = record.value[:KEPT] if record.value and len(record.value) > LARGEST else record.value
        made = unreadable(raw, _where(record.place), record.offset, event, _mark(record.place))
        return made.model_copy(update={"ts": min(max(record.ts, 0), wall_ms())})  # the same whenever it is read

    def _note_relayed(self) -> None:
        """Where all was read that the last look saw, the mirror holds what the relay had sent by then: batch mode would
        begin behind that."""
        if self._relayed:
            marks = {spool_mark(topic): str(offset) for topic, offset in self._relayed.items()}
            if any(self._log.marks.get(name) != value for name, value in marks.items()):
                self._log.append_with((), marks)
            self._relayed = {}

    # Batch mode -------------------------------------------------------------------------------------------------------

    def _from_spool(self) -> int:
        """What the spool holds beyond what the mirror is known to have."""
        self._spool = opened(self.home.log, self._spool)
        if self._spool is None:
            return 0
        count = 0
        for topic in TOPICS:
            records = self._spool.tail(topic, known_to_hold(self._log, self._spool, topic))
            if records:
                reached = {spool_mark(topic): str(records[-1].offset)}
                count += self._store((record.event for record in records), reached)
        return count

    def _all_from_spool(self) -> None:
        while (spool := self._spool) and any(spool.stored(t, known_to_hold(self._log, spool, t), 1) for t in TOPICS):
            self._from_spool()

    def _away(self, why: str) -> None:
        """Kafka could not be read. After a while the spool is, until it can be."""
        now = wall_ms()
        if why != self.trouble:
            log.warning("nothing comes through Kafka: %s", why)
        self.trouble = why
        self._look_anew()
        if not self.away_wall_ms:
            self.away_wall_ms = now
            self._log.append_with((), {"away": str(now)})
        if self.source == "kafka" and now - self.away_wall_ms >= self.conf.batch_after_minutes * 60_000:
            self.source, self.since_wall_ms = "spool", now
            self._log.append_with((), {"batch": str(now)})
            log.warning("the spool is read in place of Kafka, which is away since %s", when(self.away_wall_ms))
        self._again_s = time.monotonic() + (BATCH_AGAIN_S if self.source == "spool" else AGAIN_S)

    def _there(self) -> None:
        """Kafka can be read."""
        if not self.away_wall_ms:
            return
        log.info("Kafka is read again, after: %s", self.trouble or f"it was away since {when(self.away_wall_ms)}")
        if self.source == "spool":
            self.source, self.since_wall_ms = "kafka", wall_ms()
        self.away_wall_ms, self.trouble = 0, ""
        self._log.append_with((), {"away": "0", "batch": "0"})

    # Small parts ------------------------------------------------------------------------------------------------------

    def _store(self, events: Iterable[AnyEvent], marks: dict[str, str]) -> int:
        counted = {"unreadable": str(self.unreadable), "gaps": str(self.gaps)}
        stored = self._log.append_with(events, marks | counted).values()
        added, again = sum(part.added for part in stored), sum(part.duplicates for part in stored)
        self.stored, self.duplicates = self.stored + added, self.duplicates + again
        return added

    def _look_anew(self) -> None:
        """Before anything else is read; the connection may be another one then."""
        self._looked_s, self._positions = float("-inf"), {}

    def _committed_by_relay(self) -> dict[str, int]:
        """Nothing where that cannot be told: a spool that is damaged keeps nobody from reading what Kafka has."""
        try:
            self._spool = opened(self.home.log, self._spool)
            return {topic: self._spool.committed(topic, RELAY) for topic in TOPICS} if self._spool else {}
        except LogError:
            return {}


class Start(NamedTuple):
    """Where to read on in a partition. lost: whether Kafka may have lost something before it was read; gap: what it
    dropped."""

    position: int
    lost: bool = False
    gap: Unreadable | None = None


def _start(place: Place, span: Span, mark: str) -> Start:
    """At its beginning where it is new, or another one than was read; else where its mark says."""
    made, _, position = mark.rpartition(":")
    if not position:
        return Start(span.first)
    read, where = int(position), _where(place)
    if made != span.made or read > span.end:
        cause = "its topic was made anew" if made != span.made else f"it ends at {span.end}, before {read}"
        log.warning("%s is read from its beginning, since %s; what comes again is dropped", where, cause)
        return Start(span.first, lost=True)
    if read >= span.first:
        return Start(read)
    reason = f"offsets {read} to {span.first - 1} were dropped by Kafka before they were read: see its retention"
    log.warning("%s: %s", where, reason)
    return Start(span.first, lost=True, gap=unreadable(None, where, read, reason, f"gap {where}"))


def _judged(record: Stored, latest_ms: int) -> AnyEvent | str:
    """The record's event, or why it is none of its topic."""
    if record.value is not None and len(record.value) > LARGEST:
        return f"its {len(record.value):,} bytes are more than {LARGEST:,}; here are the first {KEPT:,}"
    topic, where = record.place.topic, _where(record.place)
    event = decode(record.value, where, record.offset)
    if isinstance(event, Unreadable) and event.source == where:
        return event.reason
    if event.topic != topic:
        return f"kind is {event.kind}, and topic {topic} has none of these"
    if topic == EVENTS and event.ts > latest_ms:
        return f"ts {event.ts} ({when(event.ts)}) is in the future"
    return event


def _where(place: Place) -> str:
    return f"kafka {place.topic}, partition {place.partition}"


def _mark(place: Place) -> str:
    return f"kafka/{place.topic}/{place.partition}"


def _marks(positions: dict[Place, int], spans: dict[Place, Span]) -> dict[str, str]:
    return {_mark(place): f"{spans[place].made}:{position}" for place, position in positions.items()}

"""Lines from a topic in Kafka that is the streaming site's own: a consumer group's share of it, batch by batch.

Positions are the group's, kept in Kafka, and committed by whoever read when what was read is stored; so a line may come
twice and none is passed over. What retention had removed before it was read is told as a gap. A partition that appears
later is read from its beginning, wherever the group itself began.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Literal, NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, OffsetAndMetadata, TopicPartition, errors

from conf.sections.kafka import Kafka
from events.kafka_link import KafkaAway, KafkaError, client, of_all, plain_errors

Start = Literal["beginning", "end"]

LEFT_AFTER_MS = 10_000  # a member that is silent for so long has left, and others take over its partitions
AT_ONCE = 2000  # lines of one batch
NO_SUCH = (3, 17)  # Kafka's codes: a topic that is not there, a name that none can have
REJOINING = (  # why a commit fails while the partitions are shared out anew
    errors.CommitFailedError,
    errors.IllegalGenerationError,
    errors.RebalanceInProgressError,
    errors.UnknownMemberIdError,
)


class Line(NamedTuple):
    partition: int
    offset: int
    raw: bytes | None


class Gap(NamedTuple):
    """Offsets of a partition that were removed before they were read."""

    partition: int
    first: int
    missing: int


class Batch(NamedTuple):
    lines: list[Line]
    gaps: list[Gap]


class Topic:
    """A reader of the topic, together with all others of its group. Every method may raise KafkaError, with a plain
    sentence; KafkaAway where the same call may work later."""

    def __init__(self, conf: Kafka, name: str, group: str, start: Start) -> None:
        self.name, self._conf = name, conf
        self._admin: KafkaAdminClient | None = None
        self._id, partitions = self._described()
        self._given: dict[TopicPartition, int] = {}  # by `read`, up to and not with this offset
        self._owed: dict[TopicPartition, int] = {}  # of that, what is stored and not committed
        self._topic = [TopicPartition(name, number) for number in partitions]
        of_group = {
            "group_id": group,
            "enable_auto_commit": False,
            "auto_offset_reset": "none",  # where to go on is decided here, and told
            "allow_auto_create_topics": False,
            "isolation_level": "read_committed",  # what a producer took back has not happened
            "max_poll_records": AT_ONCE,
            "session_timeout_ms": LEFT_AFTER_MS,
            "heartbeat_interval_ms": LEFT_AFTER_MS // 4,
        }
        with self._plain():
            self._consumer = KafkaConsumer(**client(conf, **of_group))
            try:
                self._begin(start)
                self.end = self._ends(self._topic)  # what was there at the start
                self._consumer.subscribe([name])
            except BaseException:
                self._consumer.close(timeout_ms=0)
                raise

    def read(self, wait_s: float) -> Batch:
        """What is new, waiting for it up to `wait_s`."""
        self._settle()
        try:
            with self._plain():
                found = self._polled(int(wait_s * 1000))
        except KafkaAway:  # `behind` says so
            time.sleep(wait_s)
            return Batch([], [])
        if isinstance(found, list):
            return Batch([], found)
        self._given |= {part: records[-1].offset + 1 for part, records in found.items() if records}
        return Batch([Line(r.partition, r.offset, r.value) for part in found.values() for r in part], [])

    def commit(self) -> None:
        """All that `read` has given is stored. What cannot be committed now is later, or read again."""
        self._owed |= self._given
        self._given = {}
        self._settle()

    def behind(self) -> int:
        """How many lines of its own partitions it has not read. Where the topic was made anew, it begins anew."""
        made, _ = self._described()
        with self._plain():
            mine = self._consumer.assignment()
            if made != self._id:
                self._begin_again(mine)
                self._id = made
            ends = self._ends(mine)
            return sum(max(0, ends[part] - self._at(part)) for part in mine)

    def at_the_end(self) -> bool:
        """Whether the group has read everything that was there when this reader began."""
        if self._owed:
            return False
        with self._plain():
            mine = self._consumer.assignment()
            return all((self._at(p) if p in mine else self._committed(p)) >= end for p, end in self.end.items() if end)

    def close(self) -> None:
        """Leave the group, so that others take over at once."""
        with suppress(errors.KafkaError, KafkaError):  # they notice by themselves
            self._settle()
            self._consumer.close(timeout_ms=self._timeout_ms)
        self._let_go()

    @property
    def _timeout_ms(self) -> int:
        return int(self._conf.timeout_s * 1000)

    def _begin(self, start: Start) -> None:
        """Where nothing was ever committed, commit where the group is to begin, before anybody reads."""
        self._consumer.assign(self._topic)
        if all(self._committed(part) < 0 for part in self._topic):
            places = self._ends(self._topic) if start == "end" else self._beginnings(self._topic)
            with suppress(*REJOINING):  # another reader of the group was quicker
                self._consumer.commit({p: OffsetAndMetadata(at, "", -1) for p, at in places.items()}, self._timeout_ms)
        self._consumer.unsubscribe()

    def _settle(self) -> None:
        """Commit what is owed, of the partitions that are still its own: who has the others reads it again."""
        mine = self._consumer.assignment()
        self._owed = {part: at for part, at in self._owed.items() if part in mine}
        if not self._owed:
            return
        try:
            with self._plain():
                places = {part: OffsetAndMetadata(at, "", -1) for part, at in self._owed.items()}
                self._consumer.commit(places, self._timeout_ms)
            self._owed = {}
        except KafkaAway:
            pass
        except KafkaError as why:
            if not isinstance(why.__cause__, REJOINING):
                raise

    def _polled(self, wait_ms: int) -> Mapping[TopicPartition, list[Any]] | list[Gap]:
        """Records; or the gaps that are now behind it."""
        try:
            return self._consumer.poll(timeout_ms=wait_ms)
        except errors.NoOffsetForPartitionError:  # new partitions, as old ones have positions since the group began
            wanted = {part: 0 for part in self._consumer.assignment() if self._committed(part) < 0}
        except errors.OffsetOutOfRangeError as why:
            wanted = why.args[0]
        except errors.LogTruncationError as why:
            self._begin_again(why.divergent_offsets)
            return []
        first = self._begin_again(wanted)
        return [Gap(p.partition, at, first[p] - at) for p, at in wanted.items() if at < first[p]]

    def _begin_again(self, parts: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """From the beginning of what is there of these partitions, which is told: what comes again adds nothing."""
        first = self._beginnings(parts)
        for part, at in first.items():
            self._consumer.seek(part, at)
            self._given[part] = at
            self._owed.pop(part, None)
        return first

    def _committed(self, part: TopicPartition) -> int:
        """-1 before the first commit."""
        at = self._consumer.committed(part, timeout_ms=self._timeout_ms)
        return -1 if at is None else at

    def _at(self, part: TopicPartition) -> int:
        """0 where that is not settled yet: the next poll says why."""
        try:
            return self._consumer.position(part, timeout_ms=self._timeout_ms) or 0
        except errors.NoOffsetForPartitionError:
            return 0
        except errors.LogTruncationError as why:
            self._begin_again(why.divergent_offsets)
            return 0

    def _beginnings(self, parts: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        asked = partial(self._consumer.beginning_offsets, list(parts), timeout_ms=self._timeout_ms)
        return of_all(asked, self._conf.timeout_s) if parts else {}

    def _ends(self, parts: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        asked = partial(self._consumer.end_offsets, list(parts), timeout_ms=self._timeout_ms)
        return of_all(asked, self._conf.timeout_s) if parts else {}

    def _described(self) -> tuple[str, list[int]]:
        """The id that the topic got when it was made, and its partitions. KafkaError where there is none."""
        with self._plain():
            if self._admin is None:
                self._admin = KafkaAdminClient(**client(self._conf))
            try:
                found = self._admin.describe_topics([self.name])[0]
            except BaseException:
                self._let_go()
                raise
        if found["error_code"] in NO_SUCH:
            raise KafkaError(f"Kafka at {self._conf.servers} has no topic {self.name}: is the name right?")
        if found["error_code"]:
            with self._plain():
                raise errors.for_code(found["error_code"])
        return found["topic_id"], sorted(part["partition_index"] for part in found["partitions"])

    def _let_go(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    @contextmanager
    def _plain(self) -> Iterator[None]:
        with plain_errors(self._conf, f"reading the topic {self.name}"):
            yield

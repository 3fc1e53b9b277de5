"""All partitions of Greenlight's topics in Kafka, read side by side by one who keeps the positions himself.

Partitions are assigned, not subscribed to: no group, so nothing is handed around. `look` is to be called often: it
finds new partitions, and says how far each one goes. For one thread; after an error everything is connected anew.
"""

from collections.abc import Mapping
from typing import NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.consumer.fetcher import ConsumerRecord

from conf.sections.kafka import Kafka
from events.event import TOPICS
from events.kafka_link import client, of_all, plain, plain_errors
from events.kafka_topics import ensure_topics, topic_name
from events.log import BATCH

FETCH_BYTES = 4 << 20  # of a partition at once; a larger record comes alone
POLL_MS = 250
MOVED = (kafka_errors.OffsetOutOfRangeError, kafka_errors.NoOffsetForPartitionError, kafka_errors.LogTruncationError)


class Place(NamedTuple):
    topic: str  # ours, without the prefix
    partition: int


class Span(NamedTuple):
    """What a partition holds: from `first` up to before `end`. made: changes when its topic is made anew."""

    first: int
    end: int
    made: str


class Seen(NamedTuple):
    """One look. cluster: its id."""

    cluster: str
    spans: dict[Place, Span]


class Stored(NamedTuple):
    """A record as Kafka has it; ts in ms."""

    place: Place
    offset: int
    ts: int
    value: bytes | None


class Moved(Exception):
    """A partition no longer holds what was to be read next: look again."""


class Partitions:
    """Every method may raise KafkaError, after `kafka.timeout_s` at the latest."""

    def __init__(self, conf: Kafka) -> None:
        self.conf = conf
        self._topics = {topic_name(conf, topic): topic for topic in TOPICS}
        self._admin: KafkaAdminClient | None = None
        self._consumer: KafkaConsumer | None = None

    def look(self) -> Seen:
        """How far every partition goes now. A topic that is missing is made."""
        try:
            with plain_errors(self.conf, "looking how far the topics go"):
                self._admin = self._admin or KafkaAdminClient(**client(self.conf))
                cluster = str(self._admin.describe_cluster()["cluster_id"])
                made = self._made(self._admin)
                reading, places = self._reading(), list(made)
                first = of_all(lambda: reading.beginning_offsets(places), self.conf.timeout_s)
                end = of_all(lambda: reading.end_offsets(places), self.conf.timeout_s)
                return Seen(cluster, {self._place(at): Span(first[at], end[at], made[at]) for at in places})
        except BaseException:
            self.close()
            raise

    def follow(self, positions: Mapping[Place, int]) -> None:
        """Read on from these positions, of each partition."""
        wanted = {TopicPartition(topic_name(self.conf, at.topic), at.partition): to for at, to in positions.items()}
        reading = self._reading()
        reading.assign(list(wanted))
        for at, position in wanted.items():
            reading.seek(at, position)

    def poll(self) -> tuple[list[Stored], dict[Place, int]]:
        """What comes next, each partition's records in order, and the positions after it; waits a little where there is
        nothing. Positions may go on without records. Moved where what was to come is not there any more."""
        try:
            reading = self._reading()
            found = reading.poll(POLL_MS, max_records=BATCH)
            reached = {self._place(at): reading.position(at) for at in reading.assignment()}
        except MOVED as why:
            raise Moved(str(why)) from why
        except kafka_errors.KafkaError as why:
            self.close()
            raise plain(self.conf, "reading", why) from why
        return [self._stored(record) for records in found.values() for record in records], reached

    def close(self) -> None:
        for each in (self._consumer, self._admin):
            if each is not None:
                each.close()
        self._consumer = self._admin = None

    def _made(self, admin: KafkaAdminClient) -> dict[TopicPartition, str]:
        """All partitions, and by which id Kafka knows their topic."""
        found = admin.describe_topics(list(self._topics))
        if any(each["error_code"] == kafka_errors.UnknownTopicOrPartitionError.errno for each in found):
            ensure_topics(self.conf)
            found = admin.describe_topics(list(self._topics))
        for each in found:
            if each["error_code"]:
                raise kafka_errors.for_code(each["error_code"])(each["name"])
        return {
            TopicPartition(each["name"], part["partition_index"]): str(each["topic_id"])
            for each in found
            for part in each["partitions"]
        }

    def _reading(self) -> KafkaConsumer:
        if self._consumer is None:
            more = {"auto_offset_reset": "none", "enable_auto_commit": False, "allow_auto_create_topics": False}
            sizes = {"max_partition_fetch_bytes": FETCH_BYTES, "metrics_enabled": False}
            self._consumer = KafkaConsumer(**client(self.conf, **more, **sizes))
        return self._consumer

    def _place(self, at: TopicPartition) -> Place:
        return Place(self._topics[at.topic], at.partition)

    def _stored(self, record: ConsumerRecord) -> Stored:
        return Stored(
            Place(self._topics[record.topic], record.partition), record.offset, record.timestamp, record.value
        )

"""One process's connections to Kafka for reading: how far topics go, how far groups are, and the records themselves.

A client of kafka-python remembers who leads what; after an error it is made anew. What may pass by itself (a broker
that restarts, a group whose coordinator moves) is tried again until `kafka.timeout_s` is over.
"""

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaTimeoutError, NoError, RetriableError, UnknownTopicOrPartitionError
from kafka.structs import OffsetAndMetadata

from conf.settings import Kafka
from events.kafka_link import KafkaError, client, plain_errors
from events.kafka_places import PARTITIONS, Positions

POLL_MS = 200
PAUSE_S = 0.1  # between two tries
FETCH_BYTES = 4 << 20  # of a partition at once; a larger record comes alone

T = TypeVar("T")


class Bounds(NamedTuple):
    """Of a partition: the first position that it still holds, and that of the next record to come."""

    first: int
    end: int


class Clients:
    """For one thread at a time."""

    def __init__(self, conf: Kafka) -> None:
        self.conf = conf
        self._admin: KafkaAdminClient | None = None
        self._consumer: KafkaConsumer | None = None
        self._at: dict[TopicPartition, int] = {}  # where the consumer stands

    def bounds(self, name: str) -> dict[int, Bounds]:
        """Of each partition that the topic has now; empty where there is no such topic."""

        def ask() -> dict[int, Bounds]:
            found = self._asking().describe_topics([name])[0]
            if found["error_code"] == UnknownTopicOrPartitionError.errno:
                return {}
            partitions = [TopicPartition(name, each["partition_index"]) for each in found["partitions"]]
            reading = self._reading()
            first, end = reading.beginning_offsets(partitions), reading.end_offsets(partitions)
            return {at.partition: Bounds(first[at], end[at]) for at in partitions}

        partitions = self._tried(ask, f"looking how far {name} goes")
        if len(partitions) > PARTITIONS:
            raise KafkaError(f"topic {name} has {len(partitions)} partitions: Greenlight reads at most {PARTITIONS}")
        return partitions

    def committed(self, name: str, group: str) -> Positions:
        """How far a group is, in the partitions in which it has read."""

        def ask() -> Positions:
            found = self._asking().list_group_offsets({group: None})[group]
            return {at.partition: kept.offset for at, kept in found.items() if at.topic == name and kept.offset >= 0}

        return self._tried(ask, f"looking how far group {group} is")

    def commit(self, name: str, group: str, reached: Positions) -> None:
        """Say how far a group is. Nobody else may be reading as a member of it."""
        offsets = {TopicPartition(name, at): OffsetAndMetadata(position, "", -1) for at, position in reached.items()}

        def ask() -> None:
            for refusal in self._asking().alter_group_offsets(group, offsets).values():
                if refusal is not NoError:
                    raise refusal()

        self._tried(ask, f"committing how far group {group} is")

    def fetch(self, name: str, start: Positions, limit: int) -> tuple[list[ConsumerRecord], Positions]:
        """Some records from `start` on, each partition's in order, and the positions after them.

        Positions may go on without records: those of transactions, or those that compaction took away.
        """

        def ask() -> tuple[list[ConsumerRecord], Positions]:
            reading = self._placed(name, start)
            until = time.monotonic() + self.conf.timeout_s
            while time.monotonic() < until:
                found = reading.poll(POLL_MS, max_records=limit)
                self._at = {at: reading.position(at) for at in self._at}
                reached = {at.partition: position for at, position in self._at.items()}
                if reached != start:
                    return [record for records in found.values() for record in records], reached
            raise KafkaTimeoutError(name)

        return self._tried(ask, f"reading {name}")

    def close(self) -> None:
        """Both connections; what is asked next makes them anew."""
        for each in (self._consumer, self._admin):
            if each is not None:
                each.close()
        self._consumer = self._admin = None
        self._at = {}

    def _placed(self, name: str, start: Positions) -> KafkaConsumer:
        """The consumer, at these positions. What it has fetched ahead is kept where it stands there already."""
        reading, wanted = self._reading(), {TopicPartition(name, at): position for at, position in start.items()}
        if wanted.keys() != self._at.keys():
            reading.assign(list(wanted))
        for at, position in wanted.items():
            if self._at.get(at) != position:
                reading.seek(at, position)
        self._at = wanted
        return reading

    def _asking(self) -> KafkaAdminClient:
        self._admin = self._admin or KafkaAdminClient(**client(self.conf))
        return self._admin

    def _reading(self) -> KafkaConsumer:
        if self._consumer is None:
            more = {"auto_offset_reset": "none", "enable_auto_commit": False, "allow_auto_create_topics": False}
            self._consumer = KafkaConsumer(
                **client(self.conf, max_partition_fetch_bytes=FETCH_BYTES, metrics_enabled=False, **more)
            )
        return self._consumer

    def _tried(self, ask: Callable[[], T], doing: str) -> T:
        """What `ask` finds. KafkaError where it is refused, or fails until the time is over."""
        until = time.monotonic() + self.conf.timeout_s
        with plain_errors(self.conf, doing):
            while True:
                try:
                    return ask()
                except RetriableError:
                    self.close()
                    if time.monotonic() > until:
                        raise
                    time.sleep(PAUSE_S)
                except BaseException:
                    self.close()
                    raise

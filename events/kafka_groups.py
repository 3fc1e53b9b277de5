"""How far consumer groups are in Kafka: it keeps an offset for each group, topic and partition.

Nobody joins a group here: one who reads all partitions himself only says how far he is.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import NoError, RetriableError
from kafka.structs import OffsetAndMetadata

from conf.sections.kafka import Kafka
from events.kafka_link import client, plain_errors
from events.kafka_places import Positions
from events.kafka_topics import topic_name

PAUSE_S = 0.1  # between two tries: who keeps the offsets of a group may be moving

T = TypeVar("T")


class Groups:
    """For one thread at a time. KafkaError after `kafka.timeout_s` at the latest."""

    def __init__(self, conf: Kafka) -> None:
        self.conf = conf
        self._admin: KafkaAdminClient | None = None

    def committed(self, topic: str, group: str) -> Positions:
        """How far a group is, in the partitions in which it has read."""
        name, named = topic_name(self.conf, topic), self.name(group)

        def ask(admin: KafkaAdminClient) -> Positions:
            found = admin.list_group_offsets({named: None})[named]
            return {at.partition: kept.offset for at, kept in found.items() if at.topic == name and kept.offset >= 0}

        return self._tried(ask, f"looking how far group {named} is")

    def advance(self, topic: str, group: str, reached: Positions) -> None:
        """Say how far a group is; what it has passed stays passed."""
        before, name, named = self.committed(topic, group), topic_name(self.conf, topic), self.name(group)
        offsets = {
            TopicPartition(name, at): OffsetAndMetadata(position, "", -1)
            for at, position in reached.items()
            if position > before.get(at, 0)
        }

        def ask(admin: KafkaAdminClient) -> None:
            for refusal in admin.alter_group_offsets(named, offsets).values():
                if refusal is not NoError:
                    raise refusal()

        self._tried(ask, f"committing how far group {named} is")

    def name(self, group: str) -> str:
        """What Kafka calls one of our groups."""
        return f"{self.conf.topic_prefix}.{group}"

    def close(self) -> None:
        if self._admin is not None:
            self._admin.close()
        self._admin = None

    def _tried(self, ask: Callable[[KafkaAdminClient], T], doing: str) -> T:
        """What may pass by itself is tried again, with a new client: the old one remembers whom to ask."""
        until = time.monotonic() + self.conf.timeout_s
        with plain_errors(self.conf, doing):
            while True:
                try:
                    self._admin = self._admin or KafkaAdminClient(**client(self.conf))
                    return ask(self._admin)
                except RetriableError:
                    self.close()
                    if time.monotonic() > until:
                        raise
                    time.sleep(PAUSE_S)
                except BaseException:
                    self.close()
                    raise

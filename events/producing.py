"""One producer of Kafka, used so that order per key survives every failure.

kafka-python sends what comes after a record that failed: sent again later, that record would stand behind its
successors. Here the first failure stops the producer, in its own thread and before it sends anything more. What Kafka
has of a partition is then always a beginning of what was handed over; whoever hands over again, in the same order and
from the first record that was not delivered, adds only duplicates, and each key's first ones are in order.
"""

import logging
from contextlib import suppress
from typing import NamedTuple

from kafka import KafkaProducer
from kafka.errors import (
    InvalidRecordError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
from kafka.producer.future import FutureRecordMetadata

from conf.sections.kafka import Kafka
from events.kafka_link import client, plain_errors

BATCH_BYTES = 64 << 10  # of a partition and request: few enough to pass a slow line within a request's time
LINGER_MS = 5  # a batch waits so long for company
EXPIRY = 10  # times `timeout_s`, until the producer gives a record up; who uses it gives up long before
CLOSE_S = 5.0
REFUSED = (MessageSizeTooLargeError, RecordListTooLargeError, InvalidRecordError)  # for what the record is

logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters comes as an error, and is said once


class Failure(NamedTuple):
    """A record that was not delivered. itself: the broker refuses it for what it is, or for what stands beside it."""

    topic: str
    offset: int
    why: BaseException

    @property
    def itself(self) -> bool:
        return isinstance(self.why, REFUSED)


class Producing:
    """Idempotent, acknowledged by every replica in sync. For one thread. KafkaError (ours) where no broker answers."""

    def __init__(self, conf: Kafka) -> None:
        timeout_ms = int(conf.timeout_s * 1000)
        options = client(
            conf,
            acks="all",
            enable_idempotence=True,
            batch_size=BATCH_BYTES,
            linger_ms=LINGER_MS,
            delivery_timeout_ms=EXPIRY * timeout_ms,
            max_block_ms=timeout_ms,
            metrics_enabled=False,
        )
        self._failures: list[Failure] = []
        with plain_errors(conf, "connecting to it"):
            self._producer = KafkaProducer(**options)

    def send(self, name: str, key: bytes, body: bytes, topic: str, offset: int) -> FutureRecordMetadata:
        """Hand over a record for the Kafka topic `name`. kafka.errors.KafkaError where it cannot even be handed over;
        one of `REFUSED` where it is too large."""
        future = self._producer.send(name, body, key)
        future.add_errback(self._stop, topic, offset)
        return future

    @property
    def stopped(self) -> bool:
        """Whether something failed, so that nothing more is sent."""
        return bool(self._failures)

    def close(self) -> list[Failure]:
        """End it, whatever is under way; what failed because of itself, first the one with which it began."""
        self._producer._sender.force_close()  # `close` alone waits for what is under way, or refuses to close
        with suppress(KafkaError, KafkaTimeoutError):
            self._producer.close(CLOSE_S)
        return self._failures

    def _stop(self, topic: str, offset: int, why: BaseException) -> None:
        """In the producer's thread."""
        self._failures.append(Failure(topic, offset, why))
        self._producer._sender.force_close()

"""Greenlight's topics in Kafka: what they are called, how they are made where they are missing, and in which cluster.

A cluster is known by the id that it gave itself. Positions in one mean nothing in another: a home keeps the id beside
them, and refuses a cluster with another id at the same address instead of reading that one from the beginning.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import TopicAlreadyExistsError

from conf.sections.kafka import Kafka
from events.disk import sync
from events.event import TOPICS
from events.kafka_link import KafkaError, client, plain_errors

BY_BROKERS_CLOCK = {"message.timestamp.type": "LogAppendTime"}  # else a clock an hour ahead of theirs is refused


def topic_name(conf: Kafka, topic: str) -> str:
    """What Kafka calls one of our topics."""
    return f"{conf.topic_prefix}.{topic}"


def ensure_topics(conf: Kafka) -> None:
    """Make the topics that are missing; those that are there stay as they are. KafkaError where that is impossible."""
    with _admin(conf, "looking which topics there are") as admin:
        there = set(admin.list_topics())
        for name in [name for topic in TOPICS if (name := topic_name(conf, topic)) not in there]:
            with plain_errors(conf, f"making the topic {name}, which is missing"):
                _make(admin, name, conf)


def cluster_id(conf: Kafka) -> str:
    """The id of the cluster that answers."""
    with _admin(conf, "asking for the id of the cluster") as admin:
        return str(admin.describe_cluster()["cluster_id"])


def same_cluster(conf: Kafka, note: Path) -> str:
    """The id of the cluster that answers, which `note` holds too: it is written at the first call. KafkaError where
    another cluster answers."""
    return known_cluster(conf, note, cluster_id(conf))


def known_cluster(conf: Kafka, note: Path, found: str) -> str:
    """As `same_cluster`, where the id of the one that answers was found already."""
    try:
        known = note.read_text(encoding="utf-8").strip() if note.exists() else ""
        known = known or _remember(note, found)  # an empty one is of a process that was killed here
    except (OSError, UnicodeDecodeError) as why:
        raise KafkaError(f"{note}, which holds the id of the Kafka cluster, cannot be read or written: {why}") from why
    if known != found:
        raise KafkaError(
            f"Kafka at {conf.servers} is cluster {found}, and this home belongs to cluster {known}: set kafka.servers "
            f"to that one, or remove {note} to go on with the new one from its beginning"
        )
    return found


def _remember(note: Path, found: str) -> str:
    """Several processes may do it at once: they write the same."""
    with note.open("w", encoding="utf-8") as file:
        file.write(f"{found}\n")
        file.flush()
        os.fsync(file.fileno())
    sync(note.parent)
    return found


def _make(admin: KafkaAdminClient, name: str, conf: Kafka) -> None:
    asked = {
        "num_partitions": conf.partitions,
        "replication_factor": conf.replication,
        "configs": BY_BROKERS_CLOCK,
    }
    try:
        admin.create_topics({name: asked}, wait_for_metadata=True)
    except TopicAlreadyExistsError:  # another was quicker
        admin.wait_for_topics([name])


@contextmanager
def _admin(conf: Kafka, doing: str) -> Iterator[KafkaAdminClient]:
    with plain_errors(conf, doing):
        admin = KafkaAdminClient(**client(conf))
        try:
            yield admin
        finally:
            admin.close()

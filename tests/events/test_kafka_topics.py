"""Topics that are missing are made as configured; a cluster is known again by its id."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient

from events.event import TOPICS
from events.kafka_link import KafkaAway, KafkaError, client
from events.kafka_topics import cluster_id, ensure_topics, same_cluster, topic_name

pytestmark = pytest.mark.server


def partitions(conf: Any) -> dict[str, int]:
    admin = KafkaAdminClient(**client(conf))
    try:
        names = [topic_name(conf, topic) for topic in TOPICS]
        return {found["name"]: len(found["partitions"]) for found in admin.describe_topics(names)}
    finally:
        admin.close()


def test_missing_topics_are_made_and_the_others_stay_as_they_are(kafka: Any) -> None:
    prefix = str(uuid.uuid4())
    two, five = (kafka.conf(topic_prefix=prefix, partitions=count) for count in (2, 5))
    ensure_topics(two)
    ensure_topics(five)
    assert partitions(five) == {f"{prefix}.{topic}": 2 for topic in TOPICS}


def test_more_copies_than_there_are_brokers(kafka: Any) -> None:
    with pytest.raises(KafkaError, match=r"fewer brokers than kafka\.replication 2 asks for, while making"):
        ensure_topics(kafka.conf(topic_prefix=str(uuid.uuid4()), replication=2))


def test_another_cluster_at_the_same_address_is_refused(kafka: Any, tmp_path: Path) -> None:
    note = tmp_path / "cluster"
    assert same_cluster(kafka.conf(), note) == same_cluster(kafka.conf(), note) == cluster_id(kafka.conf())
    note.write_text("another-one\n")
    with pytest.raises(KafkaError, match="this home belongs to cluster another-one"):
        same_cluster(kafka.conf(), note)


def test_a_note_of_the_cluster_that_was_cut_off_is_written_again(kafka: Any, tmp_path: Path) -> None:
    (note := tmp_path / "cluster").touch()
    assert same_cluster(kafka.conf(), note) == note.read_text().strip() == cluster_id(kafka.conf())


def test_nobody_answers(kafka: Any) -> None:
    with pytest.raises(KafkaAway, match=r"Kafka at 127\.0\.0\.1:1 does not answer within 1 s while looking"):
        ensure_topics(kafka.conf(servers="127.0.0.1:1", timeout_s=1))

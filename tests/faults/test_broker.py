"""The real broker that tests of Kafka rest on: there once per run, and it comes back with its data."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic

from conf.sections.kafka import Kafka
from events.kafka_link import client
from models.shelf import load_file

broker = load_file(Path(__file__).with_name("broker.py"))


def send(conf: Kafka, topic: str, value: bytes) -> int:
    """Offset of what the broker acknowledged."""
    producer = KafkaProducer(**client(conf))
    try:
        return producer.send(topic, value).get(60).offset
    finally:
        producer.close()


@pytest.mark.server
def test_a_record_is_acknowledged(kafka: Any) -> None:
    topic = str(uuid.uuid4())
    admin = KafkaAdminClient(**client(kafka.conf()))
    admin.create_topics([NewTopic(topic, 1, 1)])
    admin.close()
    assert [send(kafka.conf(), topic, b"one"), send(kafka.conf(), topic, b"two")] == [0, 1]

"""KafkaLog where Kafka is not like a file: several partitions, other writers, topics that lose records or grow."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import NewPartitions

from conf.sections.kafka import Kafka
from events.codecs import encode
from events.event import DEAD_LETTER, EVENTS, Account, Movie, Unreadable
from events.kafka_link import KafkaError, client
from events.kafka_log import KafkaLog, key_of
from events.kafka_topics import topic_name
from models.shelf import load_file

pytestmark = pytest.mark.server


@pytest.fixture
def conf(kafka: Any) -> Kafka:
    return kafka.conf(topic_prefix=str(uuid.uuid4()))


@pytest.fixture
def log(conf: Kafka) -> Iterator[KafkaLog]:
    opened = KafkaLog(conf)
    yield opened
    opened.close()


@pytest.fixture
def admin(conf: Kafka) -> Iterator[KafkaAdminClient]:
    opened = KafkaAdminClient(**client(conf))
    yield opened
    opened.close()


def accounts(first: int, end: int, users: int = 10) -> list[Account]:
    return [Account(event_id=f"e{n}", ts=n, user_id=f"u{n % users}") for n in range(first, end)]


def foreign(conf: Kafka, *values: bytes | None, key: bytes = b"k", partition: int | None = None) -> None:
    """Records of someone who knows nothing of us."""
    producer = KafkaProducer(**client(conf, max_request_size=20 << 20))
    for value in values:
        producer.send(topic_name(conf, EVENTS), value, key, partition=partition).get(60)
    producer.close()


def drained(conf: Kafka, limit: int, group: str = "g") -> list[Account]:
    """All that a group has to read, each batch by a process of its own that commits it."""
    found: list[Account] = []
    while True:
        log = KafkaLog(conf)
        records = log.read(EVENTS, group, limit)
        if records:
            log.commit(EVENTS, group, records[-1].offset)
        log.close()
        found += [record.event for record in records]
        if not records:
            return found


def test_many_viewers_over_several_partitions_each_once_and_in_order(conf: Kafka, log: KafkaLog) -> None:
    sent = accounts(0, 200)
    log.append(EVENTS, sent)
    found = drained(conf, 70)
    assert sorted(e.event_id for e in found) == sorted(e.event_id for e in sent)
    for user in {e.user_id for e in sent}:
        assert [e for e in found if e.user_id == user] == [e for e in sent if e.user_id == user]
    assert log.lag(EVENTS, "g") == 0


def test_a_commit_in_the_middle_keeps_what_was_given_after_it(conf: Kafka, log: KafkaLog) -> None:
    log.append(EVENTS, accounts(0, 60))
    records = log.read(EVENTS, "g")
    log.commit(EVENTS, "g", records[40].offset)
    assert {e.event_id for e in drained(conf, 100)} == {r.event.event_id for r in records[41:]}


def test_an_offset_that_this_reader_was_not_given_never_skips_another_partition(conf: Kafka, log: KafkaLog) -> None:
    log.append(EVENTS, accounts(0, 60))
    records = log.read(EVENTS, "g")
    other = KafkaLog(conf)
    other.commit(EVENTS, "g", records[-1].offset)
    other.close()
    left = {e.event_id for e in drained(conf, 100)}
    assert {r.event.event_id for r in records} > left > set()


def test_an_id_that_others_sent_again_is_given_once(conf: Kafka, log: KafkaLog) -> None:
    log.append(EVENTS, accounts(0, 3, users=1))
    again = [encode(event).encode() for event in accounts(1, 3, users=1)]
    foreign(conf, *again, key=key_of(accounts(0, 1)[0]))
    first = log.read(EVENTS, "g", 3)
    assert [r.event.event_id for r in first] == ["e0", "e1", "e2"]
    log.commit(EVENTS, "g", first[1].offset)
    assert [r.event.event_id for r in log.read(EVENTS, "g", 1)] == ["e2"]
    log.commit(EVENTS, "g", first[2].offset)
    assert log.read(EVENTS, "g") == []
    assert log.lag(EVENTS, "g") == 0  # the repetitions count as read


def test_new_partitions_are_read_from_their_beginning(conf: Kafka, log: KafkaLog, admin: KafkaAdminClient) -> None:
    log.append(EVENTS, accounts(0, 100))
    found = [r.event for r in log.read(EVENTS, "g")]
    log.commit(EVENTS, "g", log.read(EVENTS, "g")[-1].offset)
    admin.create_partitions({topic_name(conf, EVENTS): NewPartitions(6)})
    writer = KafkaLog(conf)  # it sees all six
    writer.append(EVENTS, accounts(100, 200))
    writer.close()
    found += drained(conf, 40)
    assert sorted(e.event_id for e in found) == sorted(e.event_id for e in accounts(0, 200))


def test_what_is_no_event_goes_to_the_dead_letter_with_its_place(conf: Kafka, log: KafkaLog) -> None:
    log.append(EVENTS, accounts(0, 2))
    foreign(conf, b"\xff\x00", b"{}", None, partition=1)
    kinds = [type(record.event) for record in log.read(EVENTS, "g")]
    assert kinds.count(Account) == 2
    assert kinds.count(Unreadable) == 3
    log.read(EVENTS, "g")
    dead = [r.event for r in log.read(DEAD_LETTER, "g")]
    assert {event.source for event in dead if isinstance(event, Unreadable)} == {
        f"{topic_name(conf, EVENTS)}, partition 1"
    }
    assert len(dead) == 3


def test_records_that_kafka_dropped_unread_are_noted(conf: Kafka, log: KafkaLog, admin: KafkaAdminClient) -> None:
    log.append(EVENTS, accounts(0, 10, users=1))
    records = log.read(EVENTS, "g", 4)
    log.commit(EVENTS, "g", records[-1].offset)
    partition = (records[0].offset - 1) % 1024
    admin.delete_records({TopicPartition(topic_name(conf, EVENTS), partition): 7})
    assert [r.event.event_id for r in log.read(EVENTS, "g")] == ["e7", "e8", "e9"]
    (dead,) = (r.event for r in log.read(DEAD_LETTER, "g"))
    assert isinstance(dead, Unreadable)
    assert dead.reason == "records 4 to 6 were dropped by Kafka before they were read"


def test_a_topic_that_was_made_anew_is_refused(conf: Kafka, log: KafkaLog, admin: KafkaAdminClient) -> None:
    log.append(EVENTS, accounts(0, 5, users=1))
    log.commit(EVENTS, "g", log.read(EVENTS, "g")[-1].offset)
    held = admin.list_group_offsets({f"{conf.topic_prefix}.g": None})
    admin.delete_topics([topic_name(conf, EVENTS)])
    fresh = KafkaLog(conf)
    fresh.append(EVENTS, accounts(5, 6, users=1))
    for group, offsets in held.items():  # Kafka forgets them with the topic; a restored one does not
        admin.alter_group_offsets(group, offsets)
    with pytest.raises(KafkaError, match="has read up to 5: the topic was made anew or has lost records"):
        fresh.read(EVENTS, "g")
    fresh.close()


def test_a_message_of_ten_mebibytes(conf: Kafka, log: KafkaLog, admin: KafkaAdminClient) -> None:
    with pytest.raises(KafkaError, match="a record is larger than 1 MiB or than the topic takes"):
        log.append(EVENTS, [Movie(event_id="large", movie_id="m", title="x" * (10 << 20))])
    assert log.append(EVENTS, accounts(0, 1)) == (1, 0)
    admin.alter_configs([_larger(topic_name(conf, EVENTS))])
    foreign(conf, b"x" * (10 << 20))
    found = [r.event for r in log.read(EVENTS, "g")]
    assert {type(event) for event in found} == {Account, Unreadable}
    (dead,) = (r.event for r in log.read(DEAD_LETTER, "g"))
    assert isinstance(dead, Unreadable)
    assert dead.reason.endswith("(here are 100000 of its 10485760 characters)")


def _larger(name: str) -> Any:
    from kafka.admin import ConfigResource, ConfigResourceType

    return ConfigResource(ConfigResourceType.TOPIC, name, configs={"max.message.bytes": str(20 << 20)})


@pytest.mark.long  # the drill `broker-killed` has a short form
def test_a_broker_that_is_killed_loses_nothing_that_was_acknowledged(kafka: Any, tmp_path: Path) -> None:
    with load_file(Path(__file__).parents[1] / "faults" / "broker.py").Broker(tmp_path) as broker:
        log = KafkaLog(broker.conf(timeout_s=3))
        log.append(EVENTS, accounts(0, 50))
        broker.kill()
        with pytest.raises(KafkaError):
            log.append(EVENTS, accounts(50, 60))
        with pytest.raises(KafkaError):
            log.read(EVENTS, "g")
        broker.start()
        log.append(EVENTS, accounts(50, 60))
        assert {r.event.event_id for r in log.read(EVENTS, "g")} == {e.event_id for e in accounts(0, 60)}
        log.close()

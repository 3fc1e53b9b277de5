"""`data follow` against a real broker: what the site wrote, whatever it wrote, once."""

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ACL, ACLOperation, ACLPermissionType, OffsetSpec, ResourcePattern, ResourceType

from conf.home import Home
from conf.settings import Settings
from events.event import DEAD_LETTER, EVENTS, AnyEvent, Rating, Unreadable, Watch
from events.kafka_link import KafkaAway, KafkaError, client
from events.local_log import LocalLog
from models.shelf import load_file
from pipelines import health
from pipelines.broker import Node
from pipelines.follow import Followed, FollowError, follow
from pipelines.health import Part
from pipelines.outbox import letters

pytestmark = pytest.mark.server

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 120.0
Produce = Callable[..., None]


@pytest.fixture
def admin(kafka: Any) -> Iterator[KafkaAdminClient]:
    made = KafkaAdminClient(**client(kafka.conf()))
    yield made
    made.close()


@pytest.fixture
def topic(admin: KafkaAdminClient) -> str:
    return make(admin, 1)


@pytest.fixture
def produce(kafka: Any, topic: str) -> Iterator[Produce]:
    """produce(values): and they are in the topic."""
    producer = KafkaProducer(**client(kafka.conf()))

    def send(*values: bytes | str | None) -> None:
        for value in values:
            producer.send(topic, value=value.encode() if isinstance(value, str) else value, key=b"site")
        producer.flush(30)

    yield send
    producer.close()


def make(admin: KafkaAdminClient, partitions: int, **configs: str) -> str:
    name = f"movielog-{uuid.uuid4()}"
    asked = {"num_partitions": partitions, "replication_factor": 1, "configs": configs}
    admin.create_topics({name: asked}, wait_for_metadata=True)
    return name


def once(home: Home, kafka: Any, topic: str, **how: Any) -> Followed:
    """Followed to the end that is there now."""
    until = time.monotonic() + PATIENCE_S
    settings = Settings(kafka=kafka.conf())
    done = follow(home, settings, topic, once=True, ended=lambda: time.monotonic() > until, **how)
    assert time.monotonic() < until, done
    return done


def stored(home: Home, topic: str = EVENTS) -> list[AnyEvent]:
    with LocalLog(home.log) as log:
        return [record.event for record in log.iterate(topic)]


def dead(home: Home) -> list[tuple[str, int, str]]:
    return [(e.source, e.line, e.reason) for e in stored(home, DEAD_LETTER) if isinstance(e, Unreadable)]


def line(n: int, minute: int = 0) -> str:
    return f"2025-03-08T12:00:00,{n},GET /data/m/the+matrix+1999/{minute}.mpg"


def test_evt_01_what_cannot_be_read_is_quarantined_and_the_rest_goes_on(
    home: Home, kafka: Any, topic: str, produce: Produce
) -> None:
    produce(b"\xff\xfe", None, "x,y", *(line(n) for n in range(10)))
    said: list[str] = []
    done = once(home, kafka, topic, say=said.append)
    assert (done.read, done.added, done.unreadable, done.duplicates, done.behind) == (13, 10, 3, 0, 0)
    assert [event.user_id for event in stored(home) if isinstance(event, Watch)] == [str(n) for n in range(10)]
    assert dead(home) == [
        (f"{topic}-0", 0, "byte 0xFF at position 1 is not UTF-8"),
        (f"{topic}-0", 1, "null value"),
        (f"{topic}-0", 2, "expected <time>,<userid>,<what happened>"),
    ]
    assert said == [f"3 more in the dead letter; the first: {topic}-0 at offset 0: {dead(home)[0][2]}"]
    assert [letter.subject for letter in letters(home)] == [f"{topic}: 3 in the dead letter"]


def test_it_goes_on_where_it_was_and_reading_again_adds_nothing(
    home: Home, kafka: Any, topic: str, produce: Produce
) -> None:
    produce(*(line(n) for n in range(5)), "x,y")
    assert once(home, kafka, topic).added == 5
    produce(line(5))
    again = once(home, kafka, topic)
    assert again.added == 1
    assert again.read < 7, "it begins where it was"
    other = once(home, kafka, topic, group=f"other-{topic}")
    assert (other.read, other.added, other.duplicates, other.unreadable) == (7, 0, 6, 1)
    assert len(stored(home)) == 6
    assert len(dead(home)) == 1


def test_once_ends_though_lines_come_all_the_time(home: Home, kafka: Any, topic: str, produce: Produce) -> None:
    produce(*(line(n) for n in range(5)))
    more, until = count(5), time.monotonic() + PATIENCE_S / 2

    def ended() -> bool:
        produce(line(next(more)))
        return time.monotonic() > until

    done = follow(home, Settings(kafka=kafka.conf()), topic, once=True, ended=ended)
    assert not ended(), done
    assert done.added >= 5


def test_what_a_producer_took_back_has_not_happened(home: Home, kafka: Any, topic: str) -> None:
    producer = KafkaProducer(**client(kafka.conf(), transactional_id=topic))
    producer.init_transactions()
    for n, end in enumerate([producer.commit_transaction, producer.abort_transaction]):
        producer.begin_transaction()
        producer.send(topic, line(n).encode()).get(30)
        end()
    producer.close()
    assert once(home, kafka, topic).behind == 0
    assert [event.user_id for event in stored(home) if isinstance(event, Watch)] == ["0"]


def test_another_home_reads_all_of_it_too_and_from_the_end_only_what_is_new(
    home: Home, tmp_path: Path, kafka: Any, topic: str, produce: Produce
) -> None:
    produce(*(line(n) for n in range(5)))
    other = Home(tmp_path / "other").open()
    assert once(home, kafka, topic).added == 5
    assert once(other, kafka, topic, start="end").read == 0
    produce(line(6))
    assert once(other, kafka, topic, start="end").added == once(home, kafka, topic).added == 1


def test_what_retention_removed_is_a_gap_that_is_counted_said_and_kept(
    home: Home, kafka: Any, topic: str, produce: Produce, admin: KafkaAdminClient
) -> None:
    produce(*(line(n) for n in range(3)))
    once(home, kafka, topic)
    produce(*(line(n) for n in range(3, 20)))
    admin.delete_records({TopicPartition(topic, 0): 10})
    said: list[str] = []
    done = once(home, kafka, topic, say=said.append)
    assert (done.gaps, done.missed, done.read, done.added) == (1, 7, 10, 10)
    missing = "a gap: offsets 3 to 9 were removed by the topic's retention before they were read"
    assert dead(home) == [(f"{topic}-0", 3, missing)]
    assert said == [f"1 more in the dead letter; the first: {topic}-0 at offset 3: {missing}"]
    assert once(home, kafka, topic).gaps == 0


def test_a_topic_made_anew_is_read_from_its_beginning(
    home: Home, kafka: Any, topic: str, produce: Produce, admin: KafkaAdminClient
) -> None:
    produce(*(line(n) for n in range(5)))
    once(home, kafka, topic)
    admin.delete_topics([topic])
    until = time.monotonic() + PATIENCE_S
    while topic in admin.list_topics() and time.monotonic() < until:
        time.sleep(0.1)
    admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    produce(*(line(n) for n in range(3, 10)))
    done = once(home, kafka, topic)
    assert (done.read, done.added, done.duplicates) == (7, 5, 2)


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
def test_what_the_site_compressed(home: Home, kafka: Any, topic: str, compression: str) -> None:
    producer = KafkaProducer(**client(kafka.conf(), compression_type=compression))
    for n in range(50):
        producer.send(topic, value=line(n).encode())
    producer.close()
    assert once(home, kafka, topic).added == 50


def test_a_message_of_10_mib_stops_nobody(home: Home, kafka: Any, admin: KafkaAdminClient) -> None:
    topic = make(admin, 1, **{"max.message.bytes": str(20 << 20)})
    producer = KafkaProducer(**client(kafka.conf(), max_request_size=20 << 20))
    for value in (line(1).encode(), b"\xff" * (10 << 20), line(2).encode()):
        producer.send(topic, value=value)
    producer.close()
    assert once(home, kafka, topic).added == 2
    letter = stored(home, DEAD_LETTER)[0]
    assert isinstance(letter, Unreadable)
    assert letter.reason == "10,485,760 bytes; a line has at most 131,072, so only the first 1,000 are kept"
    assert len(letter.raw) == 4000


def test_evt_03_milliseconds_and_a_ten_point_site(home: Home, kafka: Any, topic: str, produce: Produce) -> None:
    produce("1700000000000,42,GET /rate/9001=8", *(f"{1_700_000_000 + n},{n},GET /rate/9001=10" for n in range(100)))
    settings = Settings.model_validate({"kafka": kafka.conf(), "data": {"scales": {"lines": 10}}})
    until = time.monotonic() + PATIENCE_S
    done = follow(home, settings, topic, once=True, ended=lambda: time.monotonic() > until)
    assert done.added == 101
    with LocalLog(home.log) as log:
        assert log.now_ms() == 1_700_000_099_000
    assert {event.strength for event in stored(home) if isinstance(event, Rating)} == {0.8, 1.0}


def test_a_log_at_its_cap_is_waited_for(home: Home, kafka: Any, topic: str, produce: Produce) -> None:
    produce(line(1))
    with LocalLog(home.log) as log:
        log.append(EVENTS, [Watch(event_id="e", ts=1, user_id="u", movie_id="m" * 200, minute=1)])
    said: list[str] = []
    settings = Settings(kafka=kafka.conf(spool_max_mb=0.001))
    shown: list[Part] = []

    def ended() -> bool:
        shown.extend(health.follow(home))
        return bool(said)

    done = follow(home, settings, topic, ended=ended, say=said.append)
    assert (done.read, len(stored(home))) == (0, 1)
    assert "nothing was stored; the topic waits" in said[0]
    assert (shown[-1].state, "as much as it may" in shown[-1].detail) == ("broken", True)
    assert once(home, kafka, topic).added == 1
    assert not list(health.follow(home)), "it ended well"


def test_what_stands_in_the_way_is_one_sentence(home: Home, kafka: Any) -> None:
    with pytest.raises(FollowError, match=r"no Kafka is named: set kafka\.servers"):
        follow(home, Settings(), "movielog", ended=lambda: False)
    with pytest.raises(KafkaError, match=rf"Kafka at {kafka.servers} has no topic movielog0: is the name right\?"):
        once(home, kafka, "movielog0")
    with pytest.raises(KafkaError, match="has no topic movie log: is the name right"):
        once(home, kafka, "movie log")
    with pytest.raises(FollowError, match=r"greenlight\.events is Greenlight's own"):
        once(home, kafka, "greenlight.events")
    with pytest.raises(FollowError, match="__consumer_offsets is Kafka's own"):  # each commit would be a line
        once(home, kafka, "__consumer_offsets")
    away = Settings(kafka=kafka.conf(servers="127.0.0.1:1", timeout_s=1))
    with pytest.raises(KafkaAway, match=r"127\.0\.0\.1:1 does not answer within 1 s while reading the topic movielog"):
        follow(home, away, "movielog", ended=lambda: False)


# As processes ---------------------------------------------------------------------------------------------------------


def follower(home: Home, servers: str, topic: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "greenlight.py", "data", "follow", "--topic", topic, "--json", *more]
    environment = home.environment(GREENLIGHT_KAFKA__SERVERS=servers)
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(home: Home, count: int, topic: str = EVENTS) -> None:
    until = time.monotonic() + PATIENCE_S
    found = -1
    while time.monotonic() < until:
        found = 0
        if home.log.exists():
            with LocalLog(home.log) as log:
                found = log.count(topic)
        if found >= count:
            return
        time.sleep(0.2)
    pytest.fail(f"{found} of {count} came within {PATIENCE_S:g} s")


def test_evt_06_two_followers_new_partitions_and_a_kill_take_each_line_once(
    home: Home, kafka: Any, admin: KafkaAdminClient
) -> None:
    """600 keyed lines: a follower is added, the topic grows from 3 to 6 partitions, the first is killed -9."""
    topic, running = make(admin, 3), []
    producer = KafkaProducer(**client(kafka.conf(), metadata_max_age_ms=500))

    def send(first: int, last: int) -> None:
        for n in range(first, last):
            what = f"GET /rate/m{n % 20}={1 + n % 5}" if n % 3 == 0 else f"GET /data/m/m{n % 20}/{n % 90}.mpg"
            raw = f"2025-03-08T12:{n // 60:02}:{n % 60:02},{n % 30},{what}"
            producer.send(topic, value=raw.encode(), key=str(n % 30).encode())
        producer.flush(30)

    try:
        running.append(follower(home, kafka.servers, topic, "--from", "end"))
        until = time.monotonic() + PATIENCE_S
        group_of = home.following
        while not (group_of.exists() and committed(admin, group_of.read_text(), 3)) and time.monotonic() < until:
            time.sleep(0.2)
        send(0, 200)
        wait_for(home, 150)
        running.append(follower(home, kafka.servers, topic, "--from", "end"))
        admin.create_partitions({topic: 6})
        send(200, 400)
        running[0].kill()
        time.sleep(1)
        send(400, 600)
        wait_for(home, 600)
        running[1].send_signal(signal.SIGINT)
        told, complaints = running[1].communicate(timeout=PATIENCE_S)
    finally:
        producer.close()
        for process in running:
            process.kill()
            process.communicate()
    assert running[1].returncode == 0, complaints
    assert not list(home.followers.iterdir())
    assert json.loads(told)["unreadable"] == json.loads(told)["gaps"] == 0
    found = stored(home)
    assert len(found) == len({event.event_id for event in found}) == 600
    assert not dead(home)
    minutes = {(e.user_id, e.movie_id, e.minute) for e in found if isinstance(e, Watch)}
    assert len(minutes) == len({(n % 30, n % 20, n % 90) for n in range(600) if n % 3})
    ends = admin_ends(admin, topic)
    assert sum(ends.values()) == 600
    assert all(ends[TopicPartition(topic, new)] for new in (3, 4, 5))


def committed(admin: KafkaAdminClient, group: str, count: int) -> bool:
    """Whether the group has positions in so many partitions."""
    return len(admin.list_group_offsets(group)[group]) >= count


def admin_ends(admin: KafkaAdminClient, topic: str) -> dict[TopicPartition, int]:
    parts = [TopicPartition(topic, p["partition_index"]) for p in admin.describe_topics([topic])[0]["partitions"]]
    found = admin.list_partition_offsets(dict.fromkeys(parts, OffsetSpec.LATEST))
    return {part: found[part].offset for part in parts}


@pytest.mark.long
def test_a_broker_that_goes_away_is_waited_for_and_rights_that_lack_are_said(home: Home, tmp_path: Path) -> None:
    faults = load_file(REPOSITORY / "tests" / "faults" / "broker.py")
    port, controller = faults.free_ports(2)
    guard = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with faults.Broker(tmp_path, Node(tmp_path / "kafka", port, controller, more=guard)) as broker:
        admin = KafkaAdminClient(**client(broker.conf()))
        topic, secret = make(admin, 1), make(admin, 1)
        said: list[str] = []
        process = follower(home, broker.servers, topic)
        with KafkaProducer(**client(broker.conf())) as producer:
            producer.send(topic, value=line(1).encode())
        wait_for(home, 1)
        nobody = ACL("User:ANONYMOUS", "*", ACLOperation.READ, ACLPermissionType.DENY,
                     ResourcePattern(ResourceType.TOPIC, secret))  # fmt: skip
        admin.create_acls([nobody])
        with pytest.raises(KafkaError, match=f"user anonymous lacks the right for reading the topic {secret}"):
            once(home, broker, secret, say=said.append)
        broker.kill()
        time.sleep(25)
        broker.start()
        with KafkaProducer(**client(broker.conf())) as producer:
            producer.send(topic, value=line(2).encode())
        wait_for(home, 2)
        time.sleep(8)
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, complaints
        words = " ".join(complaints.split())
        assert f"Kafka at {broker.servers} does not answer within 10 s" in words
        assert "Kafka is back, after" in words

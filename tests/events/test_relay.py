"""The relay against a real broker: everything in the spool reaches Kafka, in order, whatever dies on the way."""

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic

from conf.sections.kafka import Kafka
from events.codecs import unreadable
from events.event import CATALOGUE, DEAD_LETTER, EVENTS, IMPRESSIONS, Impression, Movie, Rating
from events.kafka_link import client
from events.kafka_topics import topic_name
from events.local_log import LocalLog
from events.log import LogError
from events.relay import COMMIT_S, GROUP, Relay, RelayError
from models.shelf import load_file

pytestmark = pytest.mark.server
LIMIT_S = 120  # for what takes a second on a machine that does nothing else

PROCESS = """
import sys, time
from pathlib import Path
from conf.sections.kafka import Kafka
from events.local_log import LocalLog
from events.relay import Relay

relay = Relay(LocalLog(Path(sys.argv[1])), Kafka.model_validate_json(sys.argv[2]))
while True:
    if not relay.step():
        time.sleep(0.01)
"""


@pytest.fixture
def conf(kafka: Any) -> Kafka:
    return kafka.conf(topic_prefix=f"t{uuid.uuid4().hex[:12]}", timeout_s=20, in_flight=500)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[LocalLog]:
    with LocalLog(tmp_path / "log.db") as opened:
        yield opened


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, kafka: Any) -> Iterator[Any]:
    """One of this file's own, to be stopped."""
    faults = load_file(Path(__file__).parents[1] / "faults" / "broker.py")
    with faults.Broker(tmp_path_factory.mktemp("own")) as running:
        yield running


def rating(number: int, users: int = 7) -> Rating:
    ts = 1_700_000_000_000 + number
    return Rating(
        event_id=f"e{number:06}", ts=ts, user_id=f"u{number % users}", movie_id=f"m{number}", rating=4, scale=5
    )


def fill(spool: LocalLog, count: int, start: int = 0) -> list[str]:
    events = [rating(n) for n in range(start, start + count)]
    spool.append(EVENTS, events)
    return [event.event_id for event in events]


def until(done: Callable[[], bool], relay: Relay) -> None:
    end = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < end, (relay.state, relay.reason, relay.lag)
        if not relay.step():
            time.sleep(0.02)


def drain(relay: Relay) -> None:
    until(lambda: relay.state == "closed" and relay.lag == 0, relay)


def within(done: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < end
        time.sleep(0.003)


@contextmanager
def relaying(spool: LocalLog, conf: Kafka) -> Iterator[None]:
    """A relay in a process of its own, killed with -9 in the end."""
    process = subprocess.Popen([sys.executable, "-c", PROCESS, str(spool.path), conf.model_dump_json()])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def written(broker: Any, conf: Kafka) -> int:
    """Bytes of all topics of ours on a broker's disk."""
    return sum(file.stat().st_size for file in broker.node.folder.rglob(f"{conf.topic_prefix}*/*.log"))


def in_kafka(conf: Kafka, topic: str = EVENTS) -> list[Any]:
    """All records of a topic: partition by partition, each in its order."""
    with closing(KafkaConsumer(**client(conf), auto_offset_reset="earliest", enable_auto_commit=False)) as consumer:
        name = topic_name(conf, topic)
        parts = [TopicPartition(name, number) for number in sorted(consumer.partitions_for_topic(name) or ())]
        ends, found = consumer.end_offsets(parts), []
        for part in parts:
            consumer.assign([part])
            consumer.seek(part, 0)
            end = time.monotonic() + LIMIT_S
            while consumer.position(part) < ends[part]:
                assert time.monotonic() < end
                found += [record for batch in consumer.poll(500).values() for record in batch]
    return found


def ids(records: list[Any]) -> list[str]:
    return [json.loads(record.value)["event_id"] for record in records]


def first_ids_by_key(records: list[Any]) -> dict[bytes, list[str]]:
    """As a reader sees them, who drops ids that it has."""
    found: dict[bytes, dict[str, None]] = {}
    for record in records:
        found.setdefault(record.key, {}).setdefault(json.loads(record.value)["event_id"])
    return {key: list(seen) for key, seen in found.items()}


def in_order(records: list[Any]) -> bool:
    return all(seen == sorted(seen) for seen in first_ids_by_key(records).values())


def test_every_topic_goes_to_kafka_as_it_is_stored_in_order_by_key(spool: LocalLog, conf: Kafka) -> None:
    sent = fill(spool, 3000)
    slate = Impression(
        event_id="r1", ts=1, wall_ts=1, user_id="u1", arm="a", release="r", rung="model", items=("m1",),
        propensities=(1.0,), k=1, latency_ms=1,
    )  # fmt: skip
    spool.append(IMPRESSIONS, [slate])
    spool.append(CATALOGUE, [Movie(event_id="c1", movie_id="m1", title="Nine")])
    spool.append(DEAD_LETTER, [unreadable(b"?", "file", 1, "no event")])
    with closing(Relay(spool, conf)) as relay:
        drain(relay)
        assert (relay.delivered, relay.dead, relay.state) == (3003, 0, "closed")
    events = in_kafka(conf)
    assert sorted(ids(events)) == sent
    assert in_order(events)
    assert {record.key for record in events} == {f"u{n}".encode() for n in range(7)}
    assert sorted(record.value for record in events) == sorted(body for _, body in spool.stored(EVENTS, 0))
    keys = [in_kafka(conf, topic)[0].key for topic in (IMPRESSIONS, CATALOGUE, DEAD_LETTER)]
    assert keys == [b"u1", b"m1", spool.read(DEAD_LETTER, "x")[0].event.event_id.encode()]
    assert spool.committed(EVENTS, GROUP) == 3000


def test_what_is_killed_sends_again_what_was_not_committed_and_nothing_is_missing(spool: LocalLog, broker: Any) -> None:
    """Killed while the broker hangs and more comes in: what was handed over then is not delivered."""
    conf = broker.conf(topic_prefix="killed", in_flight=4000)
    sent = fill(spool, 6000)
    with relaying(spool, conf):
        within(lambda: spool.committed(EVENTS, GROUP) > 0)
        broker.process.send_signal(signal.SIGSTOP)
        sent += fill(spool, 4000, start=len(sent))
        time.sleep(3 * COMMIT_S)
    broker.kill()  # with what its connections still hold
    broker.start()
    committed = spool.committed(EVENTS, GROUP)
    assert 0 < committed < len(sent)
    assert set(sent[:committed]) <= set(ids(in_kafka(conf))), "committed before it was delivered"
    with closing(Relay(spool, conf)) as relay:
        drain(relay)
    events = in_kafka(conf)
    assert set(ids(events)) == set(sent)
    assert in_order(events)


@pytest.mark.long
def test_what_came_through_elsewhere_is_not_committed_past_what_hangs(spool: LocalLog, tmp_path: Path) -> None:
    """Of two brokers, each with some of the partitions, one stops answering: what goes to the other comes through."""
    faults = load_file(Path(__file__).parents[1] / "faults" / "broker.py")
    with faults.cluster(tmp_path, 2) as (answers, hangs):
        conf = answers.conf(topic_prefix="halves", partitions=6, timeout_s=60)
        sent = fill(spool, 500)
        with relaying(spool, conf):
            within(lambda: spool.committed(EVENTS, GROUP) == len(sent))
            before = written(answers, conf)
            hangs.process.send_signal(signal.SIGSTOP)
            sent += fill(spool, 500, start=len(sent))
            within(lambda: written(answers, conf) > before)
            time.sleep(3 * COMMIT_S)
        hangs.kill()  # with what its connections still hold
        hangs.start()
        with closing(Relay(spool, conf)) as relay:
            drain(relay)
        assert set(ids(in_kafka(conf))) == set(sent)


def test_evt_05_after_an_outage_it_goes_on_by_itself(spool: LocalLog, broker: Any) -> None:
    conf = broker.conf(topic_prefix="outage", timeout_s=1, in_flight=50)
    sent = fill(spool, 60)
    with closing(Relay(spool, conf)) as relay:
        drain(relay)
        before = relay.since_wall_ms
        broker.stop()
        sent += fill(spool, 200, start=60)  # four times what may be in flight
        until(lambda: relay.state == "open", relay)
        assert conf.servers in relay.reason
        assert relay.since_wall_ms > before
        for _ in range(20):
            relay.step()
        assert relay.lag == 200
        broker.start()
        drain(relay)
        assert relay.reason == ""
    events = in_kafka(conf)
    assert sorted(set(ids(events))) == sent
    assert in_order(events)


def test_a_broker_that_is_killed_under_way_and_one_that_accepts_and_never_answers(spool: LocalLog, broker: Any) -> None:
    conf = broker.conf(topic_prefix="silent", timeout_s=2, in_flight=100)
    sent = fill(spool, 3000)
    with closing(Relay(spool, conf)) as relay:
        until(lambda: relay.delivered > 500, relay)
        broker.kill()
        until(lambda: relay.state == "open", relay)
        broker.start()
        until(lambda: relay.delivered > 1500, relay)
        broker.process.send_signal(signal.SIGSTOP)
        try:
            until(lambda: relay.state == "open", relay)
            assert relay.lag > 0
        finally:
            broker.process.send_signal(signal.SIGCONT)
        drain(relay)
    events = in_kafka(conf)
    assert sorted(set(ids(events))) == sent
    assert in_order(events)


def test_a_spool_that_was_replaced_is_not_read_on_in_the_file_that_is_gone(spool: LocalLog, conf: Kafka) -> None:
    relay = Relay(spool, conf)
    fill(spool, 3)
    drain(relay)
    for file in spool.path.parent.glob(f"{spool.path.name}*"):
        file.rename(file.with_name(f"old-{file.name}"))
    with pytest.raises(LogError, match="taken away"):
        relay.step()
    relay.close()
    Relay(spool, conf).close()


def test_a_spool_that_cannot_be_written_keeps_nobody_from_ending(tmp_path: Path, conf: Kafka) -> None:
    """What was delivered and could not be committed is sent again; the next relay can begin."""
    with LocalLog(tmp_path / "spool.db", busy_timeout_ms=50) as spool, closing(apsw.Connection(str(spool.path))) as db:
        fill(spool, 20)
        relay = Relay(spool, conf)
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogError, match="BusyError"):
            drain(relay)
        relay.close()
        db.execute("ROLLBACK")
        assert spool.lag(EVENTS, "relay") == 20
        relay = Relay(spool, conf)
        drain(relay)
        relay.close()
    assert len(set(ids(in_kafka(conf)))) == 20


def test_two_relays_of_a_spool_never_run_at_once(spool: LocalLog, conf: Kafka) -> None:
    with closing(Relay(spool, conf)), pytest.raises(RelayError, match="runs already, process"):
        Relay(spool, conf)
    Relay(spool, conf).close()


def test_one_that_could_not_begin_is_in_nobodys_way(spool: LocalLog, tmp_path: Path) -> None:
    conf = Kafka(servers="127.0.0.1:9")
    spool.close()
    with pytest.raises(LogError, match="reading"):
        Relay(spool, conf)
    with LocalLog(spool.path) as again:
        Relay(again, conf).close()
        (tmp_path / "relay.lock").unlink()
        (tmp_path / "relay.lock").mkdir()
        with pytest.raises(LogError, match=r"relay\.lock cannot be used: Is a directory"):
            Relay(again, conf)


def test_a_poisonous_record_goes_to_the_dead_letter_and_stops_nobody(spool: LocalLog, conf: Kafka) -> None:
    with closing(KafkaAdminClient(**client(conf))) as admin:
        small = {"max.message.bytes": "4000"}  # less than a batch, so that Kafka refuses what stands beside it too
        admin.create_topics([NewTopic(topic_name(conf, EVENTS), 2, 1, topic_configs=small)])
    sent = fill(spool, 50)
    spool.append(EVENTS, [rating(50).model_copy(update={"movie_id": "m" * 5000})])
    spool.append(EVENTS, [rating(51).model_copy(update={"user_id": None})])
    spool.append(
        CATALOGUE, [Movie(event_id="c1", movie_id="m1", title="x" * (2 << 20)), Movie(event_id="c2", movie_id="m2")]
    )
    sent += fill(spool, 50, start=52)
    with closing(Relay(spool, conf)) as relay:
        drain(relay)
        assert relay.dead == 3
        assert relay.state == "closed"
    events = in_kafka(conf)
    assert sorted(set(ids(events))) == sent
    assert in_order(events)
    assert ids(in_kafka(conf, CATALOGUE)) == ["c2"]
    dead = [record.event for record in spool.tail(DEAD_LETTER, 0)]
    assert {json.loads(letter.raw)["event_id"] for letter in dead} == {"e000050", "e000051", "c1"}
    assert all(word in " ".join(letter.reason for letter in dead) for word in ("Kafka refuses", "user_id", "bytes"))
    assert set(ids(in_kafka(conf, DEAD_LETTER))) == {letter.event_id for letter in dead}

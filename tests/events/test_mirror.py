"""The mirror, on a real broker: everything that came through Kafka is in it once, whatever happens on the way."""

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from conf.home import Home
from conf.sections.kafka import Kafka
from conf.settings import Settings
from events.clock import wall_ms
from events.codecs import encode
from events.event import CATALOGUE, DEAD_LETTER, EVENTS, AnyEvent, Movie, Rating, Unreadable, Watch
from events.kafka_link import client
from events.kafka_partitions import Partitions
from events.kafka_topics import ensure_topics, topic_name
from events.local_log import LocalLog
from events.mirror import Mirror
from events.reading import mirror_of
from events.state import Acts
from models.shelf import load_file

START = 1_700_000_000_000
PATIENCE_S = 120.0


def settings_of(kafka: Any, **more: Any) -> Settings:
    conf = {"servers": kafka.servers, "topic_prefix": f"t{uuid.uuid4().hex[:12]}", **more}
    return Settings.model_validate({"kafka": conf})


@pytest.fixture
def conf(kafka: Any) -> Settings:
    made = settings_of(kafka)
    ensure_topics(made.kafka)
    return made


def rating(number: int, user: str = "") -> Rating:
    who = user or f"u{number % 7}"
    return Rating(event_id=f"e{number}", ts=START + number, user_id=who, movie_id=f"m{number}", rating=4, scale=5)


class Sender:
    """A producer of its own, as any other on the site may be."""

    def __init__(self, conf: Settings) -> None:
        self.conf = conf.kafka
        self._producer = KafkaProducer(**client(self.conf, max_request_size=32 << 20))

    def values(self, topic: str, *values: bytes | None, partition: int | None = None, key: str = "") -> None:
        name = topic_name(self.conf, topic)
        sent = [self._producer.send(name, value, key=key.encode() or None, partition=partition) for value in values]
        for each in sent:
            each.get(30)

    def events(self, *events: AnyEvent) -> None:
        name = {event.topic: topic_name(self.conf, event.topic) for event in events}
        keys = [getattr(event, "user_id", None) or event.event_id for event in events]
        sent = [
            self._producer.send(name[event.topic], encode(event).encode(), key=key.encode())
            for event, key in zip(events, keys, strict=True)
        ]
        for each in sent:
            each.get(30)

    def close(self) -> None:
        self._producer.close()


@pytest.fixture
def send(conf: Settings) -> Iterator[Sender]:
    made = Sender(conf)
    yield made
    made.close()


def admin(conf: Settings, do: Callable[[KafkaAdminClient], Any]) -> Any:
    made = KafkaAdminClient(**client(conf.kafka))
    try:
        return do(made)
    finally:
        made.close()


def until(mirror: Mirror, done: Callable[[], object]) -> None:
    """Step until it is so."""
    end = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < end, mirror.state
        if not mirror.step() and mirror.trouble:
            time.sleep(0.1)


def ids(home: Home, topic: str = EVENTS) -> list[str]:
    if not home.mirror.exists():
        return []
    with LocalLog(home.mirror) as log:
        return [record.event.event_id for record in log.iterate(topic)]


def dead(home: Home) -> list[Unreadable]:
    with LocalLog(home.mirror) as log:
        return [record.event for record in log.iterate(DEAD_LETTER) if isinstance(record.event, Unreadable)]


def test_what_comes_through_kafka_is_stored_once_and_in_order_per_viewer(
    home: Home, conf: Settings, send: Sender
) -> None:
    send.events(*map(rating, range(50)), Movie(event_id="m", movie_id="m1", title="One"))
    send.events(*map(rating, range(40, 60)))
    mirror = Mirror(home, conf)
    until(mirror, lambda: len(ids(home)) == 60 and ids(home, CATALOGUE))
    until(mirror, lambda: mirror.duplicates == 10)
    now_ms = wall_ms()
    with LocalLog(home.mirror) as log:
        by_user: dict[str, list[int]] = {}
        for record in log.iterate(EVENTS):
            by_user.setdefault(record.event.user_id, []).append(record.event.ts)
    assert all(times == sorted(times) for times in by_user.values())
    until(mirror, lambda: mirror.behind == 0)
    until(mirror, lambda: mirror.caught_up_wall_ms > now_ms)
    mirror.close()
    again = Mirror(home, conf)
    send.events(rating(60))
    until(again, lambda: len(ids(home)) == 61)
    assert again.duplicates == 0, "it goes on where it was"
    again.close()


def test_evt_01_what_cannot_be_read_is_quarantined_and_stops_nobody(home: Home, conf: Settings, send: Sender) -> None:
    ahead = rating(99).model_copy(update={"ts": time.time_ns() // 1_000_000 + 3_600_000})
    bad = [b"\xff\xfe", None, b"x,y", b"[]", encode(Movie(event_id="m", movie_id="m")).encode(), encode(ahead).encode()]
    send.values(EVENTS, *bad, partition=0, key="u")
    send.values(EVENTS, *(encode(rating(n)).encode() for n in range(10)), partition=0)
    send.values(DEAD_LETTER, b"\xff", partition=1)
    mirror = Mirror(home, conf)
    until(mirror, lambda: len(ids(home)) == 10 and len(dead(home)) == 7)
    found = {(letter.source, letter.line): letter.reason for letter in dead(home)}
    assert list(found)[:6] == [("kafka events, partition 0", offset) for offset in range(6)]
    assert ("kafka dead-letter, partition 1", 0) in found
    reasons = list(found.values())
    assert reasons[1] == "null value"
    assert "movie" in reasons[4]
    assert "in the future" in reasons[5]
    assert (mirror.unreadable, mirror.trouble) == (7, "")
    until(mirror, lambda: mirror.behind == 0)
    mirror.close()
    assert Mirror(home, conf).unreadable == 7


def test_a_message_of_10_mib_is_quarantined_by_its_beginning(home: Home, conf: Settings, send: Sender) -> None:
    name = topic_name(conf.kafka, EVENTS)
    resource = ConfigResource(ConfigResourceType.TOPIC, name, configs={"max.message.bytes": str(20 << 20)})
    admin(conf, lambda a: a.alter_configs([resource]))
    send.values(EVENTS, b'{"kind": "rating", "x": "' + b"a" * (10 << 20) + b'"}', key="u")
    send.events(rating(1), rating(2))
    mirror = Mirror(home, conf)
    until(mirror, lambda: len(ids(home)) == 2 and len(dead(home)) == 1)
    assert "10,485,787 bytes are more than" in dead(home)[0].reason
    assert len(dead(home)[0].raw) == 10_000
    mirror.close()


MIRRORING = """
import sys
from pathlib import Path
from conf.home import Home
from conf.settings import Settings
from events.mirror import Mirror
mirror = Mirror(Home(Path(sys.argv[1])), Settings.model_validate_json(sys.argv[2]))
while True:
    mirror.step()
"""


def begin(home: Home, conf: Settings) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", MIRRORING, str(home.root), conf.model_dump_json()])


def test_evt_06_partitions_grow_while_two_mirrors_run_and_one_is_killed(
    home: Home, conf: Settings, send: Sender
) -> None:
    """600 keyed lines, 3 partitions become 6, kill -9 in the middle: exactly 600 effects, minutes are not inflated."""
    watched = [
        Watch(event_id=f"w{n}", ts=START + n, user_id=f"u{n % 20}", movie_id="m", minute=n // 20) for n in range(600)
    ]
    processes = [begin(home, conf), begin(home, conf)]
    try:
        send.events(*watched[:200])
        end = time.monotonic() + PATIENCE_S
        while len(ids(home)) < 100:
            assert time.monotonic() < end
            time.sleep(0.05)
        processes[0].send_signal(signal.SIGKILL)
        admin(conf, lambda a: a.create_partitions({topic_name(conf.kafka, EVENTS): 6}))
        grown = Sender(conf)
        grown.events(*watched[200:])
        grown.events(*watched[550:])
        grown.close()
        processes.append(begin(home, conf))
        while len(ids(home)) < 600:
            assert time.monotonic() < end, len(ids(home))
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert sorted(ids(home)) == sorted(event.event_id for event in watched)
    with LocalLog(home.mirror) as log:
        parts = {name for name in log.marks if name.startswith(f"kafka/{EVENTS}/")}
    assert len(parts) == 6
    acts = Acts(home, conf)
    start = acts.start(0)
    assert start == 0
    seen, after, more = dict[str, list[float]](), 0, True
    while more:
        batch = acts.since(after, 1000)
        after, more = batch.offset, batch.more
        for act in batch.acts:
            seen.setdefault(act.user_id, []).append(act.value)
    assert {user: sorted(minutes) for user, minutes in seen.items()} == {
        f"u{n}": [float(minute) for minute in range(30)] for n in range(20)
    }
    acts.close()


def test_partitions_that_the_client_has_not_heard_of_are_looked_at_too(conf: Settings) -> None:
    """Its memory of who leads them is ten seconds old by then, and it stumbles over those that it lacks."""
    partitions, end = Partitions(conf.kafka), time.monotonic() + PATIENCE_S
    for count in (3, 9, 17):
        if count > 3:
            admin(conf, lambda a, n=count: a.create_partitions({topic_name(conf.kafka, EVENTS): n}))
        while sum(place.topic == EVENTS for place in partitions.look().spans) < count:
            assert time.monotonic() < end
    partitions.close()


def test_a_gap_that_retention_left_is_recorded(home: Home, conf: Settings, send: Sender) -> None:
    send.values(EVENTS, *(encode(rating(n)).encode() for n in range(10)), partition=1)
    mirror = Mirror(home, conf)
    until(mirror, lambda: len(ids(home)) == 10)
    mirror.close()
    send.values(EVENTS, *(encode(rating(n)).encode() for n in range(10, 20)), partition=1)
    admin(conf, lambda a: a.delete_records({TopicPartition(topic_name(conf.kafka, EVENTS), 1): 15}))
    mirror = Mirror(home, conf)
    until(mirror, lambda: len(ids(home)) == 15)
    (gap,) = dead(home)
    assert (gap.source, gap.line) == ("kafka events, partition 1", 10)
    assert "offsets 10 to 14 were dropped" in gap.reason
    assert mirror.gaps == 1
    mirror.close()


def test_a_topic_that_was_made_anew_is_read_from_its_beginning(
    home: Home, conf: Settings, send: Sender, caplog: pytest.LogCaptureFixture
) -> None:
    send.events(*map(rating, range(10)))
    mirror = Mirror(home, conf)
    until(mirror, lambda: len(ids(home)) == 10)
    name = topic_name(conf.kafka, EVENTS)
    admin(conf, lambda a: a.delete_topics([name]))
    end = time.monotonic() + PATIENCE_S
    while name in admin(conf, lambda a: a.list_topics()):
        assert time.monotonic() < end
        time.sleep(0.2)
    ensure_topics(conf.kafka)
    other = Sender(conf)
    other.events(*map(rating, range(5, 40)))
    other.close()
    until(mirror, lambda: len(ids(home)) == 40)
    assert sorted(ids(home)) == sorted(f"e{n}" for n in range(40))
    assert "made anew" in caplog.text
    mirror.close()


def test_what_came_in_here_outlives_a_topic_that_was_deleted_before_it_was_read(
    home: Home, conf: Settings, send: Sender
) -> None:
    """The spool keeps what the mirror is not known to hold, and the mirror takes it from there."""
    with LocalLog(home.log) as spool:
        spool.append(EVENTS, map(rating, range(10)))
        send.events(*map(rating, range(10)))
        spool.commit(EVENTS, "relay", 10)
        mirror = Mirror(home, conf)
        until(mirror, lambda: mirror.caught_up_wall_ms and len(ids(home)) == 10)
        mirror.close()
        spool.append(EVENTS, map(rating, range(10, 12_100)))
        spool.commit(EVENTS, "relay", 12_100)  # they went to Kafka, and
        admin(conf, lambda a: a.delete_topics([topic_name(conf.kafka, EVENTS)]))
        mirror = Mirror(home, conf)
        until(mirror, lambda: len(ids(home)) == 12_100)
        mirror.close()
        home.cluster.write_text("another\n")
        with LocalLog(home.mirror) as log:
            log.append_with([], {"cluster": "another"})
        spool.append(EVENTS, [rating(20_000)])
        spool.commit(EVENTS, "relay", 12_101)
        home.cluster.unlink()  # as the message about another cluster says
        mirror = Mirror(home, conf)
        until(mirror, lambda: "e20000" in ids(home))
        mirror.close()


def test_a_damaged_spool_keeps_nobody_from_reading_what_kafka_has(home: Home, conf: Settings, send: Sender) -> None:
    mirror = Mirror(home, conf)
    send.events(*map(rating, range(5)))
    until(mirror, lambda: len(ids(home)) == 5)
    mirror.close()
    with LocalLog(home.log) as spool:
        spool.append(EVENTS, map(rating, range(100, 400)))
    for file in home.root.glob(f"{home.log.name}-*"):
        file.unlink()
    home.log.write_bytes(b"damaged" * 10_000)
    mirror = Mirror(home, conf)
    send.events(*map(rating, range(5, 10)))
    until(mirror, lambda: len(ids(home)) == 10)
    mirror.close()


def test_batch_mode_takes_all_of_a_spool_that_was_begun_anew(home: Home) -> None:
    conf = settings_of(Kafka(servers="127.0.0.1:9"), timeout_s=1, batch_after_minutes=1e-6)
    with mirror_of(home) as log:
        log.append_with([], {f"spool/{EVENTS}": "5000"})
    for file in home.root.glob(f"{home.log.name}*"):
        file.unlink()
    with LocalLog(home.log) as spool:
        spool.append(EVENTS, map(rating, range(10)))
    mirror = Mirror(home, conf)
    until(mirror, lambda: len(ids(home)) == 10)
    mirror.close()


def test_another_cluster_at_the_same_address_is_refused(home: Home, conf: Settings, send: Sender) -> None:
    send.events(rating(1))
    home.cluster.write_text("another-cluster\n")
    mirror = Mirror(home, conf)
    until(mirror, lambda: mirror.trouble)
    assert "another-cluster" in mirror.trouble
    assert ids(home) == []
    home.cluster.unlink()
    until(mirror, lambda: ids(home) == ["e1"])
    assert mirror.trouble == ""
    mirror.close()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, kafka: Any) -> Iterator[Any]:
    """A broker that tests may stop and start. It takes `kafka` so that it is skipped where there is none."""
    broker = load_file(Path(__file__).parents[1] / "faults" / "broker.py")
    with broker.Broker(tmp_path_factory.mktemp("own")) as running:
        yield running


@pytest.mark.long  # that it comes back is seen in batch mode, too
def test_it_reads_on_after_the_broker_was_killed_and_started_again(home: Home, own: Any) -> None:
    conf = settings_of(own, timeout_s=2)
    mirror = Mirror(home, conf)
    until(mirror, lambda: mirror.step() == 0 and not mirror.trouble)  # it has made the topics
    send_all(conf, *range(10))
    until(mirror, lambda: len(ids(home)) == 10)
    own.kill()
    until(mirror, lambda: mirror.trouble)
    assert mirror.away_wall_ms
    own.start()
    send_all(conf, *range(10, 20))
    until(mirror, lambda: len(ids(home)) == 20)
    assert (mirror.source, mirror.away_wall_ms, mirror.trouble, mirror.duplicates) == ("kafka", 0, "", 0)
    mirror.close()


def send_all(conf: Settings, *numbers: int) -> None:
    made = Sender(conf)
    made.events(*map(rating, numbers))
    made.close()


def test_k7_batch_mode_and_back(home: Home, own: Any) -> None:
    """Kafka goes away: after the declared time the spool is taken in. It comes back, and nothing is double or lost."""
    conf = settings_of(own, timeout_s=2, batch_after_minutes=0.05)
    ensure_topics(conf.kafka)
    spool = LocalLog(home.log)

    def relay(*numbers: int) -> None:
        """What the relay does with what the spool holds."""
        send_all(conf, *numbers)
        last = max(r.offset for r in spool.iterate(EVENTS) if r.event.event_id == f"e{numbers[-1]}")
        spool.commit(EVENTS, "relay", last)

    spool.append(EVENTS, map(rating, range(10)))
    relay(*range(10))
    mirror = Mirror(home, conf)
    until(mirror, lambda: len(ids(home)) == 10)
    own.stop()
    spool.append(EVENTS, map(rating, range(10, 20)))
    before = time.time_ns() // 1_000_000
    until(mirror, lambda: len(ids(home)) == 20)
    assert mirror.source == "spool"
    assert mirror.since_wall_ms >= before
    assert "does not answer" in mirror.trouble
    assert mirror.duplicates == 0, "it began behind what had come through Kafka"
    mirror.close()
    mirror = Mirror(home, conf)
    assert mirror.source == "spool", "a restart knows"
    spool.append(EVENTS, [rating(20)])
    until(mirror, lambda: len(ids(home)) == 21)
    own.start()
    relay(*range(10, 21))
    spool.append(EVENTS, [rating(21)])
    relay(21)
    until(mirror, lambda: mirror.duplicates >= 11 and len(ids(home)) == 22)
    assert (mirror.source, mirror.trouble) == ("kafka", "")
    assert sorted(ids(home)) == sorted(f"e{n}" for n in range(22))
    json.dumps(mirror.state)
    mirror.close()
    spool.close()

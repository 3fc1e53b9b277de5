"""Lag of a home's readers: counted in the log, told once by mail, shown by status, judged by looks and not by one."""

import os

import apsw
import pytest

from conf.home import Home
from conf.sections.kafka import Kafka, Lag
from conf.settings import Settings
from events.archive import archive
from events.clock import wall_ms
from events.event import CATALOGUE, EVENTS, Movie, Rating
from events.local_log import LocalLog
from events.store import FolderStore
from monitoring.lag import Behind
from pipelines.behind import LagAlarm, Reader, alarming, words
from pipelines.loop import write_json
from pipelines.outbox import letters
from pipelines.status import parts, readers
from pipelines.up import alone
from pipelines.watch import Watch
from serving.lag import lags
from serving.report import Reporter, WorkerReport

QUICK = Settings(lag=Lag(messages=3, for_s=0, seconds=100))


def fill(home: Home, first: int, last: int) -> None:
    with LocalLog(home.log) as log:
        log.append(EVENTS, [_rating(n) for n in range(first, last)])


def _rating(number: int) -> Rating:
    return Rating(event_id=f"e{number}", ts=number + 1, user_id="u", movie_id="m", rating=4, scale=5)


def take(home: Home) -> None:
    with LocalLog(home.log) as log:
        archive(log, FolderStore(home.history))


def age(home: Home, seconds: float) -> None:
    """Everything in the log was stored so long ago."""
    outside = apsw.Connection(str(home.log))
    outside.execute("UPDATE moments SET wall_ms = ?", (wall_ms() - int(1000 * seconds),))
    outside.close()


def worker(home: Home, offset: int) -> Reporter:
    now = wall_ms()
    made = Reporter(home)
    times = {"started_wall_ms": now, "beat_wall_ms": now, "clock_ms": now}
    made.write(WorkerReport(pid=os.getpid(), offset=offset, arms={}, **times))
    return made


def test_a_home_without_a_log_has_no_readers(home: Home) -> None:
    assert lags(home, Settings()) == []
    assert [part.name for part in parts(home, Settings()) if part.name == "lag"] == []


def test_archive_and_each_worker_are_counted_over_all_their_topics(home: Home) -> None:
    fill(home, 0, 10)
    take(home)
    fill(home, 10, 13)
    with LocalLog(home.log) as log:
        log.append(CATALOGUE, [Movie(event_id="m1", movie_id="m1")])
    reporter = worker(home, 12)
    age(home, 50)
    archived, live = lags(home, Settings())
    assert (archived.name, archived.messages, live.name, live.messages) == ("archive", 4, f"live {os.getpid()}", 2)
    assert archived.seconds == pytest.approx(50, abs=20)
    take(home)
    assert lags(home, Settings())[0] == Behind("archive", 0, 0.0)
    reporter.close()
    assert len(lags(home, Settings())) == 1


def test_with_kafka_the_relay_is_behind_the_spool_and_the_others_behind_the_mirror(home: Home) -> None:
    with_kafka = Settings(kafka=Kafka(servers="127.0.0.1:9092"))
    fill(home, 0, 5)
    assert [(r.group, r.messages) for r in lags(home, with_kafka)] == [("relay", 5)]
    with LocalLog(home.log) as spool, LocalLog(home.mirror) as mirror:
        spool.commit(EVENTS, "relay", 3)
        mirror.append(EVENTS, [_rating(0)])
    assert [(r.group, r.messages) for r in lags(home, with_kafka)] == [("relay", 2), ("archive", 1)]


def test_the_mirror_is_as_far_behind_as_it_says(home: Home) -> None:
    with_kafka = Settings(kafka=Kafka(servers="127.0.0.1:9092"))

    def told(source: str, behind: int, seconds: float) -> list[Behind]:
        state = {"source": source, "behind": behind, "caught_up_wall_ms": wall_ms() - int(1000 * seconds)}
        write_json(home.kafka, {"mirror": state})
        return lags(home, with_kafka)

    (mirror,) = told("kafka", 7, 20)
    assert (mirror.name, mirror.messages, mirror.seconds) == ("mirror", 7, pytest.approx(20, abs=15))
    assert told("kafka", 0, 2) == [Behind("mirror", 0, 0.0)]
    (gone,) = told("kafka", 0, 3600)  # killed, or without Kafka: what it is behind is not known
    assert words(gone).startswith("0 behind, as of 3,6")
    assert told("spool", 5, 3600) == [], "in batch mode it does not look into Kafka"
    assert lags(home, Settings()) == []
    for text in ("[]", '{"relay": {}}', '{"mirror": {"source": 1}}'):
        home.kafka.write_text(text)
        assert lags(home, with_kafka) == []


def test_events_of_the_past_are_as_old_as_they_are_stored(home: Home) -> None:
    fill(home, 0, 3)  # their own times are of 1970
    (archived,) = lags(home, Settings())
    assert archived.seconds is not None
    assert archived.seconds < 100


class Told:
    def __init__(self, home: Home, settings: Settings = QUICK) -> None:
        self.letters: list[list[str]] = []
        self.alarm = LagAlarm(home, settings, self._tell)

    def _tell(self, late: list[Reader]) -> None:
        self.letters.append([reader.behind.name for reader in late])


def test_each_spell_is_told_once_over_restarts_too(home: Home) -> None:
    fill(home, 0, 4)
    first = Told(home)
    first.alarm.step()
    first.alarm.step()
    assert first.letters == [["archive"]]
    assert [reader.behind.messages for reader in alarming(home)] == [4]
    again = Told(home)
    again.alarm.step()
    assert again.letters == []
    take(home)
    again.alarm.step()
    assert alarming(home) == []
    fill(home, 4, 8)
    again.alarm.step()
    assert again.letters == [["archive"]], "another spell"


def test_the_minute_goes_on_over_a_restart_and_is_not_one_look(home: Home) -> None:
    fill(home, 0, 4)
    settings = Settings(lag=Lag(messages=3, for_s=0.01))
    for _ in range(5):
        told = Told(home, settings)  # each looks once, and knows nothing of how long the others were away
        told.alarm.step()
        assert told.letters == []
    while not told.letters:
        told.alarm.step()


def test_what_is_old_is_told_and_what_cannot_be_told_is_told_later(home: Home) -> None:
    fill(home, 0, 1)
    age(home, 101)
    told = Told(home)
    told.alarm.step()
    assert told.letters == []
    home.lag.unlink()
    home.lag.mkdir()  # nothing can be noted
    with pytest.raises(OSError, match=r"lag\.json"):
        told.alarm.step()
    home.lag.rmdir()
    for _ in range(2):
        told.alarm.step()
    assert told.letters == [["archive"]]


def test_notes_that_are_not_ours_are_written_anew(home: Home) -> None:
    fill(home, 0, 4)
    for text in ("[]", '{"readers": {"archive": 3}}', "\x00", '{"beat_wall_ms": "x"}'):
        home.lag.write_text(text)
        told = Told(home)
        told.alarm.step()
        assert told.letters == [["archive"]]


def test_a_letter_says_who_is_behind_and_what_helps_and_status_shows_it(home: Home) -> None:
    fill(home, 0, 4)
    with alone(home):
        assert _part(home) == ("ok", "")
        Watch(home, QUICK).step()
        (letter,) = letters(home)
        assert letter.subject.endswith("lag: archive")
        assert _part(home) == ("broken", f"tail {home.logs / 'archiving.log'}")
        take(home)
        Watch(home, QUICK).step()
        assert _part(home) == ("ok", "")
    assert [(r.group, r.messages) for r in readers(home, QUICK)] == [("archive", 0)]


def test_where_nothing_runs_nobody_is_late(home: Home) -> None:
    fill(home, 0, 4)
    Watch(home, QUICK).step()
    assert _part(home)[0] == "ok"


def test_a_log_that_is_none_is_said_and_breaks_no_other_look(home: Home) -> None:
    fill(home, 0, 4)
    home.log.write_bytes(b"not a log at all" * 500)
    Watch(home, QUICK).step()
    assert _part(home)[0] == "broken"
    assert readers(home, QUICK) == []


def _part(home: Home) -> tuple[str, str]:
    (part,) = [part for part in parts(home, QUICK) if part.name == "lag"]
    return part.state, part.next

"""The loop that mirrors: it says how it is, and in batch mode everything that rests on the spool says so."""

import time

import pytest

from conf.home import Home
from conf.sections.gates import InputsGate
from conf.sections.training import Train
from conf.settings import Settings
from events.clock import wall_ms
from events.event import CATALOGUE, EVENTS, Movie, Rating
from events.local_log import LocalLog
from events.reading import reached
from mlflow_server.ledger import Ledger
from pipelines import status
from pipelines.batch_mode import MirrorAlarm, batch_mode
from pipelines.kafka_state import note, noted
from pipelines.loop import run
from pipelines.mirroring import Mirroring
from pipelines.report import drift
from pipelines.retrain import RETRAINED, retrain
from pipelines.snapshot import SnapshotError, cut
from pipelines.watch import Watch

START, DAY = 1_700_000_000_000, 86_400_000
NOWHERE = {"servers": "127.0.0.1:9", "timeout_s": 1, "batch_after_minutes": 0.001}
SAYS = "read from the spool since"


@pytest.fixture
def conf() -> Settings:
    """Kafka is configured, and nobody answers there."""
    red = InputsGate(min_interactions=10**9)
    return Settings.model_validate({"kafka": NOWHERE, "inputs": red, "train": Train(models=())})


def rating(number: int, ts: int = 0) -> Rating:
    who, what = f"u{number % 9}", f"m{number % 5}"
    return Rating(event_id=f"e{number}", ts=ts or START + number, user_id=who, movie_id=what, rating=4, scale=5)


@pytest.fixture
def away(home: Home, conf: Settings) -> Home:
    """A home in batch mode, with what came in taken in."""
    with LocalLog(home.log) as log:
        log.append(
            CATALOGUE, [Movie(event_id=f"m{n}", movie_id=f"m{n}", title=str(n), genres=("G",)) for n in range(5)]
        )
        log.append(EVENTS, map(rating, range(40)))
    loop, until = Mirroring(home, conf), time.monotonic() + 120

    def wait(seconds: float) -> bool:
        assert time.monotonic() < until, loop
        time.sleep(min(seconds, 0.1))
        return noted(home, "mirror").get("stored") == 45

    run(loop, wait)
    return home


def test_until_then_nothing_has_come_in(home: Home, conf: Settings) -> None:
    with LocalLog(home.log) as log:
        log.append(EVENTS, [rating(1)])
    with pytest.raises(SnapshotError, match="greenlight up"):
        cut(home, conf)


def test_batch_mode_is_said_wherever_it_matters(away: Home, conf: Settings) -> None:
    told = noted(away, "mirror")
    assert told["source"] == "spool"
    assert 0 < told["away_wall_ms"] <= told["since_wall_ms"] <= wall_ms()
    assert SAYS in batch_mode(away, conf)
    assert batch_mode(away, Settings()) == "", "without Kafka there is no such thing"
    (part,) = (part for part in status.parts(away, conf) if part.name == "mirror")
    assert (part.state, part.since_wall_ms) == ("broken", told["away_wall_ms"])
    assert SAYS in part.detail
    assert "127.0.0.1:9" in part.detail
    letters = list[str]()
    for _ in range(2):
        MirrorAlarm(away, conf, letters.extend).step()
    assert [SAYS in letter for letter in letters] == [True], "a spell is told once"
    made = cut(away, conf)
    assert SAYS in made.note
    assert len(made.interactions) == 40
    assert SAYS in drift(away, conf).sentences[-1]
    assert retrain(away, conf, if_due=False, actor="ada").outcome == "refused"
    last = list(Ledger.to_read(away.ledger, away.keys).entries(RETRAINED))[-1]
    assert SAYS in last.body["why"]


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"behind": 1234, "away_wall_ms": 0}, "switched off with 1,234 records in it: those of others are not read"),
        ({"behind": 0, "away_wall_ms": START}, "switched off while it was away, since 2023-11-14"),
        ({"behind": 0, "away_wall_ms": 0}, ""),
    ],
)
def test_what_is_left_in_kafka_once_it_is_switched_off_is_said(
    home: Home, conf: Settings, told: dict[str, int], says: str
) -> None:
    def left(settings: Settings) -> list[str]:
        return [p.detail for p in status.parts(home, settings) if p.name == "kafka" and p.state == "broken"]

    assert left(Settings()) == []
    note(home, "mirror", {"source": "kafka", "beat_wall_ms": START, "trouble": "", **told})
    assert [says in line for line in left(Settings())] == [True] * bool(says)
    assert not any("switched off" in line for line in left(conf))


def test_a_home_that_cannot_be_written_is_said_once_and_got_over(
    home: Home, conf: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    home.mirror.mkdir()  # where the file should be
    loop = Mirroring(home, conf)
    assert all(loop.step() > 0 for _ in range(3))
    assert len([r for r in caplog.records if "nothing is mirrored" in r.message]) == 1
    home.mirror.rmdir()
    loop.step()
    assert loop.trouble == ""
    assert noted(home, "mirror")["trouble"]
    loop.close()


def test_a_mirror_that_is_deleted_fills_again_by_itself(away: Home, conf: Settings) -> None:
    loop, until = Mirroring(away, conf), time.monotonic() + 120
    loop.step()
    with LocalLog(away.mirror) as before:
        newest = before.newest()
    for file in away.root.glob("mirror.db*"):
        file.unlink()
    while not away.mirror.exists() or noted(away, "mirror").get("stored") != 45 or not reached(away, conf):
        assert time.monotonic() < until
        time.sleep(min(loop.step(), 0.1))
    with LocalLog(away.mirror) as after:
        assert after.count(EVENTS) == 40
        assert after.begins >= newest
    loop.close()


def test_a_letter_tells_of_what_cannot_be_read_and_then_not_for_a_day(home: Home, conf: Settings) -> None:
    watch, state = Watch(home, conf), {"source": "kafka", "since_wall_ms": 1, "gaps": 0}
    watch.step()
    for unreadable in (0, 3, 3, 4):
        note(home, "mirror", state | {"unreadable": unreadable})
        watch.step()
    (letter,) = home.outbox.glob("*.eml")
    assert "Subject: what comes through Kafka" in letter.read_text()

"""The loop between spool and Kafka: as a process, in what it tells of itself, and what comes of a spool that fills."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf.home import Home
from conf.sections.jobs import Retention
from conf.sections.kafka import Kafka
from conf.settings import Settings, load
from events.archive import archive
from events.event import EVENTS, Rating
from events.local_log import LocalLog
from events.reading import mirror_of, spool_mark
from events.retention import trim_logs
from events.store import FolderStore
from pipelines.archiving import Archiving
from pipelines.data import DataError, export_data
from pipelines.kafka_state import note, noted
from pipelines.outbox import letters
from pipelines.relaying import Relaying
from pipelines.status import parts
from pipelines.up import alone, children
from pipelines.watch import Watch

ROOT = Path(__file__).parents[2]
LIMIT_S = 120
AWAY = Settings(kafka=Kafka(servers="127.0.0.1:9", timeout_s=1))


def fill(home: Home, count: int, start: int = 0) -> None:
    with LocalLog(home.log) as log:
        log.append(EVENTS, [_rating(n) for n in range(start, start + count)])


def _rating(number: int) -> Rating:
    return Rating(event_id=f"e{number}", ts=number + 1, user_id="u", movie_id="m", rating=4, scale=5)


def within(holds: Callable[[], Any]) -> Any:
    until = time.monotonic() + LIMIT_S
    while not (found := holds()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


def part(home: Home, settings: Settings, name: str) -> Any:
    return next(found for found in parts(home, settings) if found.name == name)


def started(home: Home, kafka: Kafka) -> subprocess.Popen[str]:
    environment = {**os.environ, "GREENLIGHT_HOME": str(home.root), "GREENLIGHT_KAFKA": kafka.model_dump_json()}
    command = [sys.executable, "-m", "pipelines.relaying"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.server
def test_it_relays_as_a_process_is_the_only_one_and_may_be_killed(home: Home, kafka: Any) -> None:
    conf = kafka.conf(topic_prefix=f"t{uuid.uuid4().hex[:12]}")
    settings = Settings(kafka=conf)
    assert part(home, settings, "relay").next == "greenlight up"
    fill(home, 100)
    with started(home, conf) as first:
        within(lambda: noted(home, "relay").get("delivered") == 100)
        with started(home, conf) as second:
            assert second.wait(LIMIT_S) == 2
            assert second.stderr is not None
            assert f"runs already, process {first.pid}" in second.stderr.read()
        first.kill()
    fill(home, 50, start=100)
    with started(home, conf) as third:
        with LocalLog(home.log) as log:
            within(lambda: log.lag(EVENTS, "relay") == 0)
        within(lambda: noted(home, "relay").get("delivered") == 50)
        assert part(home, settings, "relay").state == "ok"
        third.terminate()
        assert third.wait(LIMIT_S) == 0
    assert home.cluster.exists()


@pytest.mark.server
def test_status_says_since_when_kafka_is_away_and_what_waits(home: Home) -> None:
    fill(home, 7)
    loop = Relaying(home, AWAY)
    within(lambda: loop.step() and noted(home, "relay").get("state") == "open")
    told = part(home, AWAY, "relay")
    assert told.state == "broken"
    assert told.since_wall_ms
    assert all(word in told.detail for word in ("open", "127.0.0.1:9", "7 records wait"))
    assert "relaying.log" in told.next
    assert loop.step() > 0, "an open breaker leaves the core alone"
    loop.close()
    with alone(home):
        note(home, "relay", noted(home, "relay") | {"beat_wall_ms": 1000})
        assert "no sign of life" in part(home, AWAY, "relay").detail


def test_a_spool_that_cannot_be_used_is_said_and_tried_again(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    home.log.write_text("no log at all, but long enough to be told from one" * 100)
    loop = Relaying(home, AWAY)
    for _ in range(3):
        assert loop.step() > 1
    assert len([line for line in caplog.messages if "nothing goes to Kafka" in line]) == 1
    home.log.unlink()
    loop.step()
    assert loop.trouble == ""
    loop.close()


def test_a_filling_spool_is_told_once_for_each_spell(home: Home) -> None:
    settings = AWAY.model_copy(update={"kafka": AWAY.kafka.model_copy(update={"spool_max_mb": 0.5})})
    watch = Watch(home, settings)
    fill(home, 10)
    watch.step()
    assert list(letters(home)) == []
    assert part(home, settings, "spool").state == "ok"
    fill(home, 2500, start=10)
    for _ in range(2):
        watch.step()
    Watch(home, settings).step()
    [letter] = letters(home)
    assert "spool fills" in letter.subject
    assert part(home, settings, "spool").state == "broken"
    with LocalLog(home.log) as log:
        log.commit(EVENTS, "relay", 2510)
        log.trim(0, ["relay"], 4_000_000_000_000)
    watch.step()
    fill(home, 2500, start=3000)
    watch.step()
    assert len(list(letters(home))) == 2


def test_the_archives_loop_drops_from_the_spool_what_came_back_through_kafka_and_nothing_else(home: Home) -> None:
    kept = AWAY.model_copy(update={"kafka": AWAY.kafka.model_copy(update={"spool_keep_hours": 0})})
    fill(home, 30)
    Archiving(home, kept).step()
    with LocalLog(home.log) as log:
        assert log.count(EVENTS) == 30, "none has gone to Kafka"
        log.commit(EVENTS, "relay", 20)
        Archiving(home, kept).step()
        assert log.count(EVENTS) == 30, "none has come back"
        with mirror_of(home) as mirror:
            mirror.append_with([], {spool_mark(EVENTS): "15"})
        assert trim_logs(home, AWAY, 1000) == 0, "a day is kept"
        Archiving(home, kept).step()
        assert log.first(EVENTS) == 16


def test_what_is_archived_leaves_the_log_only_where_that_is_asked_for(home: Home, tmp_path: Path) -> None:
    fill(home, 30)
    assert trim_logs(home, Settings(), 1000) == 0
    briefly = Settings(retention=Retention(log_days=1e-9))
    assert trim_logs(home, briefly, 1000) == 0, "nothing is archived"
    with LocalLog(home.log) as log:
        archive(log, FolderStore(home.history))
    export_data(home, briefly, tmp_path / "all.jsonl")
    assert trim_logs(home, briefly, 1000) == 29
    with pytest.raises(DataError, match="log_days"):
        export_data(home, briefly, tmp_path / "part.jsonl")
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == 30
    assert not (tmp_path / "part.jsonl").exists()


def test_up_runs_it_where_kafka_is_configured(home: Home) -> None:
    free = load({"GREENLIGHT_SERVING__PORT": "0", "GREENLIGHT_REGISTRY__PORT": "0"})  # of any port that others use
    behind = free.model_copy(update={"kafka": AWAY.kafka})
    without, with_it = ({child.name for child in children(home, settings, print)} for settings in (free, behind))
    assert with_it - without >= {"relaying"}


def test_relay_and_mirror_share_the_file_that_tells_of_them(home: Home) -> None:
    note(home, "mirror", {"source": "kafka"})
    note(home, "relay", {"state": "closed"})
    assert json.loads(home.kafka.read_text()) == {"mirror": {"source": "kafka"}, "relay": {"state": "closed"}}
    assert noted(home, "nobody") == {}

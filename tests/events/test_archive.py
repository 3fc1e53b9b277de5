"""The archive: by day, each event once, whatever interrupts it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from conf.home import Home
from events.archive import FILE, GROUP, SCHEMAS, ArchiveError, archive, find, read_topic
from events.codecs import Rules, decode, encode
from events.event import (
    CATALOGUE,
    DEAD_LETTER,
    EVENTS,
    IMPRESSIONS,
    Account,
    AnyEvent,
    Click,
    Impression,
    Movie,
    Rating,
    Unreadable,
    Watch,
)
from events.local_log import LocalLog
from events.store import FolderStore

DAY = 86_400_000
NOON = 1_700_000_000_000 // DAY * DAY + DAY // 2

ARCHIVER = """
import sys
from pathlib import Path
from events.archive import archive
from events.local_log import LocalLog
from events.store import FolderStore, StoreError
with LocalLog(Path(sys.argv[1])) as log:
    try:
        archive(log, FolderStore(Path(sys.argv[2])))
    except StoreError as why:
        sys.exit(f"refused: {why}")
"""


def of_each_kind() -> list[AnyEvent]:
    return [
        Watch(event_id="w", ts=NOON, user_id="u", movie_id="m", minute=0),
        Rating(event_id="r", ts=NOON + DAY, user_id="u", movie_id="m", rating=3.5, scale=5),
        Click(event_id="c", ts=NOON, user_id="u", movie_id="m", request_id="q"),
        Click(event_id="d", ts=NOON, user_id="u", movie_id="m"),
        Account(event_id="a", ts=NOON, user_id="u"),
        Movie(event_id="m", movie_id="m", title="Été", genres=("Drama", "War")),
        Movie(event_id="n", movie_id="n"),
        Impression(
            event_id="i", ts=NOON, wall_ts=NOON + 1, user_id="u", arm="champion", release="d", rung="stale",
            items=("m", "n"), propensities=(0.5, 1.0), k=2, latency_ms=1.5, failure="",
        ),
        Unreadable(event_id="x", ts=NOON, source="f", line=3, reason="why", raw="\\xff"),
    ]  # fmt: skip


def ratings(first: int, last: int) -> list[Rating]:
    return [
        Rating(event_id=f"e{n}", ts=NOON + n % 7 * DAY, user_id=f"u{n}", movie_id="m", rating=1, scale=5)
        for n in range(first, last)
    ]


@pytest.fixture
def log(tmp_path: Path) -> LocalLog:
    return LocalLog(tmp_path / "log.db")


def test_every_kind_comes_back_equal_by_its_id(log: LocalLog, tmp_path: Path) -> None:
    events = of_each_kind()
    log.append_all(events)
    assert archive(log, FolderStore(tmp_path / "history")) == len(events)
    assert [find(FolderStore(tmp_path / "history"), event.topic, event.event_id) for event in events] == events
    assert find(FolderStore(tmp_path / "history"), EVENTS, "nobody") is None
    assert [log.lag(topic, GROUP) for topic in SCHEMAS] == [0, 0, 0, 0]


def test_days_are_utc_and_any_engine_reads_them(log: LocalLog, tmp_path: Path) -> None:
    log.append(EVENTS, ratings(0, 20))
    archive(log, FolderStore(tmp_path))
    days = [path.parent.name for path in sorted((tmp_path / EVENTS).rglob("*.parquet"))]
    assert days == [f"day=2023-11-{n}" for n in range(14, 21)]
    table = ds.dataset(tmp_path / EVENTS, partitioning="hive").to_table(filter=ds.field("day") == "2023-11-15")
    assert sorted(table["event_id"].to_pylist()) == ["e1", "e15", "e8"]


def test_later_events_join_their_day(log: LocalLog, tmp_path: Path) -> None:
    for part in range(3):
        log.append(EVENTS, ratings(part * 10, part * 10 + 10))
        archive(log, FolderStore(tmp_path))
    table = read_topic(FolderStore(tmp_path), EVENTS, ["offset", "event_id"])
    assert table.sort_by("offset")["event_id"].to_pylist() == [f"e{n}" for n in range(30)]
    assert len(list((tmp_path / EVENTS).glob("day=*/*"))) == 7


def test_what_was_written_but_not_committed_is_not_doubled(log: LocalLog, tmp_path: Path) -> None:
    log.append(EVENTS, ratings(0, 20))
    archive(log, FolderStore(tmp_path))
    outside = apsw.Connection(str(tmp_path / "log.db"))
    outside.execute("DELETE FROM groups")  # as if killed between the last rename and the commit
    outside.close()
    log.append(EVENTS, ratings(20, 25))
    assert archive(log, FolderStore(tmp_path)) == 25
    assert sorted(read_topic(FolderStore(tmp_path), EVENTS)["offset"].to_pylist()) == list(range(1, 26))


def test_killed_anywhere_the_next_run_completes_it(log: LocalLog, tmp_path: Path, need: Callable[[str], str]) -> None:
    strace = need("strace")
    log.append_all([*ratings(0, 50), *of_each_kind()])
    for nth in (1, 2):  # the N-th rename of any of its threads kills it
        inject = f"inject=rename:signal=KILL:when={nth}"
        command = [strace, "-f", "-o", "/dev/null", "-e", "trace=rename", "-e", inject, sys.executable, "-c", ARCHIVER]
        done = subprocess.run([*command, str(log.path), str(tmp_path / "history")], timeout=60)
        assert done.returncode in (0, -signal.SIGKILL, 128 + signal.SIGKILL)
    archive(log, FolderStore(tmp_path / "history"))
    assert sorted(read_topic(FolderStore(tmp_path / "history"), EVENTS)["event_id"].to_pylist()) == sorted(
        [f"e{n}" for n in range(50)] + list("wrcda")
    )
    assert len(read_topic(FolderStore(tmp_path / "history"), CATALOGUE)) == 2
    assert len(read_topic(FolderStore(tmp_path / "history"), DEAD_LETTER)) == 1


def test_a_full_disk_is_named_and_loses_nothing(log: LocalLog, tmp_path: Path, need: Callable[[str], str]) -> None:
    log.append(EVENTS, ratings(0, 20))
    part = tmp_path / "history" / EVENTS / "day=2023-11-16" / "events.part"
    part.parent.mkdir(parents=True)
    command = [need("strace"), "-f", "-o", "/dev/null", "-P", str(part), "-e", "inject=write:error=ENOSPC"]
    command += [sys.executable, "-c", ARCHIVER, str(log.path), str(tmp_path / "history")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "day=2023-11-16" in done.stderr
    assert "No space left on device" in done.stderr
    assert log.lag(EVENTS, GROUP) == 20
    archive(log, FolderStore(tmp_path / "history"))
    assert len(read_topic(FolderStore(tmp_path / "history"), EVENTS)) == 20


def test_a_damaged_file_is_named(log: LocalLog, tmp_path: Path) -> None:
    log.append(EVENTS, ratings(0, 3))
    archive(log, FolderStore(tmp_path))
    file = tmp_path / EVENTS / "day=2023-11-15" / FILE
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ArchiveError, match=r"day=2023-11-15/events\.parquet cannot be read"):
        read_topic(FolderStore(tmp_path), EVENTS)


def test_unreadable_records_of_a_topic_are_passed_over(log: LocalLog, tmp_path: Path) -> None:
    log.append(EVENTS, ratings(0, 3))
    outside = apsw.Connection(str(log.path))
    outside.execute("UPDATE records SET body = ? WHERE offset = 2", (b"x,y",))
    outside.close()
    archive(log, FolderStore(tmp_path))
    assert read_topic(FolderStore(tmp_path), EVENTS)["event_id"].to_pylist() == ["e0", "e2"]
    assert read_topic(FolderStore(tmp_path), DEAD_LETTER)["raw"].to_pylist() == ["x,y"]
    assert log.lag(EVENTS, GROUP) == 0


@pytest.mark.parametrize("event", of_each_kind(), ids=lambda event: f"{event.kind} {event.event_id}")
def test_whatever_number_a_foreign_record_holds_it_is_quarantined_or_archived_as_it_is(
    event: AnyEvent, log: LocalLog, tmp_path: Path
) -> None:
    """One event that passed and that no column could hold would stop the archive for good."""
    whole = json.loads(encode(event))
    odd = [
        "9" * 40,
        "-1",
        str(2**63),
        str(2**63 - 1),
        str(2**64 - 1),
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        "5e-324",
    ]
    odd += [f"[{number}]" for number in odd]
    raw = [json.dumps(whole | {name: "?"}).replace('"?"', number) for name in whole for number in odd]
    read = [decode(one.encode(), "there", n, rules) for n, one in enumerate(raw) for rules in (None, Rules())]
    taken = [one.model_copy(update={"event_id": f"e{n}"}) for n, one in enumerate(read)]
    log.append_all(taken)
    assert [log.get(one.topic, one.event_id) for one in taken] == taken
    store = FolderStore(tmp_path / "history")
    archive(log, store)
    assert sum(len(read_topic(store, topic, ["event_id"])) for topic in SCHEMAS) == len(taken)


def test_nothing_archived_is_an_empty_table(tmp_path: Path) -> None:
    for topic in (EVENTS, IMPRESSIONS):
        assert read_topic(FolderStore(tmp_path), topic).schema == SCHEMAS[topic]
        assert len(read_topic(FolderStore(tmp_path), topic)) == 0


def test_two_archives_at_once_double_nothing(log: LocalLog, tmp_path: Path) -> None:
    log.append(EVENTS, ratings(0, 500))
    command = [sys.executable, "-c", ARCHIVER, str(log.path), str(tmp_path / "history")]
    both = [subprocess.Popen(command, env=os.environ) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert sorted(read_topic(FolderStore(tmp_path / "history"), EVENTS)["offset"].to_pylist()) == list(range(1, 501))


def test_a_history_that_was_lost_is_written_again(log: LocalLog, tmp_path: Path) -> None:
    """Also where that was interrupted half-way: the mark of it stays until the end."""
    history = tmp_path / "history"
    log.append_all(ratings(0, 30))
    archive(log, FolderStore(history))
    shutil.rmtree(history)
    assert archive(log, FolderStore(history)) == 30
    shutil.rmtree(history / EVENTS / sorted(os.listdir(history / EVENTS))[0])
    (history / f".{EVENTS}.again").touch()
    archive(log, FolderStore(history))
    assert sorted(read_topic(FolderStore(history), EVENTS)["event_id"].to_pylist()) == sorted(
        e.event_id for e in ratings(0, 30)
    )
    assert archive(log, FolderStore(history)) == 0


def test_a_day_written_before_its_events_had_a_column_is_read_and_added_to(home: Home) -> None:
    """A slate of a time before exploration: its file lacks the column, and the slate was not explored."""
    store, slate = FolderStore(home.history), of_each_kind()[-2]
    with LocalLog(home.log) as log:
        log.append(IMPRESSIONS, [slate])
        archive(log, store)
        (name,) = store.names(IMPRESSIONS)
        file = home.history / name
        pq.write_table(pq.read_table(file, partitioning=None).drop_columns(["explored"]), file)
        assert find(store, IMPRESSIONS, "i") == slate
        assert read_topic(store, IMPRESSIONS)["explored"].to_pylist() == [None]
        later = slate.model_copy(update={"event_id": "j", "explored": True})
        log.append(IMPRESSIONS, [later])
        archive(log, store)
        assert read_topic(store, IMPRESSIONS)["explored"].to_pylist() == [None, True]
        assert find(store, IMPRESSIONS, "j") == later

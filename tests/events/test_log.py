"""LocalLog beyond the contract: the event clock, records that cannot be read, and faults from outside."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from events.event import CATALOGUE, DEAD_LETTER, EVENTS, IMPRESSIONS, Impression, Movie, Rating, Unreadable
from events.local_log import LocalLog
from events.log import LogAtCap, LogError

START = 1_700_000_000_000
LATER = 4_000_000_000_000

WRITER = """
import sys
from pathlib import Path
from events.event import EVENTS, Rating
from events.local_log import LocalLog
from events.log import LogAtCap, LogError
log = LocalLog(Path(sys.argv[1]))
print("open", flush=True)
for n in range(int(sys.argv[2]), int(sys.argv[3])):
    try:
        log.append(EVENTS, [Rating(event_id=f"e{n}", ts=n + 1, user_id="u", movie_id="m", rating=4, scale=5)])
    except LogError as why:
        print("refused", type(why).__name__, why, flush=True)
    else:
        print("acknowledged", n, flush=True)
"""


def view(number: int, ts: int = START) -> Rating:
    return Rating(event_id=f"e{number}", ts=ts, user_id="u", movie_id="m", rating=4, scale=5)


def writer(path: Path, first: int, last: int, *before: str) -> list[str]:
    command = [*before, sys.executable, "-c", WRITER, str(path), str(first), str(last)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.splitlines()


def stored(path: Path) -> set[str]:
    with LocalLog(path) as log:
        return {record.event.event_id for record in log.iterate(EVENTS)}


def test_the_event_clock_follows_viewers_and_nothing_else(tmp_path: Path) -> None:
    with LocalLog(tmp_path / "log.db") as log:
        assert log.now_ms() == 0
        log.append(EVENTS, [view(1, START + 5), view(2, START)])
        assert log.now_ms() == START + 5
        log.append(CATALOGUE, [Movie(event_id="m", ts=START + 9, movie_id="m")])
        served = Impression(
            event_id="r", ts=START + 99, wall_ts=START + 99, user_id="u", arm="champion", release="d", rung="model",
            items=("m",), propensities=(1.0,), k=1, latency_ms=1,
        )  # fmt: skip
        log.append(IMPRESSIONS, [served])
        assert log.now_ms() == START + 5
        assert log.get(IMPRESSIONS, "r") == served
        assert log.get(IMPRESSIONS, "other") is None


def test_kinds_go_to_their_topics_in_one_order(tmp_path: Path) -> None:
    events = [view(1), Movie(event_id="m1", movie_id="m1"), view(2), Movie(event_id="m2", movie_id="m2"), view(1)]
    with LocalLog(tmp_path / "log.db") as log:
        assert log.append_all(events) == {EVENTS: (2, 1), CATALOGUE: (2, 0)}
        ids = [json.loads(body)["event_id"] for body in log.bodies([EVENTS, CATALOGUE])]
        assert ids == ["e1", "m1", "e2", "m2"]
        assert (log.count(EVENTS), log.count(CATALOGUE)) == (2, 2)


def test_evt_01_unreadable_records_are_quarantined_and_never_stop_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with LocalLog(path) as log:
        log.append(EVENTS, [view(n) for n in range(13)])
    outside = apsw.Connection(str(path))
    for offset, body in enumerate([b"\xff\xfe", b"", b"x,y"], start=1):
        outside.execute("UPDATE records SET body = ? WHERE offset = ?", (body, offset))
    outside.close()
    with LocalLog(path) as log:
        for _ in range(2):  # reading them again quarantines nothing twice
            records = log.read(EVENTS, "consumer")
        good = [r.event for r in records if not isinstance(r.event, Unreadable)]
        log.commit(EVENTS, "consumer", records[-1].offset)
        assert len(good) == 10
        assert log.lag(EVENTS, "consumer") == 0
        dead = [r.event for r in log.iterate(DEAD_LETTER)]
        assert [(d.source, d.line, d.raw) for d in dead if isinstance(d, Unreadable)] == [
            (EVENTS, 1, "\\xff\\xfe"),
            (EVENTS, 2, ""),
            (EVENTS, 3, "x,y"),
        ]
        assert all(d.reason for d in dead if isinstance(d, Unreadable))


def test_threads_of_one_process_share_a_log(tmp_path: Path) -> None:
    with LocalLog(tmp_path / "log.db") as log:
        threads = [
            threading.Thread(target=lambda part=part: [log.append(EVENTS, [view(part * 100 + n)]) for n in range(25)])
            for part in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert log.count(EVENTS) == 100


def test_processes_may_make_the_log_at_the_same_moment(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "log.db")]
    writers = [
        subprocess.Popen([*command, str(n * 5), str(n * 5 + 5)], stdout=subprocess.PIPE, text=True) for n in range(4)
    ]
    heard = [process.communicate(timeout=60)[0] for process in writers]
    assert all(text.count("acknowledged") == 5 for text in heard), heard
    assert stored(tmp_path / "log.db") == {f"e{n}" for n in range(20)}


def test_what_was_acknowledged_before_a_kill_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    command = [sys.executable, "-c", WRITER, str(path), "0", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        heard = [process.stdout.readline() for _ in range(50)]
        os.kill(process.pid, signal.SIGKILL)
        heard += process.stdout.readlines()
    acknowledged = {f"e{line.split()[1]}" for line in heard if line.startswith("acknowledged") and line.endswith("\n")}
    assert len(acknowledged) >= 49
    assert acknowledged <= stored(path)


def test_a_failed_sync_acknowledges_nothing(tmp_path: Path, need: Callable[[str], str]) -> None:
    path = tmp_path / "log.db"
    writer(path, 0, 3)
    fault = [
        need("strace"),
        "-f",
        "-o",
        "/dev/null",
        "-e",
        "trace=fdatasync",
        "-e",
        "inject=fdatasync:error=EIO:when=2+",
    ]
    heard = writer(path, 3, 8, *fault)
    refused = [line for line in heard if line.startswith("refused")]
    assert refused, heard
    assert all("LogError" in line and str(path) in line for line in refused)
    acknowledged = {f"e{line.split()[1]}" for line in heard if line.startswith("acknowledged")}
    assert {"e0", "e1", "e2"} | acknowledged <= stored(path)
    assert writer(path, 8, 9)[-1] == "acknowledged 8"


def test_a_full_disk_is_named_and_the_log_goes_on_afterwards(tmp_path: Path, need: Callable[[str], str]) -> None:
    path = tmp_path / "log.db"
    writer(path, 0, 3)
    inject = "inject=write,pwrite64:error=ENOSPC:when=4+"
    heard = writer(path, 3, 8, need("strace"), "-f", "-o", "/dev/null", "-P", str(path) + "-wal", "-e", inject)
    refused = [line for line in heard if line.startswith("refused")]
    assert refused, heard
    assert all("LogFull" in line and "no space left" in line for line in refused)
    acknowledged = {f"e{line.split()[1]}" for line in heard if line.startswith("acknowledged")}
    assert stored(path) == {"e0", "e1", "e2"} | acknowledged
    assert writer(path, 8, 9)[-1] == "acknowledged 8"


def test_a_file_that_is_no_log_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    path.write_bytes(b"half a state folder" * 500)
    with pytest.raises(LogError, match=r"log\.db is not a whole event log"):
        LocalLog(path)


def test_a_log_of_a_later_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    LocalLog(path).close()
    outside = apsw.Connection(str(path))
    outside.pragma("user_version", 99)
    outside.close()
    with pytest.raises(LogError, match="format 99"):
        LocalLog(path)


def test_an_empty_file_left_by_a_kill_becomes_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    path.touch()
    with LocalLog(path) as log:
        assert log.count(EVENTS) == 0


def test_a_thread_that_waits_for_anothers_lock_does_not_stop_the_other(tmp_path: Path) -> None:
    """Else a worker whose journal and intake write at once would stand still until the wait is over."""
    path, raised = tmp_path / "log.db", []
    with LocalLog(path, busy_timeout_ms=5_000) as log:
        outside = apsw.Connection(str(path))
        outside.execute("BEGIN IMMEDIATE")

        def write() -> None:
            try:
                log.append(EVENTS, [view(1)])
            except LogError as why:
                raised.append(why)

        waiting = threading.Thread(target=write)
        waiting.start()
        waiting.join(0.3)
        outside.execute("ROLLBACK")
        waiting.join()
        assert not raised
        assert log.count(EVENTS) == 1


def test_what_waits_is_counted_over_topics_and_is_as_old_as_it_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with LocalLog(path) as log:
        assert log.waiting({EVENTS: 0, CATALOGUE: 0}) == (0, None)
        log.append(EVENTS, [view(n) for n in range(3)])
        log.append(CATALOGUE, [Movie(event_id="m", movie_id="m")])
        begun = moments(path, "UPDATE moments SET wall_ms = wall_ms - 3600000 RETURNING wall_ms")[0][0]
        log.append(EVENTS, [view(3)])  # within a second: as old as those before it
        with LocalLog(path) as other:
            other.append(EVENTS, [view(4)])
        assert log.waiting({EVENTS: 0, CATALOGUE: 0}) == (6, begun)
        assert log.waiting({EVENTS: 3, CATALOGUE: 3}) == (3, begun)
        assert log.waiting({EVENTS: 5, CATALOGUE: 9}).since_wall_ms > begun + 3_000_000
        assert log.waiting({EVENTS: 9, CATALOGUE: 9}) == (0, None)
        moments(path, "DELETE FROM moments RETURNING offset")
        assert log.waiting({EVENTS: 0}) == (5, None)


def test_a_batch_that_was_refused_leaves_no_moment_behind(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with LocalLog(path) as log:
        log.append(EVENTS, [view(0)])
    before = moments(path, "UPDATE moments SET wall_ms = wall_ms - 3600000 RETURNING wall_ms")[0][0]
    moments(path, "CREATE TRIGGER no BEFORE INSERT ON records BEGIN SELECT RAISE(ABORT, 'no'); END")
    with LocalLog(path) as log:
        with pytest.raises(LogError):
            log.append(EVENTS, [view(1)])
        moments(path, "DROP TRIGGER no")
        log.append(EVENTS, [view(1)])
        assert log.waiting({EVENTS: 1}).since_wall_ms > before


def test_a_log_from_before_moments_were_noted_is_read_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with LocalLog(path) as log:
        log.append(EVENTS, [view(0)])
    moments(path, "DROP TABLE moments")
    with LocalLog(path) as log:
        assert log.waiting({EVENTS: 0}) == (1, None)
        log.append(EVENTS, [view(1)])
        assert log.waiting({EVENTS: 1}).since_wall_ms


def moments(path: Path, statement: str) -> list[tuple]:
    outside = apsw.Connection(str(path))
    try:
        return outside.execute(statement).fetchall()
    finally:
        outside.close()


def test_a_log_at_its_cap_refuses_and_takes_again_once_it_was_trimmed(tmp_path: Path) -> None:
    with LocalLog(tmp_path / "log.db") as others, LocalLog(tmp_path / "log.db", max_mb=0.5) as log:
        others.append(EVENTS, [view(n) for n in range(4000)])
        assert log.size_mb() > 0.5
        with pytest.raises(LogAtCap, match=r"log\.db holds 0\.5 MB"):
            log.append(EVENTS, [view(4000)])
        with pytest.raises(LogAtCap):
            log.append_each([[view(4000)], [view(4001)]])
        assert log.count(EVENTS) == 4000
        others.append(DEAD_LETTER, [])  # who has no cap is not refused
        others.commit(EVENTS, "g", 4000)
        assert others.trim(0, ["g"], LATER) == 3999
        assert log.size_mb() < 0.1
        assert log.append(EVENTS, [view(4000)]) == (1, 0)


def test_trimming_drops_what_all_groups_have_passed_and_gives_the_disk_its_room_back(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with LocalLog(path) as log:
        log.append(EVENTS, [view(n) for n in range(6000)])
        log.append(IMPRESSIONS, [view(n) for n in range(10)])
        full = log.size_mb()
        assert log.trim(0, ["a", "b"], LATER) == 0, "nobody has passed anything"
        log.commit(EVENTS, "a", 4000)
        assert log.trim(0, ["a", "b"], LATER) == 0, "b has not"
        log.commit(EVENTS, "b", 3000)
        assert log.trim(3_600_000, ["a", "b"], time.time_ns() // 10**6) == 0, "it is young"
        assert log.trim(10**30, ["a", "b"], LATER) == 0, "it is kept for ever"
        assert log.trim(0, ["a", "b"], LATER) == 3000
        assert (log.first(EVENTS), log.first(IMPRESSIONS), log.newest()) == (3001, 6001, 6010)
        assert log.lag(EVENTS, "b") == 3000
        assert log.waiting({EVENTS: 3000}).since_wall_ms
        assert log.size_mb() < 0.7 * full
        for group in "ab":
            log.commit(EVENTS, group, 6010)
        assert log.trim(0, ["a", "b"], LATER) == 2999, "the newest stays"
        assert [record.offset for record in log.iterate(EVENTS)] == [6000]
    assert path.stat().st_size < full / 3 * 2**20


def test_writers_get_between_the_bites_of_a_trimming(tmp_path: Path) -> None:
    with LocalLog(tmp_path / "log.db") as log, LocalLog(tmp_path / "log.db", busy_timeout_ms=2000) as other:
        log.append(EVENTS, [view(n) for n in range(20_000)])
        log.commit(EVENTS, "g", 20_000)
        trimming = threading.Thread(target=log.trim, args=(0, ["g"], LATER))
        trimming.start()
        stored = between = 0
        while trimming.is_alive() and between < 3:
            other.append(EVENTS, [view(20_000 + stored)])
            stored += 1
            between += trimming.is_alive()
        trimming.join()
        assert between == 3
        assert log.count(EVENTS) in (stored, stored + 1), "the newest stays, if it was still that when it began"

"""Power that fails while the log is made, at each call in turn; and that the disk of the drills forgets as disks do."""

import random
from contextlib import suppress
from pathlib import Path

import apsw

from events.event import EVENTS
from events.local_log import LocalLog
from events.log import LogError
from tests.faults.drills.forgetful import SECTOR, Content, Disk
from tests.faults.drills.power_loss import SHARES
from tests.faults.drills.viewers import rating


def stored(path: Path) -> set[str]:
    with LocalLog(path) as log:
        return {record.event.event_id for record in log.iterate(EVENTS)}


def test_power_may_fail_at_any_call_while_the_log_is_made(tmp_path: Path) -> None:
    acknowledged, calls = 0, 0
    while acknowledged < 3:
        (folder := tmp_path / f"{calls}").mkdir()
        disk, acknowledged = Disk(folder), 0
        disk.fails_in(calls)
        with disk.beneath():
            log = None
            try:
                log = LocalLog(folder / "log.db")
                while acknowledged < 3:
                    log.append(EVENTS, [rating(f"e{acknowledged}")])
                    acknowledged += 1
            except LogError:
                assert disk.off
            finally:
                with suppress(apsw.IOError):
                    log and log.close()
        for share in SHARES:
            after = tmp_path / f"{calls}-{share}"
            disk.after_power_loss(after, random.Random(calls), share)
            assert stored(after / "log.db") >= {f"e{n}" for n in range(acknowledged)}
        calls += 1
    assert calls > 20


def test_what_was_synced_stays_and_of_the_rest_any_sector_may(tmp_path: Path) -> None:
    content = Content()
    content.later.append((0, b"a" * 4 * SECTOR))
    content.sync()
    content.later += [(100, b"b" * 2 * SECTOR), (3 * SECTOR, None), (5 * SECTOR, b"c")]
    assert content.left(random.Random(1), 0.0) == b"a" * 4 * SECTOR
    everything = b"a" * 100 + b"b" * 2 * SECTOR + b"a" * (SECTOR - 100) + b"\0" * 2 * SECTOR + b"c"
    assert content.left(random.Random(1), 1.0) == everything
    parts = {content.left(random.Random(n), 0.5)[: 2 * SECTOR + 100].count(b"b") for n in range(50)}
    assert parts == {0, 100, SECTOR - 100, SECTOR, SECTOR + 100, 2 * SECTOR - 100, 2 * SECTOR}


def test_an_unsynced_name_may_be_gone_and_a_removed_one_be_back(tmp_path: Path) -> None:
    (live := tmp_path / "live").mkdir()
    disk = Disk(live)
    with disk.beneath():
        db = apsw.Connection(str(live / "a.db"))
        db.execute("CREATE TABLE t (x)")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("INSERT INTO t VALUES (1)")  # the first sync of the WAL: its name and that of the file are safe
        db.close()  # the WAL is removed, without a sync of the folder
        other = apsw.Connection(str(live / "b.db"))
        other.execute("PRAGMA synchronous = OFF")
        other.execute("CREATE TABLE t (x)")
        other.close()
    disk.after_power_loss(tmp_path / "after", random.Random(1), 0.0)
    assert {f.name for f in (tmp_path / "after").iterdir()} == {"a.db", "a.db-wal"}
    assert {f.name for f in live.iterdir()} == {"a.db", "b.db"}

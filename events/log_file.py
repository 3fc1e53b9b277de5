"""The SQLite file of a log: how it is made, opened, locked and read, and its errors in plain words.

Any number of processes may share a file, and any number of threads a connection.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import apsw

from events.disk import sync
from events.log import LogError, LogFull

FORMAT = 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    offset INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, event_id TEXT NOT NULL, body BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS record_by_id ON records (topic, event_id);
CREATE INDEX IF NOT EXISTS record_by_topic ON records (topic);
CREATE TABLE IF NOT EXISTS groups (
    topic TEXT, name TEXT, offset INTEGER NOT NULL, PRIMARY KEY (topic, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS clock (one INTEGER PRIMARY KEY CHECK (one = 1), ms INTEGER NOT NULL);
"""
MOMENTS = "CREATE TABLE IF NOT EXISTS moments (offset INTEGER PRIMARY KEY, wall_ms INTEGER NOT NULL)"

SIZE = """
SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size
"""
GATHER = """
SELECT group_concat(offset || ':' || octet_length(body), ' '), CAST(group_concat(body, '') AS BLOB) FROM ({rows})
"""


class LogFile:
    """One SQLite file with the tables of a log (WAL, `synchronous=FULL`)."""

    def __init__(self, path: Path, busy_timeout_ms: int) -> None:
        self.path, self._lock = path, threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as why:
            raise LogError(f"{path.parent} cannot be made: {why.strerror or why}") from why
        try:
            self._db = apsw.Connection(str(path))
            try:
                self._prepare(busy_timeout_ms)
                self._file = os.stat(path)
            except BaseException:
                self._db.close()
                raise
        except OSError as why:
            raise LogError(f"{path} went away while it was opened: {why.strerror or why}") from why
        except apsw.Error as why:
            raise self._plain(why, "opening it") from why

    @property
    def gone(self) -> bool:
        """Whether its path names another file by now, or none: what is stored there does not come in here."""
        try:
            return not os.path.samestat(os.stat(self.path), self._file)
        except OSError:
            return True

    def size_mb(self) -> float:
        """How much of the file holds something, in MB of 2^20 bytes; room that was given back and waits for new records
        does not count."""
        return (self._value(SIZE, ()) or 0) / (1 << 20)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self, busy_timeout_ms: int) -> None:
        if self._db.readonly("main"):  # what SQLite falls back to, for good, where opening to write failed once
            raise LogError(f"{self.path} can only be read now: see to its rights and its disk, then repeat")
        self._db.set_busy_timeout(busy_timeout_ms)
        if not self._db.pragma("page_count"):  # a new file: the disk gets back what is not needed any more
            self._db.pragma("auto_vacuum", "INCREMENTAL")
        self._to_wal(time.monotonic() + busy_timeout_ms / 1000)
        self._db.pragma("synchronous", "FULL")
        self._db.pragma("temp_store", "MEMORY")  # what a batch needs meanwhile would else go through a file
        found = self._db.pragma("user_version")
        if found not in (0, FORMAT):
            raise LogError(f"{self.path} has log format {found}; this version of Greenlight reads format {FORMAT}")
        if found == 0:  # new, or left by a process that was killed while it made the file
            with self._transaction("making it"):
                self._db.execute(SCHEMA)
                self._db.pragma("user_version", FORMAT)
            sync(self.path.parent)
        self._db.execute(MOMENTS)

    def _to_wal(self, until: float) -> None:
        """SQLite itself does not wait for another who makes the file at the same moment."""
        while True:
            try:
                self._db.pragma("journal_mode", "wal")
                return
            except apsw.BusyError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def _rows(self, query: str, values: tuple[str | int, ...]) -> list[tuple]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except apsw.Error as why:
                raise self._plain(why, "reading") from why

    def _value(self, query: str, values: tuple[Any, ...]) -> int | None:
        rows = self._rows(query, values)
        return rows[0][0] if rows else None

    def _at_once(self, rows: str, values: tuple[str | int, ...]) -> list[tuple[int, bytes]]:
        """Rows of offset and body, in order, as one row of SQLite's: the interpreter is let go of once, not for each.

        Where other threads want it too, getting it back costs more than the row.
        """
        (heads, bodies) = self._rows(GATHER.format(rows=rows), values)[0]
        found, start = [], 0
        for head in heads.split() if heads else ():
            offset, _, length = head.partition(":")
            found.append((int(offset), bodies[start : (start := start + int(length))]))
        return found

    def _free_share(self) -> float:
        """How much of the file holds nothing."""
        return self._db.pragma("freelist_count") / self._db.pragma("page_count")

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[None]:
        """Not apsw's own `with`, which keeps the interpreter while it waits for another's lock: where that other is a
        thread of this process, it could then never let go of it."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except BaseException as why:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(why, apsw.Error):
                    raise self._plain(why, doing) from why
                raise

    def _plain(self, why: apsw.Error, doing: str) -> LogError:
        if isinstance(why, apsw.FullError):
            return LogFull(f"{self.path}: no space left on the disk while {doing}; free some and repeat")
        if isinstance(why, apsw.NotADBError | apsw.CorruptError):
            return LogError(f"{self.path} is not a whole event log ({why}); move it away or restore a copy")
        return LogError(f"{self.path}: {type(why).__name__} while {doing}: {why}")

"""`LocalLog`: the event log in one SQLite file, which any number of processes may share.

Offsets rise with every stored event, over all topics together: within a topic they have gaps, and comparing two topics
tells which event was stored first. A log that follows another one in a home begins beyond its offsets (`begin_after`):
so the history of the home keeps one order, and an offset below `begins` is known to be another log's.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import apsw

from events.codecs import decode, encode
from events.event import DEAD_LETTER, EVENTS, AnyEvent, Unreadable
from events.log import BATCH, Appended, LogAtCap, Record, Waiting
from events.log_file import LogFile

MOMENT_MS = 1000  # when a record was stored is known to a second: a moment is noted so often, at most
MARKS = "CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
BEGINS, TRIMMED = "begins", "trimmed"  # marks of its own

ADD = """
INSERT INTO records (topic, event_id, body)
SELECT ?1, value ->> 'event_id', CAST(value AS BLOB) FROM carray(?2)
WHERE NOT EXISTS (SELECT 1 FROM records WHERE topic = ?1 AND event_id = value ->> 'event_id')
"""  # one statement for a whole batch: the interpreter is let go of once, not for each event
# INSERT OR IGNORE would use up an offset for each duplicate

BITE = 500  # records dropped, or pages given back, in one transaction, for which writers wait: some 20 ms
DROP = """
DELETE FROM records WHERE offset IN
(SELECT offset FROM records WHERE topic = ? AND offset <= ? ORDER BY offset LIMIT ?)
"""
SLACK = 0.25  # of the file may hold nothing: new records go there, and the rest goes back to the disk
NEXT = "SELECT min(offset) FROM records WHERE topic = ? AND offset > ?"
LACKING = """
SELECT count(*) FROM carray(?2) WHERE NOT EXISTS (SELECT 1 FROM records WHERE topic = ?1 AND event_id = value)
"""
GIVE_BACK = f"PRAGMA incremental_vacuum({BITE})"


class LocalLog(LogFile):
    """The log in one SQLite file; safe for many processes, and for many threads of one."""

    def __init__(self, path: Path, busy_timeout_ms: int = 30_000, max_mb: float | None = None) -> None:
        """max_mb: where the log holds so much, `append` raises LogAtCap; other writers of the file go by their own."""
        self._max_mb, self._moment_ms = max_mb, 0
        super().__init__(path, busy_timeout_ms)

    def append(self, topic: str, events: Iterable[AnyEvent]) -> Appended:
        return self._store([(topic, list(events))]).get(topic, Appended(0, 0))

    def append_all(self, events: Iterable[AnyEvent]) -> dict[str, Appended]:
        """Store events of several kinds, each in its own topic, in this order and in one transaction."""
        return self._store([(topic, list(run)) for topic, run in groupby(events, key=lambda event: event.topic)])

    def append_each(self, batches: Iterable[Iterable[AnyEvent]]) -> list[dict[str, Appended]]:
        """As `append_all` for each batch, with counts of its own, and all in one transaction."""
        runs = [[(topic, list(run)) for topic, run in groupby(batch, key=lambda e: e.topic)] for batch in batches]
        with self._storing():
            self._see_to_room()
            return [self._insert(batch) for batch in runs]

    def append_with(self, events: Iterable[AnyEvent], marks: Mapping[str, str]) -> dict[str, Appended]:
        """As `append_all`, and in the same transaction set marks: how far what these come from was read."""
        runs = [(topic, list(run)) for topic, run in groupby(events, key=lambda event: event.topic)]
        with self._storing():
            stored = self._insert(runs)
            self._mark(marks)
        return stored

    def read(self, topic: str, group: str, limit: int = BATCH, after: int | None = None) -> list[Record]:
        return self.tail(topic, self.committed(topic, group) if after is None else after, limit)

    def commit(self, topic: str, group: str, offset: int) -> None:
        with self._transaction("committing an offset"):
            self._db.execute(
                "INSERT INTO groups VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET offset = max(offset, excluded.offset)",
                (topic, group, offset),
            )

    def committed(self, topic: str, group: str) -> int:
        """The last offset that `group` is done with; 0 before its first."""
        return self._value("SELECT offset FROM groups WHERE topic = ? AND name = ?", (topic, group)) or 0

    def lag(self, topic: str, group: str) -> int:
        return self.after(topic, self.committed(topic, group))

    def after(self, topic: str, offset: int) -> int:
        """How many records of a topic are stored after an offset."""
        return self._value("SELECT count(*) FROM records WHERE topic = ? AND offset > ?", (topic, offset)) or 0

    def waiting(self, taken: Mapping[str, int]) -> Waiting:
        """What stands in each of these topics after the offset up to which a reader has taken it."""
        records = sum(self.after(topic, offset) for topic, offset in taken.items())
        firsts = [self._value(NEXT, (topic, offset)) for topic, offset in taken.items()]
        oldest = min((first for first in firsts if first is not None), default=None)
        if oldest is None:
            return Waiting(0, None)
        stored = "SELECT wall_ms FROM moments WHERE offset <= ? ORDER BY offset DESC LIMIT 1"
        return Waiting(records, self._value(stored, (oldest,)))

    def tail(self, topic: str, after_offset: int, limit: int = BATCH) -> list[Record]:
        """Records after an offset, oldest first, without a group. Those that cannot be read go to the dead letter."""
        rows = self.stored(topic, after_offset, limit)
        records = [Record(offset, decode(body, topic, offset)) for offset, body in rows]
        if topic != DEAD_LETTER and (bad := [r.event for r in records if isinstance(r.event, Unreadable)]):
            self.append(DEAD_LETTER, bad)
        return records

    def stored(self, topic: str, after: int, limit: int = BATCH) -> list[tuple[int, bytes]]:
        """Offset and stored JSON of the next records of one topic after an offset, oldest first."""
        query = "SELECT offset, body FROM records WHERE topic = ? AND offset > ? ORDER BY offset LIMIT ?"
        return self._at_once(query, (topic, after, limit))

    def iterate(self, topic: str, after_offset: int = 0) -> Iterator[Record]:
        """All records after an offset, read in batches."""
        while records := self.tail(topic, after_offset):
            yield from records
            after_offset = records[-1].offset

    def bodies(self, topics: Iterable[str]) -> Iterator[bytes]:
        """The stored JSON of every record of some topics, in the order in which they were stored."""
        wanted, after, newest = tuple(topics), 0, self.newest()
        while rows := self.raw(wanted, after, newest):
            yield from (body for _, body in rows)
            after = rows[-1][0]

    def raw(self, topics: Sequence[str], after: int, to: int, limit: int = BATCH) -> list[tuple[int, bytes]]:
        """Offset and stored JSON of the records of some topics after one offset and up to another, oldest first."""
        marks = ",".join("?" * len(topics))
        # the unary plus keeps SQLite on the offsets: walking the index by topic would need a sort
        rows = (
            "SELECT offset, body FROM records WHERE offset > ? AND offset <= ? "
            f"AND +topic IN ({marks}) ORDER BY offset LIMIT ?"
        )
        return self._at_once(rows, (after, to, *topics, limit))

    def newest(self) -> int:
        """The largest offset that was ever given to a record, over all topics; 0 before the first."""
        return self._value("SELECT seq FROM sqlite_sequence WHERE name = 'records'", ()) or 0

    def first(self, topic: str) -> int | None:
        """The smallest offset of the topic that the log still holds; None where it holds none."""
        return self._value("SELECT min(offset) FROM records WHERE topic = ?", (topic,))

    def held(self, after: int, before: int) -> int:
        """How many records of any topic stand between two offsets. Fewer than there are offsets: some were dropped."""
        return self._value("SELECT count(*) FROM records WHERE offset > ? AND offset < ?", (after, before)) or 0

    def get(self, topic: str, event_id: str) -> AnyEvent | None:
        """The event with this id, or None."""
        rows = self._rows("SELECT offset, body FROM records WHERE topic = ? AND event_id = ?", (topic, event_id))
        return decode(rows[0][1], topic, rows[0][0]) if rows else None

    def holds(self, topic: str, event_id: str) -> bool:
        return self._value("SELECT 1 FROM records WHERE topic = ? AND event_id = ?", (topic, event_id)) is not None

    def ids(self, topic: str, after: int, to: int) -> list[tuple[int, str]]:
        """Offset and event id of the next records of a topic after one offset and up to another, at most `BATCH`."""
        query = "SELECT offset, event_id FROM records WHERE topic = ? AND offset > ? AND offset <= ? ORDER BY 1 LIMIT ?"
        return self._rows(query, (topic, after, to, BATCH))

    def lacking(self, topic: str, event_ids: Sequence[str]) -> int:
        """How many of some ids the topic does not hold."""
        return self._value(LACKING, (topic, apsw.carray(tuple(event_ids)))) or 0

    def count(self, topic: str) -> int:
        return self._value("SELECT count(*) FROM records WHERE topic = ?", (topic,)) or 0

    def trim(self, keep_ms: int, groups: Sequence[str], now_ms: int, most: int = 1 << 40) -> int:
        """Drop the records that every one of `groups` has passed and that were stored more than `keep_ms` before
        `now_ms`, but for the newest of each topic, and at most about so many; how many there were.

        It takes a small bite at a time, so that writers get between, and can be broken off anywhere.
        """
        dropped, old = 0, self._stored_before(max(0, now_ms - keep_ms))
        known = old  # up to here, moments are of no use any more
        for (topic,) in self._rows("SELECT DISTINCT topic FROM groups", ()):
            newest = self._value("SELECT max(offset) FROM records WHERE topic = ?", (topic,)) or 0
            passed = min(self.committed(topic, group) for group in groups)
            to, first = min(old, passed, newest - 1), self.first(topic)
            if first is not None and first <= to and not self.trimmed:
                with self._transaction("noting that it is trimmed"):
                    self._mark({TRIMMED: str(now_ms)})
            while dropped < most and (count := self._bite(DROP, (topic, to, BITE))):
                dropped += count
            known = min(known, self._value(NEXT, (topic, passed)) or known)
        self._bite("DELETE FROM moments WHERE offset < (SELECT max(offset) FROM moments WHERE offset <= ?)", (known,))
        while self._db.pragma("auto_vacuum") and self._free_share() > SLACK:
            self._bite(GIVE_BACK)
        return dropped

    def _stored_before(self, wall_ms: int) -> int:
        """The last offset of the records that were stored before a moment; 0 where none is known to be."""
        old = self._value("SELECT max(offset) FROM moments WHERE wall_ms <= ?", (wall_ms,))
        if old is None:
            return 0
        younger = self._value("SELECT min(offset) FROM moments WHERE offset > ?", (old,))
        return younger - 1 if younger else self.newest()

    def _bite(self, statement: str, values: tuple[str | int, ...] = ()) -> int:
        """One short transaction, and as long a pause; how many rows it changed."""
        begun, before = time.monotonic(), self._db.total_changes()
        with self._transaction("dropping what is old"):
            self._db.execute(statement, values).fetchall()
        count = self._db.total_changes() - before
        time.sleep(time.monotonic() - begun)
        return count

    def now_ms(self) -> int:
        """The event clock: the newest time of any stored viewer event, 0 before the first."""
        return self._value("SELECT ms FROM clock", ()) or 0

    @property
    def marks(self) -> dict[str, str]:
        """What `append_with` set, by name."""
        known = self._rows("SELECT 1 FROM sqlite_master WHERE name = 'marks'", ())
        return dict(self._rows("SELECT name, value FROM marks", ())) if known else {}

    @property
    def begins(self) -> int:
        """The offset after which this log gave its own; 0 unless `begin_after` moved it."""
        return int(self.marks.get(BEGINS, 0))

    @property
    def trimmed(self) -> bool:
        """Whether it ever dropped what it held."""
        return TRIMMED in self.marks

    def gave(self, offset: int) -> bool:
        """Whether an offset may be one of this log's."""
        return self.begins < offset <= self.newest()

    def begin_after(self, offset: int) -> None:
        """Give only offsets beyond this one from now on. Nothing happens where that is so already."""
        with self._transaction("setting the first offset"):
            if self.newest() < offset:
                self._db.execute("DELETE FROM sqlite_sequence WHERE name = 'records'")
                self._db.execute("INSERT INTO sqlite_sequence VALUES ('records', ?)", (offset,))
                self._mark({BEGINS: str(offset)})

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """A transaction in which moments may be noted."""
        with self._lock:
            try:
                with self._transaction("storing events"):
                    yield
            except BaseException:
                self._moment_ms = 0  # it may have been noted in vain
                raise

    def _store(self, runs: list[tuple[str, list[AnyEvent]]]) -> dict[str, Appended]:
        with self._storing():
            self._see_to_room()
            return self._insert(runs)

    def _insert(self, runs: list[tuple[str, list[AnyEvent]]]) -> dict[str, Appended]:
        """In the transaction of the caller."""
        stored: dict[str, Appended] = {}
        self._note_moment(time.time_ns() // 1_000_000)
        for topic, events in runs:
            first: dict[str, AnyEvent] = {}
            for event in events:
                first.setdefault(event.event_id, event)
            before = self._db.total_changes()
            if first:
                self._db.execute(ADD, (topic, apsw.carray(tuple(map(encode, first.values())))))
            added = self._db.total_changes() - before
            so_far = stored.get(topic, Appended(0, 0))
            stored[topic] = Appended(so_far.added + added, so_far.duplicates + len(events) - added)
        self._advance_clock(max((e.ts for topic, events in runs if topic == EVENTS for e in events), default=0))
        return stored

    def _note_moment(self, wall_ms: int) -> None:
        """The next record is stored at this moment. Those after it count as of then until another moment is noted."""
        if abs(wall_ms - self._moment_ms) >= MOMENT_MS:
            self._db.execute("INSERT OR REPLACE INTO moments VALUES (?, ?)", (self.newest() + 1, wall_ms))
            self._moment_ms = wall_ms

    def _mark(self, marks: Mapping[str, str]) -> None:
        """In the transaction of the caller."""
        self._db.execute(MARKS)
        self._db.executemany("INSERT OR REPLACE INTO marks VALUES (?, ?)", list(marks.items()))

    def _advance_clock(self, ms: int) -> None:
        if ms:
            self._db.execute("INSERT INTO clock VALUES (1, ?) ON CONFLICT DO UPDATE SET ms = max(ms, ?)", (ms, ms))

    def _see_to_room(self) -> None:
        if self._max_mb is not None and self.size_mb() >= self._max_mb:
            raise LogAtCap(f"{self.path} holds {self._max_mb:,g} MB, as much as it may; nothing was stored")

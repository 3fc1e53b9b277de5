"""The archive: consumer group `archive` of the log, which writes the history as day-partitioned Parquet.

    <history>/<topic>/day=YYYY-MM-DD/events.parquet        rows of one UTC day, by offset, each event id once

The history is a folder or a bucket (store.py). A day's new rows are merged with its file into a new one, which is put
in its place whole; only then is the offset committed. Interrupted anywhere, the next run reads the same records again
and drops those already there. Any engine that knows Hive partitions reads it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conf.home import Home
from conf.settings import Settings
from events.disk import write_whole
from events.event import ANY_EVENT, CATALOGUE, DEAD_LETTER, EVENTS, IMPRESSIONS, AnyEvent
from events.local_log import LocalLog
from events.log import Log, Record
from events.pace import Rest, no_rest
from events.reading import ARCHIVE, to_archive
from events.store import Store, StoreError

GROUP = ARCHIVE
PIECE = 1000  # records of one read: some milliseconds
CHUNK = 1_000_000  # records between two commits: a day's file is rewritten once per chunk, and a chunk fits in memory
DAY_MS = 86_400_000
LATEST_MS = 253_402_300_799_999  # in the year 9999
FILE = "events.parquet"
WRITERS = 8  # days read or written at once; waiting for the disk or the bucket
_computing = threading.Lock()  # one at a time: where every core computes, requests wait their turn

_TEXT, _COUNT, _NUMBER = pa.string(), pa.int64(), pa.float64()
_COMMON = {"offset": _COUNT, "version": _COUNT, "event_id": _TEXT, "kind": _TEXT, "ts": _COUNT}
SCHEMAS = {
    topic: pa.schema(_COMMON | columns)
    for topic, columns in {
        EVENTS: {
            "user_id": _TEXT,
            "movie_id": _TEXT,
            "minute": _COUNT,
            "rating": _NUMBER,
            "scale": _NUMBER,
            "request_id": _TEXT,
        },
        CATALOGUE: {"movie_id": _TEXT, "title": _TEXT, "genres": pa.list_(_TEXT)},
        IMPRESSIONS: {
            "wall_ts": _COUNT,
            "user_id": _TEXT,
            "arm": _TEXT,
            "release": _TEXT,
            "rung": _TEXT,
            "items": pa.list_(_TEXT),
            "propensities": pa.list_(_NUMBER),
            "k": _COUNT,
            "latency_ms": _NUMBER,
            "failure": _TEXT,
            "explored": pa.bool_(),
        },
        DEAD_LETTER: {"source": _TEXT, "line": _COUNT, "reason": _TEXT, "raw": _TEXT},
    }.items()
}


class ArchiveError(StoreError):
    """A file of the history is damaged; the message names it."""


def archive(log: Log, store: Store, progress: Callable[[int], None] | None = None, rest: Rest = no_rest) -> int:
    """Write what the log holds beyond the archive; the number of events, also told to `progress` on the way.

    rest: called between pieces of work that take some milliseconds, for who does not have the machine for himself.

    A topic that was lost is written again from the beginning of the log, however often that is interrupted.
    StoreError where a day cannot be read or written: what was not committed is done when this is repeated.
    """
    done = 0
    with store.alone():
        for topic in SCHEMAS:
            again = store.marks / f".{topic}.again"
            if next(store.names(topic), None) is None:
                again.touch()
            last = 0 if again.exists() else None
            while chunk := _next_chunk(log, topic, last, rest):
                rows, last = chunk
                _merge(store, topic, rows, rest)
                log.commit(topic, GROUP, last)
                done += len(rows)
                if progress:
                    progress(done)
            again.unlink(missing_ok=True)
    return done


def catch_up(
    home: Home,
    settings: Settings,
    store: Store,
    progress: Callable[[int], None] | None = None,
    rest: Rest = no_rest,
) -> int:
    """As `archive`, from the log that is read and, where Kafka was in use and is not now, before it from the mirror: it
    has what came in elsewhere."""
    done = 0
    for path in to_archive(home, settings):
        with LocalLog(path) as log:
            done += archive(log, store, progress, rest)
    return done


def read_topic(store: Store, topic: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All archived events of a topic, day by day, with some columns of `SCHEMAS[topic]` or all; empty where none is."""
    schema = SCHEMAS[topic] if columns is None else pa.schema([SCHEMAS[topic].field(name) for name in columns])
    with ThreadPoolExecutor(WRITERS) as pool:
        tables = list(pool.map(lambda name: _read(store, name, schema.names), _days(store, topic)))
    return pa.concat_tables(tables) if tables else schema.empty_table()


def read_between(store: Store, topic: str, columns: Sequence[str], since_ms: int, until_ms: int) -> Iterator[pa.Table]:
    """The archived events of a topic from one moment up to and with another, a day at a time, oldest day first.

    `columns` must have `ts`. A day has no more rows of an event id than one; two days may have one each.
    """
    schema = pa.schema([SCHEMAS[topic].field(name) for name in columns])
    first, last = (_day(min(max(ms, 0), LATEST_MS) // DAY_MS) for ms in (since_ms, until_ms))
    for name in _days(store, topic):
        if first <= name.split("/")[1] <= last:
            day = _read(store, name, schema.names)
            yield day.filter(pc.and_(pc.greater_equal(day["ts"], since_ms), pc.less_equal(day["ts"], until_ms)))


def find(store: Store, topic: str, event_id: str) -> AnyEvent | None:
    """The archived event with this id, or None. Looks through the days, newest first."""
    for name in reversed(_days(store, topic)):
        place = pc.index(_read(store, name, ["event_id"])["event_id"], event_id).as_py()
        if place >= 0:
            row = _read(store, name, SCHEMAS[topic].names).slice(place, 1).to_pylist()[0]
            return ANY_EVENT.validate_python({k: v for k, v in row.items() if k != "offset" and v is not None})
    return None


def _days(store: Store, topic: str) -> list[str]:
    """The names of a topic's files, oldest day first."""
    return sorted(name for name in store.names(topic) if name.endswith(f"/{FILE}"))


def _next_chunk(log: Log, topic: str, after: int | None, rest: Rest) -> tuple[pa.Table, int] | None:
    """The rows of the records after an offset (None: after what was committed), at most about `CHUNK`, and the last
    offset; None where there is none."""
    tables: list[pa.Table] = []
    last, count = after, 0
    while count < CHUNK and (records := log.read(topic, GROUP, PIECE, last)):
        tables.append(_table(topic, records))
        last, count = records[-1].offset, count + len(records)
        rest()
    return (pa.concat_tables(tables), last) if tables and last is not None else None


def _table(topic: str, records: list[Record]) -> pa.Table:
    """The records' rows; those that could not be read are left to the dead letter."""
    readable = [record for record in records if record.event.topic == topic]
    fields = [vars(record.event) for record in readable]
    columns: dict[str, list] = {"offset": [record.offset for record in readable]}
    for name in SCHEMAS[topic].names[1:]:
        columns[name] = [values.get(name) for values in fields]
    return pa.table(columns, schema=SCHEMAS[topic])


def _merge(store: Store, topic: str, rows: pa.Table, rest: Rest) -> None:
    """Add the rows to the files of their days."""
    if not len(rows):
        return
    days = rows["ts"].to_numpy() // DAY_MS
    order = np.argsort(days, kind="stable")
    rows, days = rows.take(order), days[order]
    starts = np.flatnonzero(np.diff(days, prepend=days[0] - 1))
    ends = [*starts[1:], len(days)]
    parts = [(f"{topic}/{_day(days[s])}/{FILE}", rows.slice(s, e - s)) for s, e in zip(starts, ends, strict=True)]
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(lambda part: _merge_day(store, part[0], part[1], rest), parts))


def _merge_day(store: Store, name: str, rows: pa.Table, rest: Rest) -> None:
    if store.size(name) is not None:
        rows = pa.concat_tables([_read(store, name, rows.schema.names), rows])
    with _computing:
        content = _parquet(_each_id_once(rows))
        rest()
    store.write(name, content)


def _each_id_once(rows: pa.Table) -> pa.Table:
    """Without later rows of an event id that came before."""
    ids = rows["event_id"].combine_chunks()
    if pc.count_distinct(ids).as_py() == len(ids):
        return rows
    codes = ids.dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    return rows.take(np.sort(first))


def write_parquet(file: Path, table: pa.Table) -> None:
    """A file that is whole or as it was. Equal tables make equal files."""
    try:
        write_whole(file, _parquet(table))
    except OSError as why:
        raise StoreError(f"{file} cannot be written: {why.strerror or why}") from why


def _parquet(table: pa.Table) -> memoryview:
    stream = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), stream, compression="zstd")
    return memoryview(stream.getvalue())


def _read(store: Store, name: str, columns: Sequence[str]) -> pa.Table:
    """Columns of a day's file. One that its events did not have yet when it was written is null."""
    content, schema = store.read(name), SCHEMAS[name.split("/", 1)[0]]
    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read(columns=list(columns), use_threads=False)
        for column in set(columns).difference(table.column_names):
            table = table.append_column(schema.field(column), pa.nulls(len(table), schema.field(column).type))
        return table.select(columns)
    except (pa.ArrowInvalid, OSError) as why:
        raise ArchiveError(
            f"{store.place(name)} cannot be read ({why}); restore it, or remove the history and import again"
        ) from why


def _day(number: int) -> str:
    return f"day={datetime.fromtimestamp(int(number) * DAY_MS / 1000, UTC):%Y-%m-%d}"

"""The archive: consumer group `archive` of the log, which writes the history as day-partitioned Parquet.

    <history>/<topic>/day=YYYY-MM-DD/events.parquet        rows of one UTC day, by offset, each event id once

A day's new rows are merged with its file into a new one: written aside, synced, renamed into place; only then is the
offset committed. Interrupted anywhere, the next run reads the same records again and drops those already there.
Any engine that knows Hive partitions reads the folder.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conf.errors import PlainError
from events.disk import sync
from events.event import ANY_EVENT, CATALOGUE, DEAD_LETTER, EVENTS, IMPRESSIONS, AnyEvent
from events.log import Log, Record

GROUP = "archive"
CHUNK = 1_000_000  # records between two commits: a day's file is rewritten once per chunk, and a chunk fits in memory
DAY_MS = 86_400_000
FILE = "events.parquet"
WRITERS = 8  # days written at once; waiting for the disk, not computing

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
        },
        DEAD_LETTER: {"source": _TEXT, "line": _COUNT, "reason": _TEXT, "raw": _TEXT},
    }.items()
}


class ArchiveError(PlainError):
    """A file of the history cannot be read or written; the message names it."""


def archive(log: Log, history: Path, progress: Callable[[int], None] | None = None) -> int:
    """Write what the log holds beyond the archive; the number of events, also told to `progress` on the way.

    A topic whose folder was lost is written again from the beginning of the log, however often that is interrupted.
    """
    done = 0
    with _alone(history):
        for topic in SCHEMAS:
            again = history / f".{topic}.again"
            if not (history / topic).exists():
                again.touch()
            last = 0 if again.exists() else None
            while chunk := _next_chunk(log, topic, last):
                rows, last = chunk
                _merge(history / topic, rows)
                log.commit(topic, GROUP, last)
                done += len(rows)
                if progress:
                    progress(done)
            again.unlink(missing_ok=True)
    return done


def read_topic(history: Path, topic: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All archived events of a topic, day by day, with some columns of `SCHEMAS[topic]` or all; empty where none is."""
    schema = SCHEMAS[topic] if columns is None else pa.schema([SCHEMAS[topic].field(name) for name in columns])
    files = sorted((history / topic).glob(f"day=*/{FILE}"))
    with ThreadPoolExecutor(WRITERS) as pool:
        tables = list(pool.map(lambda file: _read(file, schema.names), files))
    return pa.concat_tables(tables) if tables else schema.empty_table()


def find(history: Path, topic: str, event_id: str) -> AnyEvent | None:
    """The archived event with this id, or None. Looks through the days, newest first."""
    for file in sorted((history / topic).glob(f"day=*/{FILE}"), reverse=True):
        place = pc.index(_read(file, ["event_id"])["event_id"], event_id).as_py()
        if place >= 0:
            row = _read(file, SCHEMAS[topic].names).slice(place, 1).to_pylist()[0]
            return ANY_EVENT.validate_python({k: v for k, v in row.items() if k != "offset" and v is not None})
    return None


def _next_chunk(log: Log, topic: str, after: int | None) -> tuple[pa.Table, int] | None:
    """The rows of the records after an offset (None: after what was committed), at most about `CHUNK`, and the last
    offset; None where there is none."""
    tables: list[pa.Table] = []
    last, count = after, 0
    while count < CHUNK and (records := log.read(topic, GROUP, after=last)):
        tables.append(_table(topic, records))
        last, count = records[-1].offset, count + len(records)
    return (pa.concat_tables(tables), last) if tables and last is not None else None


def _table(topic: str, records: list[Record]) -> pa.Table:
    """The records' rows; those that could not be read are left to the dead letter."""
    readable = [record for record in records if record.event.topic == topic]
    fields = [vars(record.event) for record in readable]
    columns: dict[str, list] = {"offset": [record.offset for record in readable]}
    for name in SCHEMAS[topic].names[1:]:
        columns[name] = [values.get(name) for values in fields]
    return pa.table(columns, schema=SCHEMAS[topic])


def _merge(folder: Path, rows: pa.Table) -> None:
    """Add the rows to the files of their days."""
    if not len(rows):
        return
    days = rows["ts"].to_numpy() // DAY_MS
    order = np.argsort(days, kind="stable")
    rows, days = rows.take(order), days[order]
    starts = np.flatnonzero(np.diff(days, prepend=days[0] - 1))
    ends = [*starts[1:], len(days)]
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(WRITERS) as pool:
        parts = [(folder / _day(days[s]), rows.slice(s, e - s)) for s, e in zip(starts, ends, strict=True)]
        list(pool.map(lambda part: _merge_day(*part), parts))
    sync(folder)


def _merge_day(folder: Path, rows: pa.Table) -> None:
    file = folder / FILE
    if file.exists():
        rows = pa.concat_tables([_read(file, rows.schema.names), rows])
    folder.mkdir(exist_ok=True)
    write_parquet(file, _each_id_once(rows))


def _each_id_once(rows: pa.Table) -> pa.Table:
    """Without later rows of an event id that came before."""
    ids = rows["event_id"].combine_chunks()
    if pc.count_distinct(ids).as_py() == len(ids):
        return rows
    codes = ids.dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    return rows.take(np.sort(first))


def write_parquet(file: Path, table: pa.Table) -> None:
    """Write aside, sync and rename: the file is whole or as it was. Equal tables make equal files."""
    part = file.with_suffix(".part")
    try:
        with part.open("wb") as stream:
            pq.write_table(table.combine_chunks(), stream, compression="zstd")
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
        sync(file.parent)
    except OSError as why:
        part.unlink(missing_ok=True)
        raise ArchiveError(f"{file} cannot be written: {why.strerror or why}") from why


def _read(file: Path, columns: Sequence[str]) -> pa.Table:
    try:
        return pq.ParquetFile(file).read(columns=list(columns), use_threads=False)
    except (pa.ArrowInvalid, OSError) as why:
        raise ArchiveError(
            f"{file} cannot be read ({why}); restore it, or remove the history and import again"
        ) from why


def _day(number: int) -> str:
    return f"day={datetime.fromtimestamp(int(number) * DAY_MS / 1000, UTC):%Y-%m-%d}"


@contextmanager
def _alone(history: Path) -> Iterator[None]:
    """One archive at a time: two would rewrite the same day from what each has read."""
    history.mkdir(parents=True, exist_ok=True)
    with (history / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

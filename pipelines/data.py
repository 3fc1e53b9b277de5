"""`data import` and `data export`: recorded data into the log and out of it.

An import reads line by line and stores batch by batch, each in one transaction with its dead letters, so that one which
was interrupted anywhere and is repeated ends as if it had run once. Nothing is stored before every file of the source
has shown a line that can be read: a file of nothing but bad lines is an error and changes nothing.
"""

import gzip
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO
from zoneinfo import ZoneInfo

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from events.codecs import Fields, Rules, unreadable, validated
from events.event import CATALOGUE, DEAD_LETTER, EVENTS, IMPRESSIONS, AnyEvent, BadRecord
from events.local_log import LocalLog
from events.log import BATCH, LogError
from events.reading import nothing_yet, reading_log
from events.sources import movietweetings
from events.sources.dialects import SCALES, USUAL_UNITS, DialectError, Reader, readers
from events.sources.files import Line, Source, SourceError, from_path, from_standard_input

Progress = Callable[[int], None]  # told the number of lines or events done so far


class DataError(PlainError):
    """Data cannot be imported or exported; the message says what, where and what to do."""


@dataclass(frozen=True)
class ImportReport:
    """What an import did. read = added + duplicates + unreadable."""

    source: str
    dialect: str  # several where files differ, joined by a comma
    scale: float  # the largest rating
    read: int  # lines that hold anything, headers aside
    added: int
    duplicates: int  # were stored already, or stand in the source twice
    unreadable: int
    kinds: dict[str, int]  # readable lines by kind of event
    notes: tuple[str, ...]


@dataclass
class _Tally:
    read: int = 0
    added: int = 0
    duplicates: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    units: Counter[tuple[str, str]] = field(default_factory=Counter)  # (dialect, unit) of times
    unreadable: Counter[str] = field(default_factory=Counter)  # by file
    reasons: dict[str, str] = field(default_factory=dict)  # by file, of its first unreadable line


def import_data(
    home: Home,
    settings: Settings,
    source: str | Path,
    *,
    dialect: str | None = None,
    scale: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ImportReport:
    """Read a file, folder, zip, `-` (standard input) or `movietweetings` (the copy in the project) into the log.

    `simulated` lets the simulated audience act for the days of `settings.audience`; the seed is its.
    """
    if source == "simulated":
        from pipelines.simulate import simulate  # builds on this module

        return simulate(home, settings, seed=seed, progress=progress)
    tally = _Tally()
    try:
        opened = _opened(source)
        rules = Rules(zone=ZoneInfo(settings.data.zone))
        scales = _scales(settings, scale)
        found = readers(opened, rules, dialect, scales)
        for reader in found:
            _check_readable(reader)
            reader.file.check_packed()
        home.open()
        with LocalLog(home.log, max_mb=settings.kafka.cap_mb) as log:
            for reader in found:
                _import_file(log, reader, tally, progress)
    except (SourceError, DialectError, LogError) as why:
        kept = f"; {tally.added} events before it are stored, and repeating the import adds the rest"
        raise DataError(f"{why}{kept if tally.added else ''}") from why
    return _report(opened, found, tally)


def export_data(
    home: Home,
    settings: Settings,
    target: str | Path,
    *,
    dead_letter: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write every event as JSON lines to `target` (gzipped where it ends in .gz, standard output for `-`); how many.

    The order is the log's; a file appears whole or not at all. Importing it into an empty home gives the same log.
    """
    read = reading_log(home, settings)
    if not read.exists():
        raise DataError(nothing_yet(home, settings))
    topics = [EVENTS, CATALOGUE, IMPRESSIONS] + ([DEAD_LETTER] if dead_letter else [])
    try:
        with LocalLog(read) as log:
            if log.trimmed:
                raise DataError(
                    f"{read} no longer holds everything (retention.log_days): the history does, a Parquet file a day"
                )
            if str(target) == "-":
                return _write_lines(sys.stdout.buffer, log.bodies(topics), progress)
            if Path(target).exists() and not Path(target).is_file():  # a device or a pipe, which may not be replaced
                with Path(target).open("wb") as stream:
                    return _write_lines(stream, log.bodies(topics), progress)
            return _write_file(Path(target), log.bodies(topics), progress)
    except OSError as why:
        raise DataError(f"export to {target} failed: {why.strerror or why}") from why
    except LogError as why:
        raise DataError(f"export to {target} failed: {why}") from why


def _opened(source: str | Path) -> Source:
    if not str(source):  # as a variable that is not set leaves it; a path would mean the working directory
        raise DataError("no source was named: name a file, a folder, `-`, movietweetings or simulated")
    if str(source) == "-":
        return from_standard_input()
    if source == movietweetings.DIALECT:
        return replace(from_path(movietweetings.FOLDER), name=movietweetings.DIALECT)
    return from_path(Path(source))


def _scales(settings: Settings, given: float | None) -> dict[str, float]:
    """The largest rating by dialect, where it is not the usual one: as given for this import, else as set."""
    if given is None:
        return {str(dialect): scale for dialect, scale in settings.data.scales.items()}
    if not 0 < given <= 1000:
        raise DataError(f"scale {given:g} is out of range: the largest rating lies above 0 and is at most 1000")
    return dict.fromkeys(SCALES, given)


def _check_readable(reader: Reader) -> None:
    """DataError where no line of the file can be read."""
    tally = _Tally()
    for batch in _batches(reader, size=100):
        _events(reader, batch, tally)
        if tally.kinds:
            return
    cause = f"; {tally.reasons[reader.file.name]}" if tally.reasons else ": it holds a header only"
    raise DataError(f"{reader.file.name} has no line that can be read as {reader.dialect}{cause}. Nothing was imported")


def _import_file(log: LocalLog, reader: Reader, tally: _Tally, progress: Progress | None) -> None:
    """Store a file's events and dead letters, a transaction per batch."""
    for batch in _batches(reader, BATCH):
        stored = log.append_all(_events(reader, batch, tally))
        stored.pop(DEAD_LETTER, None)
        tally.added += sum(part.added for part in stored.values())
        tally.duplicates += sum(part.duplicates for part in stored.values())
        if progress:
            progress(tally.read)


def _batches(reader: Reader, size: int) -> Iterator[list[Line]]:
    lines = reader.file.lines()
    if reader.has_header:
        next(lines, None)
    while batch := list(islice(lines, size)):
        yield batch


def _events(reader: Reader, batch: list[Line], tally: _Tally) -> list[AnyEvent]:
    """The event of each line, in their order; `Unreadable` for one that has none. Counts them in `tally`."""
    outcomes = [_parsed(reader, raw, tally) for _, raw in batch]
    made = iter(validated([fields for fields in outcomes if not isinstance(fields, str)]))
    events: list[AnyEvent] = []
    for (number, raw), outcome in zip(batch, outcomes, strict=True):
        event = outcome if isinstance(outcome, str) else next(made)
        if isinstance(event, str):
            tally.unreadable[reader.file.name] += 1
            tally.reasons.setdefault(reader.file.name, f"line {number}: {event}")
            event = unreadable(raw, reader.file.name, number, event, reader.dialect)
        else:
            tally.kinds[event.kind] += 1
        events.append(event)
    tally.read += len(batch)
    return events


def _parsed(reader: Reader, raw: bytes, tally: _Tally) -> Fields | str:
    """The fields of a line's event, or why it has none."""
    try:
        fields, unit = reader.parse(reader.text_of(raw))
    except BadRecord as why:
        return str(why)
    tally.units[reader.dialect, unit] += 1
    return fields


def _report(source: Source, found: list[Reader], tally: _Tally) -> ImportReport:
    return ImportReport(
        source=source.name,
        dialect=", ".join(dict.fromkeys(reader.dialect for reader in found)),
        scale=max(reader.scale for reader in found),
        read=tally.read,
        added=tally.added,
        duplicates=tally.duplicates,
        unreadable=tally.read - tally.added - tally.duplicates,
        kinds=dict(sorted(tally.kinds.items())),
        notes=tuple(_notes(source, found, tally)),
    )


def _notes(source: Source, found: list[Reader], tally: _Tally) -> Iterator[str]:
    for dialect, scale, why in dict.fromkeys((r.dialect, r.scale, r.why) for r in found if r.why):
        yield f"taken as {dialect}, ratings up to {scale:g}: {why}"
    for (dialect, unit), count in sorted(tally.units.items()):
        if unit and unit != USUAL_UNITS[dialect]:
            yield f"times in {unit}: {count}" if unit != "iso" else f"times written out: {count}"
    for file, count in tally.unreadable.items():
        yield f"unreadable in {file}, kept in the dead letter: {count}; the first: {tally.reasons[file]}"
    if set(tally.kinds) == {"rating"} and any(file.plain_name.startswith("movies.") for file in source.beside):
        yield "titles and genres beside it were not read: import the folder to have them"


def _write_file(target: Path, bodies: Iterator[bytes], progress: Progress | None) -> int:
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            if target.suffix == ".gz":
                with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as zipped:
                    count = _write_lines(zipped, bodies, progress)
            else:
                count = _write_lines(file, bodies, progress)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return count


def _write_lines(stream: IO[bytes] | gzip.GzipFile, bodies: Iterator[bytes], progress: Progress | None) -> int:
    count = 0
    for body in bodies:
        stream.write(body + b"\n")
        count += 1
        if progress and count % BATCH == 0:
            progress(count)
    stream.flush()
    return count

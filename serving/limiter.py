"""Requests a minute, counted over all workers together in one small file of fixed size.

65,536 callers have a place, whoever they are: a caller's keyed hash names a group of eight places, and one that finds
no free place takes over the least counted of its group *with its count* (Metwally et al., Space-Saving, 2005). So no
flood of addresses grows memory or gives anybody a count back: the one who has used up a limit is evicted last, and who
comes after him inherits it. A place counts in steps of 5 s, so that a limit holds in every 60 s, not only on average; a
request that was refused is not counted. Time is CLOCK_MONOTONIC, the same in all processes: the wall clock may jump.

The `limits` package keeps counts in memory (of one process, unbounded) or in a server such as Redis; neither fits.
"""

import fcntl
import hashlib
import logging
import math
import os
import secrets
import struct
import time
from itertools import count
from pathlib import Path
from typing import Protocol

log = logging.getLogger("greenlight.serving")

TICK_S = 5
TICKS = 13  # twelve make a minute; the thirteenth has only begun
WAYS = 8  # places in a group
GROUPS = 8192
MAGIC = b"greenlight lim 1"
HEADER = 64  # magic and the secret of the hash
PLACE = struct.Struct(f"<QI{TICKS}I")  # who, the tick of the last request, requests of each tick: 64 bytes
TAGS = struct.Struct(f"<{'Q56x' * WAYS}")
GROUP = PLACE.size * WAYS
SIZE = HEADER + GROUP * GROUPS
# for the lock of a group, which others hold for microseconds; one who was stopped must not stop all
TRIES, PATIENCE_S = 500, 0.01


class Table(Protocol):
    """Where the places are."""

    secret: bytes

    def read(self, offset: int, size: int) -> bytes: ...

    def write(self, offset: int, content: bytes) -> None: ...

    def lock(self, offset: int, size: int) -> bool: ...

    def unlock(self, offset: int, size: int) -> None: ...


class Memory:
    """The table of one process."""

    def __init__(self) -> None:
        self.secret = secrets.token_bytes(32)
        self._bytes = bytearray(SIZE)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._bytes[offset : offset + size])

    def write(self, offset: int, content: bytes) -> None:
        self._bytes[offset : offset + len(content)] = content

    def lock(self, offset: int, size: int) -> bool:
        return False

    def unlock(self, offset: int, size: int) -> None: ...


class File:
    """The table of all workers of a home. Read and written, not mapped: a mapped page that the disk has no room for
    would kill the process. OSError where it can be neither made nor used."""

    def __init__(self, path: Path) -> None:
        try:
            self._open(path)
        except (FileNotFoundError, ValueError):
            _make(path)
            self._open(path)

    def _open(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.secret = _secret(self._file)
        except ValueError:
            os.close(self._file)
            raise

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._file, size, offset)

    def write(self, offset: int, content: bytes) -> None:
        os.pwrite(self._file, content, offset)

    def lock(self, offset: int, size: int) -> bool:
        until = 0.0
        for attempt in count():
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, size, offset)
                return True
            except (BlockingIOError, PermissionError):
                now = time.monotonic()
                until = until or now + PATIENCE_S
                if now > until and attempt > TRIES:
                    break
                os.sched_yield()  # whoever holds it may need this very core
        return False

    def unlock(self, offset: int, size: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, size, offset)


class Limiter:
    """`take` for each request. Called by one thread of a process."""

    def __init__(self, path: Path | None) -> None:
        """`path` None: the counts are this process's own."""
        self._table: Table = Memory()
        if path is not None:
            try:
                self._table = File(path)
            except OSError as why:
                log.warning("limits are counted in each worker for itself: %s: %s", path, why.strerror or why)

    def take(self, who: bytes, limit: int) -> float:
        """0 where the request is within `limit` a minute, and counted; else in how many seconds one will be."""
        try:
            return self._take(who, limit)
        except (OSError, struct.error) as why:  # the file was cut short, or its disk has gone
            log.warning("limits are counted in each worker for itself from now on: %s", why)
            self._table = Memory()
            return self._take(who, limit)

    def _take(self, who: bytes, limit: int) -> float:
        table = self._table
        tag = int.from_bytes(hashlib.blake2b(who, key=table.secret, digest_size=8).digest()) | 1  # 0 is a free place
        offset = HEADER + (tag >> 1) % GROUPS * GROUP
        locked = table.lock(offset, GROUP)
        try:
            now = time.monotonic()  # after the wait for the lock: a place's time never goes back
            tick = int(now) // TICK_S
            place, counts = _place(table.read(offset, GROUP), tag, tick)
            if sum(counts) >= limit:
                return _until(counts, tick, limit, now)
            counts[tick % TICKS] += 1
            table.write(offset + place * PLACE.size, PLACE.pack(tag, tick, *counts))
            return 0.0
        finally:
            if locked:
                table.unlock(offset, GROUP)


def _place(group: bytes, tag: int, tick: int) -> tuple[int, list[int]]:
    """The caller's place in its group and its counts; a newcomer's is the least counted one, with that count."""
    tags = TAGS.unpack(group)
    if tag in tags:
        place = tags.index(tag)
        return place, _counts(group, place, tick)
    all_counts = [_counts(group, place, tick) for place in range(WAYS)]
    place = min(range(WAYS), key=lambda one: sum(all_counts[one]))
    return place, all_counts[place]


def _counts(group: bytes, place: int, tick: int) -> list[int]:
    """The counts of a place, those that are older than a minute set to 0."""
    _, last, *counts = PLACE.unpack_from(group, place * PLACE.size)
    if last == tick:
        return counts
    if not -1 <= tick - last < TICKS:  # long ago, or before the machine was started again
        return [0] * TICKS
    for gone in range(last + 1, tick + 1):
        counts[gone % TICKS] = 0
    return counts


def _until(counts: list[int], tick: int, limit: int, now: float) -> float:
    """Seconds until enough requests are older than a minute."""
    left = sum(counts)
    for then in range(tick - TICKS + 1, tick + 1):
        left -= counts[then % TICKS]
        if left < limit:
            return (then + TICKS) * TICK_S - now
    return float(TICKS * TICK_S)


def _secret(file: int) -> bytes:
    """The secret of a table's hash. ValueError where the file is no whole table."""
    head = os.pread(file, HEADER, 0)
    if os.fstat(file).st_size != SIZE or head[:16] != MAGIC:
        raise ValueError
    return head[16:48]


def _make(path: Path) -> None:
    """A new table, whole or not at all, its room on the disk taken. Of two that make one, the first one's stands."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.posix_fallocate(file, 0, SIZE)
        os.pwrite(file, MAGIC + secrets.token_bytes(32), 0)
        try:
            os.link(part, path)
        except FileExistsError:
            with path.open("rb") as found:
                try:
                    _secret(found.fileno())
                except ValueError:
                    part.replace(path)
    finally:
        os.close(file)
        part.unlink(missing_ok=True)


def whole_seconds(seconds: float) -> int:
    """For `Retry-After`: never 0, never too early."""
    return max(1, math.ceil(seconds))

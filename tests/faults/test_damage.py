"""A last page that went bad on the disk. What it held is gone; the rest is there, or the file is named as damaged, and
nothing that reads or writes it falls over."""

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conf.home import Home
from conf.settings import Settings
from events.event import EVENTS, Unreadable
from events.local_log import LocalLog
from events.log import LogError
from pipelines.archiving import Archiving
from tests.faults.drills.viewers import ids_in, rating

PAGE, FRAME = 4096, 4096 + 24
BATCHES, BATCH = 40, 50
Spoil = Callable[[bytes, int], bytes]  # of a file and the size of what it is made of


def noise(content: bytes, size: int) -> bytes:
    return content[:-size] + random.Random(6).randbytes(size)


def zeros(content: bytes, size: int) -> bytes:
    return content[:-size] + bytes(size)


def cut(content: bytes, size: int) -> bytes:
    return content[: -size // 2]


def one_bit(content: bytes, size: int) -> bytes:
    place = len(content) - size // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def half_a_frame_more(content: bytes, size: int) -> bytes:
    return content + content[-size : -size // 2]


@pytest.fixture
def left(home: Home) -> Home:
    """A home as a dead process leaves it: most of its log is in the file, the rest in the WAL."""
    with LocalLog(home.log) as log:
        for batch in range(BATCHES):
            log.append(EVENTS, events(batch))
            if batch == BATCHES // 2:
                log._db.wal_checkpoint()
        left = Home(home.root.with_name("left"))
        shutil.copytree(home.root, left.root)
    return left


def events(batch: int) -> list:
    return [rating(f"b{batch}-{n}") for n in range(BATCH)]


def ids(batches: int) -> list[str]:
    return [event.event_id for batch in range(batches) for event in events(batch)]


@pytest.mark.parametrize("spoil", [noise, zeros, cut, one_bit, half_a_frame_more])
def test_of_a_wal_with_a_bad_last_page_only_the_last_batch_may_be_gone(left: Home, spoil: Spoil) -> None:
    wal = Path(f"{left.log}-wal")
    wal.write_bytes(spoil(wal.read_bytes(), FRAME))
    with LocalLog(left.log) as log:
        found = ids_in(log)
        assert found == ids(BATCHES) if spoil is half_a_frame_more else found in (ids(BATCHES - 1), ids(BATCHES))
        log.append(EVENTS, events(BATCHES - 1))  # the caller sends it again
        log.append(EVENTS, events(BATCHES))
        assert ids_in(log) == ids(BATCHES + 1)


@contextmanager
def suppress_named(path: Path) -> Iterator[None]:
    """A LogError that names the file is well."""
    try:
        yield
    except LogError as why:
        if str(path) not in str(why):
            raise


@pytest.mark.parametrize("spoil", [noise, zeros, cut, one_bit])
def test_a_file_with_a_bad_last_page_is_named_or_read_and_nobody_falls_over(left: Home, spoil: Spoil) -> None:
    with LocalLog(left.log):
        pass  # the WAL is copied into the file
    left.log.write_bytes(spoil(left.log.read_bytes(), PAGE))
    with suppress_named(left.log), LocalLog(left.log) as log:
        log.append(EVENTS, events(BATCHES))
        found = [r.event.event_id for r in log.iterate(EVENTS) if not isinstance(r.event, Unreadable)]
        assert set(found) <= set(ids(BATCHES + 1))
        assert len(found) == len(set(found))
    archiving = Archiving(left, Settings())
    archiving.step()
    assert not archiving.trouble or str(left.log) in archiving.trouble
    archiving.close()

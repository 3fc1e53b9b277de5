"""The power fails while events are stored: `kill -9` proves nothing here, since the kernel writes what the dead wrote.

The log lives on from one loss to the next. It is written on a disk that forgets and read on an ordinary one.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import apsw

from events.event import EVENTS
from events.local_log import LocalLog
from events.log import LogError
from tests.faults.drills.drill import ENOUGH, Drill, Tally
from tests.faults.drills.forgetful import Disk
from tests.faults.drills.viewers import ids_in, rating

SHARES = (0.0, 0.5, 1.0)  # of the unsynced sectors that survive; in turn
MOST_CALLS = 600  # the power fails at one of so many calls of SQLite's after enough was acknowledged


class Synced(LocalLog):
    """The log as it would be with another `synchronous` than its own."""

    level = "FULL"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._db.pragma("synchronous", self.level)


class Normal(Synced):
    level = "NORMAL"  # syncs only when the WAL is copied into the file


class Off(Synced):
    level = "OFF"


def run(folder: Path, cycles: int, opened: Callable[[Path], LocalLog] = LocalLog, anew: bool = False) -> Tally:
    tally, chance, place = Tally(), random.Random(6), folder / "start"
    place.mkdir()
    for cycle in tally.until(cycles):
        disk = Disk(place)
        with disk.beneath():
            done = _write(disk, opened, tally, cycle, chance)
        place = folder / f"after-{cycle}"
        disk.after_power_loss(place, chance, SHARES[cycle % len(SHARES)])
        with LocalLog(place / "log.db") as log:
            stored = ids_in(log)
            tally.check(stored, stored)
            assert anew or log.committed(EVENTS, "reader") >= done, "what a group had committed is forgotten"
        if anew:
            tally.begin_anew()
            (place := folder / f"start-{cycle}").mkdir()
    return tally


def _write(disk: Disk, opened: Callable[[Path], LocalLog], tally: Tally, cycle: int, chance: random.Random) -> int:
    """Append in batches of many sizes until the power fails, and commit on the way; the last offset committed."""
    number = done = 0
    enough = len(tally.acknowledged) + ENOUGH
    log = opened(disk.folder / "log.db")
    try:
        while True:
            if len(tally.acknowledged) >= enough and number < (enough := 10**9):
                disk.fails_in(chance.randrange(MOST_CALLS))
            batch = [rating(f"c{cycle}-{number + n}") for n in range(chance.choice((1, 1, 1, 10, 100)))]
            number += len(batch)
            tally.sent.update(event.event_id for event in batch)
            log.append(EVENTS, batch)
            tally.acknowledged.update(event.event_id for event in batch)
            if chance.random() < 0.2:
                log.commit(EVENTS, "reader", newest := log.newest())
                done = newest
    except LogError:
        assert disk.off
        return done
    finally:
        with suppress(apsw.IOError):  # it would copy the WAL into the file
            log.close()


DRILLS = (
    Drill("power-loss", "power fails; any part of what was not synced is gone", run, short=6, long=100),
    Drill(
        "power-loss-normal",
        "control: the same with `synchronous=NORMAL`",
        lambda folder, cycles: run(folder, cycles, Normal, anew=True),
        short=1,
        long=10,
        must_lose=True,
    ),
    Drill(
        "power-loss-off",
        "control: the same with `synchronous=OFF`",
        lambda folder, cycles: run(folder, cycles, Off, anew=True),
        short=1,
        long=10,
        must_lose=True,
    ),
)

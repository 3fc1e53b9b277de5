"""A fault at every step: the N-th call of a process fails, alone or with all after it, or is its last, as it is killed;
N = 1, 2, … until a run is clean.

Whatever failed, the process says so in plain sentences and ends by itself; another that meets no fault then goes on,
and all is there. The intake makes good by itself what failed alone. (strace counts in each thread, and the archive
writes in ever new ones: there what fails fails again.)
"""

import itertools
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from conf.home import Home
from events.archive import FILE, SCHEMAS, archive, read_topic
from events.event import DEAD_LETTER, EVENTS
from events.local_log import LocalLog
from events.store import FolderStore
from tests.faults.drills import archiving, posting, strace
from tests.faults.drills.drill import ENOUGH, Drill, Tally
from tests.faults.drills.strace import KILL, Ended, Fault
from tests.faults.drills.viewers import day, ids_in, rating

KINDS = {  # calls that fail alike, and with which errors; at each of them the process is also killed
    "write,pwrite64,ftruncate,fallocate": ("ENOSPC", "EIO"),
    "fsync,fdatasync": ("EIO", "ENOSPC"),
    "rename": ("EIO", "ENOSPC"),
    "openat": ("EIO", "EROFS", "EMFILE"),
    "read,pread64": ("EIO",),
    "mkdir": ("EROFS", "ENOSPC"),
    "mmap": ("ENOMEM",),
    "unlink": ("EIO",),
}
EVERY = 100_000  # as many cycles as there are steps
SIZES = [1, 1, 40]  # of batches: small ones, and one of several pages
DAYS = 3  # that the archived events are of
Cycle = Callable[[Fault, Path, Tally], Ended]


def makes(fault: Fault, folder: Path, tally: Tally) -> Ended:
    """A cycle: the intake stores, in a log that it makes."""
    home, name = Home(folder / "home").open(), folder.name
    ended = _posting(home, f"{name}a", fault, tally)
    assert fault.lasting or fault.kills or len(tally.acknowledged) == sum(SIZES), f"{fault}: {ended.lines}"
    with LocalLog(home.log) as log:
        more = [rating(f"{name}b-{n}") for n in range(ENOUGH)]
        tally.sent.update(event.event_id for event in more)
        log.append(EVENTS, more)
        tally.acknowledged.update(event.event_id for event in more)
        ids = ids_in(log)
        assert not log.count(DEAD_LETTER), fault
    tally.check(ids, ids)
    return ended


def stores(fault: Fault, folder: Path, tally: Tally) -> Ended:
    """A cycle: the intake stores, in a log that is there."""
    LocalLog(Home(folder / "home").open().log).close()
    return makes(fault, folder, tally)


def archives(fault: Fault, folder: Path, tally: Tally) -> Ended:
    """A cycle: a log that is there is archived. What counts as stored is what the archive holds in the end."""
    home, store = Home(folder / "home").open(), FolderStore(folder / "home" / "history")
    events = [rating(f"{folder.name}-{n}", n % DAYS) for n in range(ENOUGH)]
    tally.sent.update(event.event_id for event in events)
    with LocalLog(home.log) as log:
        log.append(EVENTS, events)
        tally.acknowledged |= tally.sent
        ended = _archiving(home, fault)
        archive(log, store)
    rows = read_topic(store, EVENTS, ["event_id"])["event_id"].to_pylist()
    tally.check(rows, rows)
    return ended


def _posting(home: Home, name: str, fault: Fault, tally: Tally) -> Ended:
    sent = {batch: {e.event_id for e in events} for batch, events in posting.batches(name, SIZES).items()}
    tally.sent.update(*sent.values())
    words = [str(home.root), name, *map(str, SIZES)]
    ended = strace.run(posting.__name__, words, fault, _log(home), home.root.parent)
    _plain(ended, fault)
    for line in ended.lines:
        if line.startswith("acknowledged"):
            tally.acknowledged |= sent[line.split()[1]]
    return ended


def _archiving(home: Home, fault: Fault) -> Ended:
    topic = home.history / EVENTS
    days = [topic / f"day={day(n)}" for n in range(DAYS)]
    files = [folder / name for folder in days for name in (FILE, FILE.replace(".parquet", ".part"))]
    marks = [home.history / name for name in (".lock", *(f".{topic}.again" for topic in SCHEMAS))]
    on = [*_log(home), home.archiving, home.history, *marks, topic, *days, *files]
    ended = strace.run(archiving.__name__, [str(home.root)], fault, on, home.root.parent)
    _plain(ended, fault)
    return ended


def _log(home: Home) -> list[Path]:
    """Files of the log, and the folder that holds their names."""
    return [home.root, *(Path(f"{home.log}{part}") for part in ("", "-wal", "-shm", "-journal"))]


def _plain(ended: Ended, fault: Fault) -> None:
    """The process ended by itself, unless it was killed, and what it says of its trouble are plain sentences."""
    assert ended.status == 0 or fault.kills, f"{fault}: ended with {ended.status}: {ended.said}"
    assert "Traceback" not in ended.said, f"{fault}: {ended.said}"
    for line in ended.lines:
        assert line.startswith(("acknowledged ", "refused ", "done")), f"{fault}: {line}"


def every(cycle: Cycle, folder: Path, cycles: int) -> Tally:
    """All faults in turn or, for a short form, some of each kind."""
    tally, number = Tally(), itertools.count()

    def one(fault: Fault, counted: Tally) -> Ended:
        place = folder / f"n{next(number)}"
        place.mkdir()
        counted.begin_anew()
        ended = cycle(fault, place, counted)
        shutil.rmtree(place)
        return ended

    if cycles < EVERY:
        clean = one(Fault(",".join(KINDS)), Tally())
        happened = [one(fault, tally).injected for fault in _some(clean, cycles)]
        assert sum(happened) > cycles / 2, "too few of the faults happened"  # a run now and then has fewer calls
        return tally
    for kind in KINDS:
        until_clean(lambda fault: one(fault, tally).injected, partial(_at, kind))
    return tally


def until_clean(happens: Callable[[Fault], bool], at: Callable[[int], list[Fault]]) -> None:
    """All faults at the first call, the second, … until none of them happens, as there are no more calls."""
    for nth in itertools.count(1):
        happened = [happens(fault) for fault in at(nth)]
        if not any(happened):
            break


def _some(clean: Ended, cycles: int) -> list[Fault]:
    """So many faults, of each kind in turn, at random steps of a run."""
    chance = random.Random(6)
    by_kind = [[fault for n in range(clean.most(kind)) for fault in _at(kind, n + 1)] for kind in KINDS]
    for faults in by_kind:
        chance.shuffle(faults)
    turns = itertools.zip_longest(*by_kind)
    return [fault for turn in turns for fault in turn if fault][:cycles]


def _at(kind: str, nth: int) -> list[Fault]:
    """All that can happen there."""
    errors = itertools.product(KINDS[kind], (False, True))
    return [Fault(kind, KILL, nth), *(Fault(kind, error, nth, lasting) for error, lasting in errors)]


EACH = "each open, read, write, sync, rename, … in turn fails, or the process is killed there"
DRILLS = tuple(
    Drill(name, f"{what}: {EACH}", partial(every, cycle), short=5, long=EVERY, needs=("strace",))
    for name, what, cycle in (
        ("step-make", "storing in a new log", makes),
        ("step-store", "storing", stores),
        ("step-archive", "archiving", archives),
    )
)

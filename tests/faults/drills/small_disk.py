"""A disk that is full, or can only be read, while the intake stores and the archive is written, and is mended again.

The disk is a small one in memory, which the drill mounts for itself in a process that has its own mounts:
`python -m tests.faults.drills.small_disk DISK CYCLES` prints the tally.
"""

import asyncio
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from conf.home import Home
from conf.settings import Settings
from events.archive import read_topic
from events.event import DEAD_LETTER, EVENTS
from events.local_log import LocalLog
from events.store import FolderStore
from pipelines.archiving import Archiving
from serving.intake import Intake
from serving.metrics import Metrics
from tests.faults.drills.drill import ENOUGH, Drill, Tally
from tests.faults.drills.posting import batches, body, post
from tests.faults.drills.strace import ROOT
from tests.faults.drills.viewers import ids_in

SIZE = "24m"
BATCH = 200
MOUNT = f'mount -t tmpfs -o size={SIZE} none "$1" && shift && exec "$@"'
COUNTS = ("cycles", "void", "told", "doubles")
IDS = ("lost", "unexpected")


def run(folder: Path, cycles: int) -> Tally:
    disk = folder / "disk"
    disk.mkdir()
    inner = [sys.executable, "-m", "tests.faults.drills.small_disk", str(disk), str(cycles)]
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh", str(disk), *inner]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return Tally(**{name: found[name] for name in COUNTS}, **{name: set(found[name]) for name in IDS})


def on_it(disk: Path, cycles: int) -> Tally:
    """The drill, on a disk of its own."""
    home, tally = Home(disk / "home").open(), Tally()
    store = FolderStore(home.history)
    for cycle in tally.until(cycles):
        archiving = Archiving(home, Settings())
        asyncio.run((_full, _read_only)[cycle % 2](disk, home, tally, f"c{cycle}", archiving))
        archiving.step()
        assert not archiving.trouble
        archiving.close()
        with LocalLog(home.log) as log:
            stored = ids_in(log)
            assert not log.count(DEAD_LETTER)
        tally.check(stored, stored, read_topic(store, EVENTS, ["event_id"])["event_id"].to_pylist())
    return tally


async def _full(disk: Path, home: Home, tally: Tally, name: str, archiving: Archiving) -> None:
    """Something else fills the disk up; then that is removed."""
    intake = _intake(home)
    assert not await _post(intake, f"{name}-before", tally)
    ballast = disk / "ballast"
    _fill(ballast)
    why, tries = "", 0
    while not why:  # the WAL has room left
        why, tries = await _post(intake, f"{name}-{tries}", tally), tries + 1
    assert "no space is left on the log's disk" in why
    archiving.step()
    assert "No space left" in archiving.trouble or "no space left" in archiving.trouble
    ballast.unlink()
    await _go_on(intake, f"{name}-{tries - 1}", tally)


async def _read_only(disk: Path, home: Home, tally: Tally, name: str, archiving: Archiving) -> None:
    """When the processes begin, the disk can only be read; then it can be written."""
    _remount(disk, "ro")
    intake = _intake(home)
    assert "the log cannot be written" in await _post(intake, f"{name}-0", tally)
    archiving.step()
    assert str(disk) in archiving.trouble
    _remount(disk, "rw")
    await _go_on(intake, f"{name}-0", tally)


async def _go_on(intake: Intake, refused: str, tally: Tally) -> None:
    """What was refused is sent again, and then more."""
    for name in (refused, *(f"{refused}-more-{n}" for n in range(ENOUGH // BATCH))):
        assert not await _post(intake, name, tally)
    intake.close()


def _intake(home: Home) -> Intake:
    intake = Intake(home, Settings(), Metrics())
    intake.start()
    return intake


async def _post(intake: Intake, name: str, tally: Tally) -> str:
    (events,) = batches(name, [BATCH]).values()
    ids = {event.event_id for event in events}
    tally.sent |= ids
    if not (why := await post(intake, body(events))):
        tally.acknowledged |= ids
    return why


def _fill(ballast: Path) -> None:
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def _remount(disk: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], check=True, capture_output=True)


DRILLS = (
    Drill(
        "small-disk",
        "the disk is full, or can only be read, and is mended, under posts and the archive",
        run,
        short=2,
        long=20,
        needs=("unshare",),
    ),
)

if __name__ == "__main__":
    tally = on_it(Path(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps({name: getattr(tally, name) for name in COUNTS} | {n: sorted(getattr(tally, n)) for n in IDS}))

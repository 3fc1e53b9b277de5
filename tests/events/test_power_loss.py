"""What a power loss leaves of the log: nothing but what was synced, and of the rest any part at all.

`kill -9` proves nothing here, since the kernel still writes what a dead process wrote. So a writer's system calls are
recorded, and the files are put together again as a disk without power could hold them: all writes up to the last sync
of each file, and none, all or a random half of the later ones.
"""

import random
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from events.event import EVENTS
from events.log import LocalLog

WRITER = """
import sys
from pathlib import Path
from events.event import EVENTS, Rating
from events.log import LocalLog
with LocalLog(Path(sys.argv[1])) as log:
    for n in range(int(sys.argv[2])):
        event = Rating(event_id=f"e{n:0200}", ts=n + 1, user_id="u" * 200, movie_id="m" * 200, rating=4, scale=5)
        log.append(EVENTS, [event])
        print(n, flush=True)
"""
EVENTS_WRITTEN = 300  # enough pages for SQLite to copy its WAL into the main file on the way

CALL = re.compile(r'\d+ +(pwrite64|ftruncate|fdatasync|fsync|write)\((\d+)<([^>]*)>(?:, (?:"((?:\\x..)*)"|(\d+)))?(.*)')


@dataclass
class Disk:
    """Files as a disk holds them: `synced` for certain, then writes of which any may be there."""

    synced: dict[str, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    later: dict[str, list[tuple[int, bytes | None]]] = field(default_factory=lambda: defaultdict(list))

    def write(self, name: str, offset: int, content: bytes | None) -> None:
        self.later[name].append((offset, content))

    def sync(self, name: str) -> None:
        for write in self.later.pop(name, []):
            _apply(self.synced[name], write)

    def after_power_loss(self, folder: Path, keep: Callable[[], bool]) -> None:
        folder.mkdir()
        for name in self.synced.keys() | self.later.keys():
            content = bytearray(self.synced.get(name, b""))
            for write in self.later.get(name, []):
                if keep():
                    _apply(content, write)
            (folder / name).write_bytes(content)


def _apply(content: bytearray, write: tuple[int, bytes | None]) -> None:
    offset, data = write
    if data is None:
        del content[offset:]
    else:
        content.extend(b"\0" * (offset - len(content)))
        content[offset : offset + len(data)] = data


def test_what_was_acknowledged_survives_a_power_loss(tmp_path: Path, need: Callable[[str], str]) -> None:
    trace, live = tmp_path / "trace", tmp_path / "live" / "log.db"
    calls = "trace=pwrite64,ftruncate,fdatasync,fsync,write"
    command = [need("strace"), "-f", "-y", "-xx", "-s", "99999", "-o", str(trace), "-e", calls]
    done = subprocess.run(
        [*command, sys.executable, "-c", WRITER, str(live), str(EVENTS_WRITTEN)], stdout=subprocess.PIPE, timeout=120
    )
    assert done.returncode == 0
    disk, acknowledged, checkpoints = Disk(), 0, 0
    for call, number, path, content, length, rest in CALL.findall(trace.read_text()):
        name = Path(bytes.fromhex(path.replace("\\x", "")).decode() if path.startswith("\\x") else path).name
        data = bytes.fromhex(content.replace("\\x", ""))
        if call == "write" and number == "1" and b"\n" in data:
            acknowledged += 1
            for share in (0.0, 0.5, 1.0) if acknowledged % 30 == 0 else ():
                _check(disk, tmp_path / f"{acknowledged}-{share}", share, acknowledged)
        elif name in ("log.db", "log.db-wal") and call == "pwrite64":
            disk.write(name, int(rest.split(",")[2].split(")")[0]), data)
            checkpoints += name == "log.db"
        elif call == "ftruncate" and name.startswith("log.db"):
            disk.write(name, int(length), None)
        elif call in ("fdatasync", "fsync"):
            disk.sync(name)
    assert acknowledged == EVENTS_WRITTEN
    assert checkpoints > 10


def _check(disk: Disk, folder: Path, share: float, acknowledged: int) -> None:
    chance = random.Random(acknowledged)
    disk.after_power_loss(folder, keep=lambda: chance.random() < share)
    with LocalLog(folder / "log.db") as log:
        numbers = [int(record.event.event_id[1:]) for record in log.iterate(EVENTS)]
    assert numbers[:acknowledged] == list(range(acknowledged))

"""A disk that forgets: a file layer under SQLite (an apsw VFS) that knows what a loss of power would leave.

A write is safe once its file was synced, a name (made or removed) once its folder was: SQLite does that with the first
sync of a journal or WAL that it opened. Of all the rest a loss of power leaves any part, down to single sectors. Calls
reach the ordinary file layer too, so that programs see what they wrote; only nobody waits for the real disk.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw

SECTOR = 512  # bytes; what a disk writes whole or not at all
JOURNALS = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL


@dataclass
class Content:
    """Of a file: what is safe, and the writes since the last sync: offset and bytes, or None where it was cut there."""

    safe: bytearray = field(default_factory=bytearray)
    later: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        for offset, data in self.later:
            _apply(self.safe, offset, data)
        self.later.clear()

    def left(self, chance: random.Random, share: float) -> bytes:
        """What a loss of power leaves, where each unsynced sector survives with a probability."""
        content = bytearray(self.safe)
        for write in self.later:
            for offset, data in _sectors(*write):
                if chance.random() < share:
                    _apply(content, offset, data)
        return bytes(content)


class Disk:
    """The files of one folder. `off` once the power has failed: nothing is written any more."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.off = folder, False
        self._calls_left: int | None = None
        self._safe = {f.name: Content(bytearray(f.read_bytes())) for f in folder.iterdir() if not _shared(f.name)}
        self._now = dict(self._safe)

    def fails_in(self, calls: int) -> None:
        """The power fails at one of the next writing calls."""
        self._calls_left = calls

    @contextmanager
    def beneath(self) -> Iterator[None]:
        """Every SQLite file that apsw opens meanwhile lies on this disk."""
        layer = _Layer(self)
        try:
            yield
        finally:
            layer.unregister()

    def after_power_loss(self, folder: Path, chance: random.Random, share: float) -> None:
        """Write what is left into a new folder. Shared memory comes back as noise."""
        folder.mkdir()
        for name in sorted(self._safe.keys() | self._now.keys()):
            before, after = self._safe.get(name), self._now.get(name)
            content = before if before is after or chance.random() >= share else after
            if content is not None:
                (folder / name).write_bytes(content.left(chance, share))
        for file in filter(_is_shared, self.folder.iterdir()):
            (folder / file.name).write_bytes(chance.randbytes(file.stat().st_size))

    # What the file layer tells ---------------------------------------------------------------------------------------

    def content(self, name: str) -> Content:
        return self._now.setdefault(name, Content())

    def call(self) -> None:
        """Before each call that changes something. apsw.IOError where the power is off."""
        if self._calls_left is not None:
            self._calls_left -= 1
            self.off |= self._calls_left < 0
        if self.off:
            raise apsw.IOError("the power is off")

    def remove(self, name: str) -> None:
        self._now.pop(name, None)

    def sync_names(self) -> None:
        self._safe = dict(self._now)


class _Layer(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self.disk, self.ordinary = disk, apsw.vfs_names()[0]
        super().__init__("forgetful", self.ordinary, makedefault=True)

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> "_File":
        return _File(self, name, flags)

    def xDelete(self, name: str, syncdir: bool) -> None:
        self.disk.call()
        super().xDelete(name, syncdir)
        self.disk.remove(Path(name).name)
        if syncdir:
            self.disk.sync_names()


class _File(apsw.VFSFile):
    def __init__(self, layer: _Layer, name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        super().__init__(layer.ordinary, name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self.disk = layer.disk
        self.content = self.disk.content(Path(path).name) if path else Content()  # without a path: temporary
        self.syncs_names = bool(flags[0] & JOURNALS)

    def xWrite(self, data: bytes, offset: int) -> None:
        self.disk.call()
        super().xWrite(data, offset)
        self.content.later.append((offset, bytes(data)))

    def xTruncate(self, size: int) -> None:
        self.disk.call()
        super().xTruncate(size)
        self.content.later.append((size, None))

    def xSync(self, flags: int) -> None:
        self.disk.call()
        self.content.sync()
        if self.syncs_names:
            self.disk.sync_names()
            self.syncs_names = False


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
    else:
        content.extend(b"\0" * (offset - len(content)))
        content[offset : offset + len(data)] = data


def _sectors(offset: int, data: bytes | None) -> Iterator[tuple[int, bytes | None]]:
    if data is None:
        yield offset, None
        return
    start = 0
    while start < len(data):
        end = start + SECTOR - (offset + start) % SECTOR
        yield offset + start, data[start:end]
        start = end


def _shared(name: str) -> bool:
    return name.endswith("-shm")


def _is_shared(file: Path) -> bool:
    return _shared(file.name)

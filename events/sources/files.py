"""Where lines come from: a file, a folder, a zip, standard input, each plain or gzipped. Streams, never whole files."""

import gzip
import io
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from conf.errors import PlainError

MAX_LINE = 1 << 20  # bytes; a longer "line" means that the file is no text
SPOOL = 32 << 20  # bytes of standard input kept in memory; more goes to a temporary file
BOM = b"\xef\xbb\xbf"
Line = tuple[int, bytes]  # number in its file, from 1, and content without its end

# What a published data set consists of; anything beside these files (links, tags, splits, user lists) is not read.
PUBLISHED = ("movies.csv", "movies.dat", "u.item", "ratings.csv", "ratings.dat", "u.data")  # catalogues first
LOOSE = (".jsonl", ".ndjson", ".json", ".log", ".txt", ".lines", ".csv", ".dat")  # read from a folder without these


class SourceError(PlainError):
    """A source cannot be opened or read; the message names it and says why."""


@dataclass(frozen=True)
class SourceFile:
    """One text file of a source. `open` may be called again and starts at the beginning each time."""

    name: str
    open: Callable[[], BinaryIO]

    @property
    def plain_name(self) -> str:
        """The file's own name without folders and `.gz`, in small letters."""
        return PurePosixPath(self.name.lower()).name.removesuffix(".gz")

    def lines(self) -> Iterator[Line]:
        """Numbered lines that hold anything, without byte-order mark and line end."""
        with self._plain_errors(), self.open() as stream:
            yield from _numbered(stream)

    def check_packed(self) -> None:
        """SourceError where a compressed file is damaged, so that nothing of it is stored; others are not read."""
        with self._plain_errors(), self.open() as stream:
            if isinstance(getattr(stream, "raw", stream), gzip.GzipFile | zipfile.ZipExtFile):
                while stream.read(1 << 20):
                    pass

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error) as why:
            raise SourceError(f"{self.name} is damaged or cut short: {why}") from why
        except OSError as why:
            raise SourceError(f"{self.name} cannot be read: {why.strerror or why}") from why


@dataclass(frozen=True)
class Source:
    """A named source and its files, catalogues first."""

    name: str
    files: tuple[SourceFile, ...]
    beside: tuple[SourceFile, ...] = ()  # not read, but they tell what the others are: readmes, a file's neighbours


def from_path(path: Path) -> Source:
    """The source at a path: a folder, a zip or one file."""
    try:
        return _found(path)
    except OSError as why:  # what may not be looked into; opening a file says so itself
        raise SourceError(f"{path} cannot be read: {why.strerror or why}") from why


def _found(path: Path) -> Source:
    if path.is_dir():
        next(path.iterdir(), None)  # rglob passes over a folder that may not be read
        found = [SourceFile(str(p.relative_to(path)), _opener(p)) for p in sorted(path.rglob("*")) if p.is_file()]
        return _chosen(str(path), found)
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder")
    if _starts_with(path, b"PK\x03\x04", b"PK\x05\x06"):
        return _chosen(str(path), _zip_members(path))
    beside = [p for p in sorted(path.parent.iterdir()) if p != path and _tells(p.name) and p.is_file()]
    return Source(str(path), (SourceFile(path.name, _opener(path)),), tuple(_neighbour(p) for p in beside))


def from_standard_input() -> Source:
    """Everything that arrives on standard input, kept aside so that it can be looked at before it is read."""
    if sys.stdin is None:
        raise SourceError("standard input is closed: there is nothing to read")
    spool = tempfile.SpooledTemporaryFile(max_size=SPOOL)  # noqa: SIM115 (lives as long as the source)
    while block := sys.stdin.buffer.read(1 << 20):
        spool.write(block)

    def reopen() -> BinaryIO:
        spool.seek(0)
        zipped = spool.read(2) == b"\x1f\x8b"
        spool.seek(0)
        kept = cast(BinaryIO, _Kept(spool))
        return cast(BinaryIO, io.BufferedReader(gzip.GzipFile(fileobj=kept))) if zipped else kept

    return Source("standard input", (SourceFile("standard input", reopen),))


def _numbered(stream: BinaryIO) -> Iterator[Line]:
    number, skipping = 0, False
    while raw := stream.readline(MAX_LINE):
        whole = raw.endswith(b"\n") or len(raw) < MAX_LINE
        if skipping:
            skipping = not whole
            continue
        number += 1
        skipping = not whole
        if number == 1 and raw.startswith(BOM):
            raw = raw[len(BOM) :]
        if content := raw.rstrip(b"\r\n"):
            yield number, content


class _Kept(io.BufferedIOBase):
    """A view of the spool that leaves it open when closed, since it is read more than once."""

    def __init__(self, spool: tempfile.SpooledTemporaryFile) -> None:
        self._spool = spool

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        return self._spool.read(-1 if size is None else size)

    def readline(self, size: int | None = -1) -> bytes:
        return self._spool.readline(-1 if size is None else size)


def _chosen(name: str, found: list[SourceFile]) -> Source:
    """Of a folder or zip, the published files where it has any, else all that may hold lines."""
    files = [f for known in PUBLISHED for f in found if f.plain_name == known]
    files = files or [f for f in found if f.plain_name.endswith(LOOSE) and not _tells(f.plain_name)]
    if not files:
        raise SourceError(f"{name} holds none of {', '.join(PUBLISHED)} and no {', '.join(LOOSE)} file")
    return Source(name, tuple(files), tuple(f for f in found if _tells(f.plain_name)))


def _tells(name: str) -> bool:
    """Whether a file, even unread, tells which data set the files beside it belong to."""
    return name.lower().startswith("readme") or name.lower().removesuffix(".gz") in PUBLISHED


def _neighbour(path: Path) -> SourceFile:
    return SourceFile(path.name, _opener(path))


def _zip_members(path: Path) -> list[SourceFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [i.filename for i in archive.infolist() if not i.is_dir() and "__MACOSX" not in i.filename]
    except zipfile.BadZipFile as why:
        raise SourceError(f"{path} is damaged: {why}") from why

    def opener(member: str) -> Callable[[], BinaryIO]:
        def reopen() -> BinaryIO:
            stream = zipfile.ZipFile(path).open(member)  # noqa: SIM115 (closed with the stream)
            return cast(BinaryIO, gzip.GzipFile(fileobj=stream) if member.endswith(".gz") else stream)

        return reopen

    return [SourceFile(name, opener(name)) for name in sorted(names)]


def _opener(path: Path) -> Callable[[], BinaryIO]:
    def reopen() -> BinaryIO:
        if _starts_with(path, b"\x1f\x8b"):
            return cast(BinaryIO, io.BufferedReader(gzip.GzipFile(path), 1 << 18))
        return path.open("rb")

    return reopen


def _starts_with(path: Path, *magic: bytes) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(4).startswith(magic)
    except OSError as why:
        raise SourceError(f"{path} cannot be read: {why.strerror or why}") from why

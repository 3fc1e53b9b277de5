"""Where the history and the releases are kept: folders of the home, or a bucket where `storage` names one.

A store holds pieces of bytes under names with slashes. A piece is whole or as it was, and durable once `write` returns.
A home is begun in one place and stays there: `storage.json` in it says which, so that changed settings split nothing.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from conf.errors import PlainError
from conf.home import Home
from conf.sections.storage import Storage
from events.disk import sync, write_whole


class StoreError(PlainError):
    """A piece cannot be read or written; the message says where, why and what to do."""


class Missing(StoreError):
    """There is no piece of this name."""


class Store(Protocol):
    """What the archive and the depot rely on. Every method may raise StoreError, after a bounded time."""

    marks: Path  # a local folder for the marks and the lock of whoever writes

    def place(self, name: str = "") -> str:
        """Where a piece lies, in words that people can follow."""

    def names(self, under: str = "") -> Iterator[str]:
        """Names of the pieces below a folder, in no order."""

    def read(self, name: str) -> bytes:
        """The whole piece; `Missing` where there is none."""

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Put a piece in place, durably, instead of one that is there."""

    def delete(self, name: str) -> None:
        """Remove a piece; nothing happens where there is none."""

    def size(self, name: str) -> int | None:
        """Its bytes; None where there is no such piece."""

    def alone(self) -> AbstractContextManager[None]:
        """One writer at a time: another process of this home waits."""


class FolderStore:
    """Files below a folder. A name that ends in .part is a write that was cut off, and no piece."""

    def __init__(self, folder: Path) -> None:
        self.folder = self.marks = folder

    def place(self, name: str = "") -> str:
        return str(self.folder / name)

    def names(self, under: str = "") -> Iterator[str]:
        for folder, _, files in os.walk(self.folder / under):
            inside = Path(folder).relative_to(self.folder)
            yield from ((inside / f).as_posix() for f in files if not f.startswith(".") and not f.endswith(".part"))

    def read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError as why:
            raise Missing(f"{self.folder / name} is missing") from why
        except OSError as why:
            raise StoreError(f"{self.folder / name} cannot be read: {why.strerror or why}") from why

    def write(self, name: str, content: bytes | memoryview) -> None:
        file = self.folder / name
        try:
            new = [folder for folder in file.parents if not folder.exists()]
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, content)
            for folder in new:
                sync(folder.parent)
        except OSError as why:
            raise StoreError(f"{file} cannot be written: {why.strerror or why}") from why

    def delete(self, name: str) -> None:
        try:
            (self.folder / name).unlink(missing_ok=True)
        except OSError as why:
            raise StoreError(f"{self.folder / name} cannot be removed: {why.strerror or why}") from why

    def size(self, name: str) -> int | None:
        file = self.folder / name
        return file.stat().st_size if file.is_file() else None

    def alone(self) -> AbstractContextManager[None]:
        return locked(self.marks)


def history_store(home: Home, storage: Storage) -> Store:
    """Where this home's history is kept. StoreError where the home was begun elsewhere."""
    check_place(home, storage)
    if not storage.bucket:
        return FolderStore(home.history)
    from events.bucket import BucketStore

    return BucketStore(storage, "history", home)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock in a folder; the kernel frees the one of a process that was killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# The place of a home --------------------------------------------------------------------------------------------------


def place_of(storage: Storage) -> str:
    """In words: the bucket and the prefix, or folders."""
    return f"s3://{storage.bucket}/{storage.prefix}" if storage.bucket else "folders of the home"


def check_place(home: Home, storage: Storage) -> None:
    """StoreError where the settings name another place than the one this home was begun in. Changes nothing."""
    began = begun(home)
    wanted = place_of(storage)
    if began not in (None, wanted):
        raise StoreError(
            f"{home.root} was begun with {began}, and the settings say {wanted}: set storage.bucket and storage.prefix "
            "back, or begin another place with a new GREENLIGHT_HOME"
        )


def begin(home: Home, storage: Storage) -> str:
    """Note where this home keeps things, once; the name by which a bucket knows the home, empty for folders."""
    check_place(home, storage)
    if not storage.bucket:
        return ""
    name = secrets.token_hex(8)
    part = home.place.with_name(f".storage-{name}.part")
    if not home.place.exists():
        write_whole(part, json.dumps({"place": place_of(storage), "home": name}).encode())
        try:
            os.link(part, home.place)  # unlike a rename, it leaves what another process has just noted
            sync(home.root)
        except FileExistsError:
            check_place(home, storage)
        finally:
            part.unlink()
    return _noted(home)["home"]


def begun(home: Home) -> str | None:
    """In words, where this home keeps things; None where it keeps nothing yet. Only looks into the home itself."""
    if home.place.exists():
        return _noted(home)["place"]
    folders = (home.artifacts, *home.history.glob("*/day=*"))  # a release may have been fetched from anywhere
    return place_of(Storage()) if any(_holds_something(f) for f in folders) else None


def _holds_something(folder: Path) -> bool:
    """Whether anything is kept there: locks and what was cut off begin with a dot."""
    return folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir())


def _noted(home: Home) -> dict[str, str]:
    try:
        noted = json.loads(home.place.read_text())
        return {"place": str(noted["place"]), "home": str(noted["home"])}
    except (OSError, ValueError, KeyError, TypeError) as why:
        raise StoreError(f"{home.place} cannot be read ({why}): restore it from a backup of the home") from why

"""Making renames and new files durable: their names are stored in the folder, which has to be synced too."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(file: Path, content: bytes | memoryview) -> None:
    """Write aside, sync and rename: whatever happens, the file is whole or as it was. OSError leaves nothing behind."""
    part = file.with_suffix(".part")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
        sync(file.parent)
    except OSError:
        part.unlink(missing_ok=True)
        raise

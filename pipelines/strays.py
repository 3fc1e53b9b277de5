"""Processes that foreign code started and left behind, in whatever session: told by the folder they were given."""

import contextlib
import os
import signal
from pathlib import Path

PASSES = 5  # one that is seen may start another before it dies


def end_strays(folder: Path) -> None:
    """Kill every process whose environment names `folder` as its TMPDIR: those that `for_foreign_code` began there."""
    for _ in range(PASSES):
        found = _living(f"TMPDIR={folder}".encode())
        if not found:
            return
        for process in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)


def _living(mark: bytes) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # gone meanwhile, or someone else's
            if mark in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
    return found

"""Processes that were started and left behind, in whatever session: told by a variable that they were given."""

import contextlib
import os
import signal
import time
from pathlib import Path

PATIENCE_S, PAUSE_S = 5.0, 0.01  # one that is seen may start another before it dies, which takes it a moment


def end_strays(folder: Path) -> None:
    """Kill every process whose environment names `folder` as its TMPDIR: those that `for_foreign_code` began there."""
    end_marked(f"TMPDIR={folder}")


def end_marked(mark: str) -> int:
    """Kill every process that was started with the variable `mark` (`NAME=value`), or by one that was, and see them
    gone; how many."""
    ended: set[int] = set()
    until = time.monotonic() + PATIENCE_S
    while (found := marked(mark)) and time.monotonic() < until:
        ended.update(found)
        for process in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        time.sleep(PAUSE_S)
    return len(ended)


def marked(mark: str) -> list[int]:
    """The processes that carry `mark`. One that has ended and was not yet waited for carries nothing."""
    found, wanted = [], mark.encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # gone meanwhile, or someone else's
            if wanted in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
    return found


def of_folder(folder: Path) -> bool:
    """Whether a process works in `folder`, or was given a path in it: such as a server that runs from there."""
    wanted = str(folder)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            for word in (os.readlink(process / "cwd"), *words):
                if word == wanted or f"{wanted}/" in f"{word}/":
                    return True
    return False

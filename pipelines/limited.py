"""A command with a time limit: when it is over, or nobody waits any more, it is ended with all that it began."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from conf.home import Home
from pipelines.strays import end_marked

MARK = "UNDER_GREENLIGHT_JOB"  # begins the variable by which whatever a command begins is known, in any session
TICK_S = 0.2
PATIENCE_S = 10.0  # that a command has to end by itself, once it was asked
SAID = 600  # of its last characters that are kept


class Ended(NamedTuple):
    """status: of the process, or STOPPED. said: the end of what it said, as one line."""

    status: int
    said: str


STOPPED = 124  # as `timeout` says it


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    output: Path,
    limit_s: float,
    tick: Callable[[], bool] = lambda: True,
    patience_s: float = PATIENCE_S,
) -> Ended | None:
    """Run it and wait. Everything it says goes to `output`, which it begins anew.

    tick: called every fifth of a second; where it returns False, the command is ended, and there is no result.
    """
    mark = f"{MARK}_{os.getpid()}_{time.monotonic_ns()}"  # a command that runs another so leaves ours on it
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            env={**environment, mark: "1"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,  # beyond a Ctrl-C in the terminal; a new session would not be as nice as this one
        )
    until = time.monotonic() + limit_s
    wanted = in_time = True
    try:
        while process.poll() is None and wanted and in_time:
            time.sleep(TICK_S)
            wanted, in_time = tick(), time.monotonic() < until
        if process.poll() is None:
            _end(process, patience_s)
    finally:
        end_marked(f"{mark}=1")
        process.wait()
    said = last_words(output)
    if not in_time:
        why = f"it did not end within {limit_s / 60:g} min and was ended, with all that it began; it said last: "
        return Ended(STOPPED, why + (said or "nothing"))
    return Ended(process.returncode, said) if wanted else None


def output_of(home: Home, job: str) -> Path:
    """Where all that a job said, when it ran last, is kept."""
    return home.logs / f"job-{job}.log"


def last_words(output: Path) -> str:
    """The last whole lines of what was said, as one."""
    with output.open("rb") as file:
        file.seek(max(0, output.stat().st_size - 4 * SAID))
        lines = [" ".join(line.split()) for line in file.read().decode(errors="replace").splitlines()]
    kept = lines.pop()[-SAID:] if (lines := [line for line in lines if line]) else ""
    while lines and len(kept) + len(lines[-1]) < SAID:
        kept = f"{lines.pop()} {kept}"
    return kept


def _end(process: subprocess.Popen[bytes], patience_s: float) -> None:
    process.terminate()
    until = time.monotonic() + patience_s
    while process.poll() is None and time.monotonic() < until:
        time.sleep(TICK_S)

"""`kafka.json` in a home: how the relay and the mirror are, and since when, for status and reports.

Each writes its own part of it; a lock keeps two who write at once from forgetting each other's.
"""

import fcntl
from typing import Any

from conf.home import Home
from pipelines.loop import read_json, write_json


def note(home: Home, part: str, told: dict[str, Any]) -> None:
    """Replace what is told of one part. OSError where it cannot be written."""
    with home.kafka.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_json(home.kafka, (read_json(home.kafka) or {}) | {part: told})


def noted(home: Home, part: str) -> dict[str, Any]:
    """What is told of one part; nothing where it never was."""
    found = (read_json(home.kafka) or {}).get(part)
    return found if isinstance(found, dict) else {}

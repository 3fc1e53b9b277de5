"""What the loops beside the API share: they end when asked to, and say a trouble once."""

import json
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Protocol


def asked_to_end() -> threading.Event:
    """Set by SIGTERM or SIGINT, so that what is under way is finished first. In the main thread only."""
    event = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        event.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    return event


def speak() -> None:
    """Messages go to standard error with their time; `greenlight up` keeps them in `logs/<name>.log`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("apscheduler").setLevel(logging.WARNING)


class Loop(Protocol):
    """`step` says how many seconds to wait before the next one."""

    def step(self) -> float: ...

    def close(self) -> None: ...


def run(loop: Loop, wait: Callable[[float], bool]) -> None:
    """Step until `wait` (for some seconds) says that it is time to end, then close."""
    try:
        while not wait(loop.step()):
            pass
    finally:
        loop.close()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace a small file whole, so that who reads it meanwhile sees the old or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False))
    part.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote; None where there is nothing, or nothing of that kind."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None

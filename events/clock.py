"""The clock of a home for decisions: windows, ages, half-lives, validity. Deadlines always go by wall time."""

import time
from datetime import UTC, datetime

from conf.home import Home
from conf.settings import Settings
from events.log import LocalLog


def wall_ms() -> int:
    """Wall time in ms since 1970."""
    return time.time_ns() // 1_000_000


def when(ms: int) -> str:
    """A moment, for people: UTC, to the second."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def now_ms(home: Home, settings: Settings) -> int:
    """The home's now in ms since 1970: wall time, or, on the event clock, the newest viewer event (0 before any)."""
    if settings.clock == "wall":
        return wall_ms()
    if not home.log.exists():
        return 0
    with LocalLog(home.log) as log:
        return log.now_ms()

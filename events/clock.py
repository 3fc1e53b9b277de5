"""The clock of a home for decisions: windows, ages, half-lives, validity. Deadlines always go by wall time."""

import time
from datetime import UTC, datetime

from conf.home import Home
from conf.settings import Settings
from events.local_log import LocalLog


def wall_ms() -> int:
    """Wall time in ms since 1970."""
    return time.time_ns() // 1_000_000


def when(ms: int) -> str:
    """A moment, for people: UTC, to the second."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def now_ms(home: Home, settings: Settings) -> int:
    """The home's now in ms since 1970: wall time, or, on the event clock, the newest viewer event (0 before any)."""
    return wall_ms() if settings.clock == "wall" else event_ms(home)


def event_ms(home: Home) -> int:
    """The event clock: the time of the newest viewer event that came in here or through Kafka; 0 before any."""
    newest = 0
    for path in (home.log, home.mirror):
        if path.exists():
            with LocalLog(path) as log:
                newest = max(newest, log.now_ms())
    return newest

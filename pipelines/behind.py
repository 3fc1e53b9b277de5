"""An alarm for readers that fall behind the log, register line K6. The loop that sends mail looks
(`pipelines/watch.py`); `lag.json` in the home keeps what it saw, so that a spell is told once, over restarts too, and
`status` can show it.
"""

import time
from collections.abc import Callable

from pydantic import BaseModel, ValidationError

from conf.home import Home
from conf.settings import Settings
from events.clock import wall_ms
from monitoring.lag import Behind, Watched, look
from pipelines.loop import write_json
from serving.lag import lags

STALE_MS = 300_000  # a look that is older says nothing about now: letters may take a while between two

LOOPS = {"archive": "archiving", "live": "api", "relay": "relaying", "mirror": "mirroring"}  # whose log says why


class Reader(BaseModel):
    """A reader of a log, as of the last look. since_wall_ms: of its alarm."""

    behind: Behind
    watched: Watched = Watched()
    since_wall_ms: int = 0

    @property
    def sentence(self) -> str:
        return f"{self.behind.name} is {words(self.behind)}"


class _Look(BaseModel):
    beat_wall_ms: int = 0
    readers: dict[str, Reader] = {}


class LagAlarm:
    """Tells who falls behind, once for each spell. tell: gets all who are, where one is new."""

    def __init__(self, home: Home, settings: Settings, tell: Callable[[list[Reader]], None]) -> None:
        self.home, self.settings, self._tell = home, settings, tell
        self._looked_s: float | None = None

    def step(self) -> None:
        """One look. LogError where a log cannot be read, OSError where it cannot be noted what was told."""
        before, now_s = _last(self.home).readers, time.monotonic()
        elapsed_s = 0.0 if self._looked_s is None else now_s - self._looked_s
        self._looked_s = now_s
        found: dict[str, Reader] = {}
        for behind in lags(self.home, self.settings):
            was = before.get(behind.name, Reader(behind=behind))
            now = look(was.watched, behind, elapsed_s, self.settings.lag)
            since = was.since_wall_ms if was.watched.alarm else wall_ms()
            found[behind.name] = Reader(behind=behind, watched=now, since_wall_ms=since if now.alarm else 0)
        late = [reader for reader in found.values() if reader.watched.alarm]
        if any(r.behind.name not in before or not before[r.behind.name].watched.alarm for r in late):
            self._tell(late)
        write_json(self.home.lag, _Look(beat_wall_ms=wall_ms(), readers=found).model_dump())


def alarming(home: Home) -> list[Reader]:
    """Who is too far behind, as of the last look; nobody where none was made lately."""
    last = _last(home)
    fresh = abs(wall_ms() - last.beat_wall_ms) < STALE_MS
    return [reader for reader in last.readers.values() if reader.watched.alarm and fresh]


def next_command(home: Home, group: str) -> str:
    """What says why a group is behind."""
    return f"tail {home.logs / LOOPS.get(group, group)}.log"


def words(behind: Behind) -> str:
    """`12,345 behind, the oldest 312 s old`; `0 behind, as of 312 s ago` where it is not known since."""
    if not behind.seconds:
        return f"{behind.messages:,} behind"
    age = f"the oldest {behind.seconds:,.0f} s old" if behind.messages else f"as of {behind.seconds:,.0f} s ago"
    return f"{behind.messages:,} behind, {age}"


def _last(home: Home) -> _Look:
    """The last look; an empty one where there was none, or the file is not ours."""
    try:
        return _Look.model_validate_json(home.lag.read_bytes())
    except (OSError, ValidationError):
        return _Look()

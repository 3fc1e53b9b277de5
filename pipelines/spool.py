"""How full the spool is: for `status`, and as an alarm by mail before events are refused.

The loop that sends mail looks (`pipelines/watch.py`); that a spell was told is noted in `kafka.json`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from conf.home import Home
from conf.settings import Settings
from events.clock import wall_ms
from events.local_log import LocalLog
from pipelines.kafka_state import note, noted


@dataclass(frozen=True)
class Fill:
    """How full the spool is."""

    mb: float
    cap_mb: float
    alarm_share: float

    @property
    def alarming(self) -> bool:
        return self.mb >= self.alarm_share * self.cap_mb

    @property
    def sentence(self) -> str:
        said = f"{self.mb:,.0f} of {self.cap_mb:,.0f} MB are in use"
        return f"{said}: events are refused" if self.mb >= self.cap_mb else said


def fill(home: Home, settings: Settings) -> Fill | None:
    """None where there is no spool. LogError where it cannot be read."""
    kafka = settings.kafka
    if kafka.cap_mb is None or not home.log.exists():
        return None
    with LocalLog(home.log) as log:
        return Fill(log.size_mb(), kafka.cap_mb, kafka.spool_alarm_share)


class SpoolAlarm:
    """Tells that the spool fills, once for each spell, over restarts too."""

    def __init__(self, home: Home, settings: Settings, tell: Callable[[Fill], None]) -> None:
        self.home, self.settings, self._tell = home, settings, tell

    def step(self) -> None:
        """One look. LogError where the spool cannot be read, OSError where it cannot be noted what was told."""
        found = fill(self.home, self.settings)
        if found is None:
            return
        told = bool(noted(self.home, "spool").get("alarm"))
        if found.alarming and not told:
            self._tell(found)
        if found.alarming != told:
            note(self.home, "spool", {"alarm": found.alarming, "since_wall_ms": wall_ms()})

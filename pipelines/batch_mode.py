"""Batch mode (register line K7): while Kafka is away for long, everything rests on what came in here, and says so.

A letter tells of it, and of what came through Kafka and could not be read.
"""

from collections.abc import Callable, Sequence

from conf.home import Home
from conf.settings import Settings
from events.clock import wall_ms, when
from pipelines.kafka_state import note, noted

QUIET_MS = 86_400_000  # between two letters about records that cannot be read


def batch_mode(home: Home, settings: Settings) -> str:
    """What a report has to say of it, in one sentence; empty where Kafka is read, or is none."""
    told = noted(home, "mirror")
    if not settings.kafka.servers or told.get("source") != "spool":
        return ""
    away, since = when(int(told["away_wall_ms"])), when(int(told["since_wall_ms"]))
    return (
        f"Kafka is away since {away}, so this rests on what came in here, read from the spool since {since}; "
        "what came in elsewhere follows once Kafka is back"
    )


def left_in_kafka(home: Home) -> str:
    """Where Kafka is not in use any more: what was not read before, in one sentence; empty where all was, as far as is
    known. What came in here is not missed: the spool keeps it until it has come back."""
    told = noted(home, "mirror")
    if told.get("away_wall_ms"):
        since = when(int(told["away_wall_ms"]))
        return f"Kafka was switched off while it was away, since {since}: what others sent is not read"
    if told.get("behind"):
        return f"Kafka was switched off with {told['behind']:,} records in it: those of others are not read"
    return ""


class MirrorAlarm:
    """Tells each spell of batch mode once, and at most daily that more cannot be read; over restarts too. tell: gets
    sentences."""

    def __init__(self, home: Home, settings: Settings, tell: Callable[[Sequence[str]], None]) -> None:
        self.home, self.settings, self._tell = home, settings, tell

    def step(self) -> None:
        """One look. OSError where it cannot be noted what was told."""
        told, before, now = noted(self.home, "mirror"), noted(self.home, "mirror-told"), wall_ms()
        if not told or not self.settings.kafka.servers:
            return
        news, after = [], dict(before)
        if (said := batch_mode(self.home, self.settings)) and before.get("spell") != told["since_wall_ms"]:
            news.append(said)
            after["spell"] = told["since_wall_ms"]
        odd = int(told["unreadable"]) + int(told["gaps"])
        if odd > before.get("odd", 0) and now - before.get("odd_wall_ms", 0) > QUIET_MS:
            news.append(
                f"{told['unreadable']:,} records from Kafka could not be read, and {told['gaps']:,} times its "
                "retention had removed some before they were read: see the dead letter, by partition and offset"
            )
            after |= {"odd": odd, "odd_wall_ms": now}
        if news:
            self._tell(news)
            note(self.home, "mirror-told", after)

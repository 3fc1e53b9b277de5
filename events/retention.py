"""What the logs of a home drop: what is old, and kept elsewhere.

The spool drops what has gone to Kafka and come back into the mirror: until then it is kept here too, in case that Kafka
is switched off or loses it. The log that is read drops what the archive holds. Without `retention.log_days` that
one is kept whole: event ids that come again, as by a second import, are known by it.
"""

from pathlib import Path

from conf.home import Home
from conf.settings import Settings
from events.clock import wall_ms
from events.event import TOPICS
from events.local_log import LocalLog
from events.reading import ARCHIVE, MIRROR, RELAY, known_to_hold, reading_log

HOUR_MS = 3_600_000


def trim_logs(home: Home, settings: Settings, most: int) -> int:
    """Drop what is old, at most about so many records of a log; how many there were. LogError where that fails."""
    rules: list[tuple[Path, list[str], float]] = []
    if settings.kafka.servers:
        _note_mirrored(home)
        rules.append((home.log, [RELAY, MIRROR], settings.kafka.spool_keep_hours))
    if settings.retention.log_days is not None:
        rules.append((reading_log(home, settings), [ARCHIVE], 24 * settings.retention.log_days))
    dropped = 0
    for path, groups, hours in rules:
        if path.exists():
            with LocalLog(path) as log:
                dropped += log.trim(round(hours * HOUR_MS), groups, wall_ms(), most)
    return dropped


def _note_mirrored(home: Home) -> None:
    """As the mirror's group in the spool: how far the mirror is known to hold it."""
    if home.log.exists() and home.mirror.exists():
        with LocalLog(home.log) as spool, LocalLog(home.mirror) as mirror:
            for topic in TOPICS:
                if (known := known_to_hold(mirror, spool, topic)) > spool.committed(topic, MIRROR):
                    spool.commit(topic, MIRROR, known)

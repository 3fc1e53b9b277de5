"""What the logs of a home drop: what is old, and kept elsewhere.

The spool drops what has gone to Kafka, the log that is read what the archive holds. Without `retention.log_days` that
one is kept whole: event ids that come again, as by a second import, are known by it.
"""

from conf.home import Home
from conf.settings import Settings
from events.archive import GROUP as ARCHIVE
from events.clock import wall_ms
from events.log import LocalLog
from events.reading import reading_log

RELAY = "relay"  # the spool's group (events/relay.py), named here for those who shall not load Kafka's client
HOUR_MS = 3_600_000


def trim_logs(home: Home, settings: Settings, most: int) -> int:
    """Drop what is old, at most about so many records of a log; how many there were. LogError where that fails."""
    rules = []
    if settings.kafka.servers:
        rules.append((home.log, RELAY, settings.kafka.spool_keep_hours))
    if settings.retention.log_days is not None:
        rules.append((reading_log(home, settings), ARCHIVE, 24 * settings.retention.log_days))
    dropped = 0
    for path, group, hours in rules:
        if path.exists():
            with LocalLog(path) as log:
                dropped += log.trim(round(hours * HOUR_MS), [group], wall_ms(), most)
    return dropped

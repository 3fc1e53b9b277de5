"""Batch mode (register line K7): while Kafka is away for long, everything rests on what came in here, and says so."""

from conf.home import Home
from conf.settings import Settings
from events.clock import when
from pipelines.kafka_state import noted


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

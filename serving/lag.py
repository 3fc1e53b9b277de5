"""How far every reader of a home's log is behind it, for status, alarm and `/metrics`: the archive, the live state of
each worker and, with Kafka, the relay and the mirror. Read from the logs and from what workers and mirror say of
themselves, so it needs nobody to be up."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel, ValidationError

from conf.home import Home
from conf.settings import Settings
from events.clock import wall_ms
from events.event import TOPICS
from events.local_log import LocalLog
from events.log import LogError
from events.reading import RELAY, on_the_way, reading_log
from events.state import TOPICS as LIVE
from monitoring.lag import Behind
from serving.report import reports

log = logging.getLogger("greenlight.serving")

SILENT_S = 60.0  # a mirror that has not caught up for so long does not know what it is behind


class _Mirror(BaseModel):
    source: str
    behind: int  # records, at its last look
    caught_up_wall_ms: int  # it has all that Kafka held then


class _Told(BaseModel):
    """What this reads of `kafka.json`."""

    mirror: _Mirror


def lags(home: Home, settings: Settings) -> list[Behind]:
    """Every reader, and what it has not taken yet. LogError where a log cannot be read."""
    before = _of_kafka(home) if settings.kafka.servers else ()
    return [*before, *_of_readers(home, reading_log(home, settings))]


def _of_kafka(home: Home) -> Iterator[Behind]:
    """The relay behind the spool, and the mirror behind Kafka: as it said at its last look, or as what the relay has
    sent since tells. Where it takes in the spool in place of Kafka, it is behind nothing there."""
    sent = 0
    if home.log.exists():
        with LocalLog(home.log) as spool:
            yield _of_group(spool, RELAY)
            sent = _sent(spool, home.mirror)
    try:
        mirror = _Told.model_validate_json(home.kafka.read_bytes()).mirror
    except (OSError, ValidationError):  # it said nothing yet
        return
    if mirror.source == "kafka":
        silent_s = (wall_ms() - mirror.caught_up_wall_ms) / 1000
        behind = max(mirror.behind, sent)
        yield Behind("mirror", behind, silent_s if behind or silent_s > SILENT_S else 0.0)


def _sent(spool: LocalLog, path: Path) -> int:
    """Records that the relay has sent and that are not in the mirror."""
    if not path.exists():
        return 0
    with LocalLog(path) as mirror:
        return sum(on_the_way(spool, mirror, topic, spool.committed(topic, RELAY)) for topic in TOPICS)


def _of_readers(home: Home, path: Path) -> Iterator[Behind]:
    if not path.exists():
        return
    with LocalLog(path) as stored:
        yield _of_group(stored, "archive")
        for worker in reports(home):
            yield _behind(stored, "live", dict.fromkeys(LIVE, worker.offset), str(worker.pid))


def _of_group(stored: LocalLog, group: str) -> Behind:
    return _behind(stored, group, {topic: stored.committed(topic, group) for topic in TOPICS})


def _behind(stored: LocalLog, group: str, taken: Mapping[str, int], worker: str = "") -> Behind:
    waiting = stored.waiting(taken)
    if not waiting.records:
        return Behind(group, 0, 0.0, worker)
    since = waiting.since_wall_ms
    return Behind(group, waiting.records, None if since is None else max(0, wall_ms() - since) / 1000, worker)


class LagGauges(Collector):
    """The lag of each reader at the moment of asking. Workers are numbered from 1, so that labels stay few."""

    def __init__(self, look: Callable[[], Iterable[Behind]]) -> None:
        self._look = look

    def describe(self) -> Iterable[Metric]:
        return []  # else it would be asked when it is registered

    def collect(self) -> Iterator[Metric]:
        labels = ["group", "worker"]
        messages = GaugeMetricFamily("greenlight_lag_messages", "Records that a reader has not taken", labels=labels)
        seconds = GaugeMetricFamily("greenlight_lag_seconds", "Age of the oldest of them", labels=labels)
        for names, behind in self._numbered():
            messages.add_metric(names, behind.messages)
            if behind.seconds is not None:
                seconds.add_metric(names, behind.seconds)
        yield from (messages, seconds)

    def _numbered(self) -> Iterator[tuple[list[str], Behind]]:
        workers = 0
        try:
            for behind in self._look():
                workers += bool(behind.worker)
                yield [behind.group, str(workers) if behind.worker else ""], behind
        except LogError as why:  # the other metrics are worth having; this one is then missing, which shows
            log.warning("lag cannot be told: %s", why)

"""How far every reader of a home's log is behind it, for status, alarm and `/metrics`: the archive, the live state of
each worker and, with Kafka, the relay behind the spool. Read from the logs and from what workers say of themselves, so
it needs nobody to be up."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from conf.home import Home
from conf.settings import Settings
from events.clock import wall_ms
from events.log import LocalLog, LogError
from events.reading import TOPICS, reading_log
from events.state import TOPICS as LIVE
from monitoring.lag import Behind
from serving.report import reports

log = logging.getLogger("greenlight.serving")


def lags(home: Home, settings: Settings) -> list[Behind]:
    """Every reader, and what it has not taken yet. LogError where a log cannot be read."""
    found = [*_of_readers(home, reading_log(home, settings))]
    if settings.kafka.servers and home.log.exists():
        with LocalLog(home.log) as spool:
            found.insert(0, _of_group(spool, "relay"))
    return found


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

"""What the edge counts, in Prometheus text. Labels are bounded: no user id and no path is ever one.

Under `bentoml serve` several workers count into files of one folder (`PROMETHEUS_MULTIPROC_DIR`, which BentoML sets and
prometheus-client reads), so any worker answers `/metrics` for all of them, those that died included.
"""

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from monitoring.lag import Behind
from serving.lag import LagGauges

CONTENT_TYPE = b"text/plain; version=1.0.0; charset=utf-8"
LATENCY_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class Metrics:
    """The counters of one worker; made once. lag: how far each reader of the log is behind, asked at every look."""

    def __init__(self, lag: Callable[[], Iterable[Behind]] | None = None) -> None:
        own = CollectorRegistry()
        self._lag = LagGauges(lag or tuple)
        self.requests = Counter("greenlight_requests", "Answers", ["route", "status"], registry=own)
        self.slates = Counter("greenlight_slates", "Slates by the rung that served", ["rung"], registry=own)
        self.explored = Counter("greenlight_slates_explored", "Slates of the model in random order", registry=own)
        self.unavailable = Counter(
            "greenlight_rung_unavailable",
            "A rung could not serve and the next was asked",
            ["rung", "reason"],
            registry=own,
        )
        self.non_finite = Counter("greenlight_non_finite_scores", "NaN or +inf scores dropped", registry=own)
        self.written = Counter("greenlight_impressions_written", "Impressions in the log", registry=own)
        self.dropped = Counter("greenlight_impressions_dropped", "Impressions lost", registry=own)
        self.posted = Counter(
            "greenlight_events_posted", "Events posted, by what became of them", ["outcome"], registry=own
        )
        self.turned_away = Counter("greenlight_turned_away", "Refused at the door", ["reason"], registry=own)
        self.latency = Histogram(
            "greenlight_latency_seconds", "Time to answer", ["route"], buckets=LATENCY_S, registry=own
        )
        self.cache = Counter("greenlight_cache", "Looks for a fresh slate", ["result"], registry=own)
        self.cache_lost = Counter("greenlight_cache_lost", "Slates that Redis did not take", registry=own)
        self.cache_breaker = Gauge(
            "greenlight_cache_breaker",
            "Redis: 0 used, 1 tried, 2 left alone; of the worker that saw a change last",
            registry=own,
            multiprocess_mode="mostrecent",
        )
        self._own = own
        self._children: dict[tuple, Any] = {}

    def answered(self, route: str, status: str, seconds: float) -> None:
        """Count an answer. The counters of each pair are looked up once: `labels` takes a lock."""
        try:
            count, latency = self._children[route, status]
        except KeyError:
            found = self.requests.labels(route, status), self.latency.labels(route)
            count, latency = self._children.setdefault((route, status), found)
        count.inc()
        latency.observe(seconds)

    def served(self, rung: str, non_finite: int, explored: bool) -> None:
        """Count a slate, whether its order was random, and the scores that the rung's model got wrong."""
        try:
            slates = self._children[(rung,)]
        except KeyError:
            slates = self._children.setdefault((rung,), self.slates.labels(rung))
        slates.inc()
        if explored:
            self.explored.inc()
        if non_finite:
            self.non_finite.inc(non_finite)

    def looked(self, result: str) -> None:
        """Count a look into the cache: `hit`, `miss`, `error`, or `open` where Redis was not asked."""
        try:
            looks = self._children["cache", result]
        except KeyError:
            looks = self._children.setdefault(("cache", result), self.cache.labels(result))
        looks.inc()

    def text(self) -> bytes:
        """All metrics: of every worker where they share a folder, else of this one."""
        shared = CollectorRegistry()
        try:
            MultiProcessCollector(shared)
        except ValueError:  # no shared folder: one process
            return generate_latest(self._own) + generate_latest(self._lag)
        return generate_latest(shared) + generate_latest(self._lag)

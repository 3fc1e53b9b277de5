"""What came of the slates of a home, read from its history: for experiments, and for the rates of each arm and rung."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pyarrow as pa

from conf.home import Home
from conf.settings import Settings
from events.archive import catch_up, read_between
from events.event import EVENTS, IMPRESSIONS
from events.store import history_store
from monitoring.outcomes import Brought, Metric, Rates, UserMeans, brought, per_rung, per_viewer


def outcomes(home: Home, settings: Settings, *, since_ms: int, until_ms: int, metric: Metric) -> UserMeans:
    """Each viewer's mean per slate, of slates and events from one moment of the home's clock up to and with another.

    For several metrics, or to know who was left out, ask `per_viewer(slates_between(...))` once.
    """
    found = slates_between(home, settings, since_ms=since_ms, until_ms=until_ms)
    return per_viewer(found, settings.experiment).means(metric)


def rates(home: Home, settings: Settings, *, since_ms: int, until_ms: int) -> tuple[Rates, ...]:
    """Click-through rate, watch time and likes of each rung in each arm in that period."""
    return per_rung(slates_between(home, settings, since_ms=since_ms, until_ms=until_ms), settings.experiment)


def slates_between(home: Home, settings: Settings, *, since_ms: int, until_ms: int) -> Brought:
    """Archive what is new in the log, then join the slates of a period with what happened in it. LogError, StoreError.

    What comes late is in the next answer for the same period.
    """
    store = history_store(home, settings.storage)
    catch_up(home, settings, store)

    def days(topic: str) -> Callable[[Sequence[str]], Iterator[pa.Table]]:
        return partial(read_between, store, topic, since_ms=since_ms, until_ms=until_ms)

    return brought(days(IMPRESSIONS), days(EVENTS), settings.experiment, settings.snapshot)

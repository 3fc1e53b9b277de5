"""What viewers feel of Kafka: `greenlight up` with a broker behind a proxy, up, down, and one that never answers."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from benchmarks.load import Plan, Result
from benchmarks.pour import Poured, Pouring
from benchmarks.running import child, up
from conf.home import Home
from conf.sections.kafka import Kafka
from conf.settings import Settings, load
from events.local_log import LocalLog
from events.reading import reached
from pipelines.data import import_data
from pipelines.package import package_champion
from pipelines.train import train
from serving.keys import KeyStore
from serving.report import reports
from tests.faults.proxy import Name, Proxy

CONNECTIONS, VIEWERS = 8, 500
SETTLE_S = 3.0  # between a change at the proxy and the first request that counts
STATES: dict[str, Name | None] = {"up": None, "down": "down", "black-holed": "timeout"}


class Site(NamedTuple):
    """A running service, the proxy before its broker, and whom to ask for."""

    home: Home
    settings: Settings
    proxy: Proxy
    url: str
    key: str
    users: list[str]
    movies: list[str]


@contextmanager
def site(folder: Path, proxy: Proxy, conf: Kafka, model: str) -> Iterator[Site]:
    """`greenlight up` on MovieTweetings, its model trained before Kafka is in use; conf names the proxy. Begins when
    all of the log has gone through Kafka."""
    home, settings = Home(folder / "home").open(), load({})
    import_data(home, settings, "movietweetings")
    training = train(home, settings, models=(model,))
    if package_champion(home, settings, training) is None:
        raise SystemExit(training.sentence)
    key, _ = KeyStore(home).create("benchmark", ("admin",))
    release = home.releases / str(training.candidates[-1].release)
    users = json.loads((release / "viewers" / "ids.json").read_text())[-VIEWERS:]
    movies = json.loads((release / "catalogue" / "ids.json").read_text())[:2000]
    with up(home, GREENLIGHT_KAFKA=json.dumps(conf.model_dump(mode="json"))) as ready:
        made = Site(home, settings.model_copy(update={"kafka": conf}), proxy, ready["api"], key, users, movies)
        caught_up_s(made)
        yield made


def rounds(site: Site, number: int, seconds: float, rate: float, events: int) -> dict[str, list[Result]]:
    """Paced requests while events are posted, in each state of Kafka; the states take turns at being first."""
    found: dict[str, list[Result]] = {state: [] for state in STATES}
    order = list(STATES)
    for _ in range(number):
        for state in order:
            _to(site.proxy, STATES[state])
            pouring = threading.Thread(target=_pour, args=(site, events, seconds + 2 * SETTLE_S))
            pouring.start()
            time.sleep(SETTLE_S)
            found[state].append(_drive(site, rate, seconds))
            pouring.join()
        order.append(order.pop(0))
    site.proxy.remove()
    return found


def catch_up(site: Site, outage_s: float, events: int) -> tuple[Poured, float]:
    """What was acknowledged while Kafka was down, and seconds from its return until every worker knew all of it."""
    caught_up_s(site)
    site.proxy.add("down")
    poured = _pour(site, events, outage_s)
    site.proxy.remove()
    return poured, caught_up_s(site)


def caught_up_s(site: Site) -> float:
    """Seconds until all that is in the spool has come through Kafka into the live state of every worker."""
    begun = time.perf_counter()
    while not _caught_up(site):
        time.sleep(0.1)
    return time.perf_counter() - begun


def _caught_up(site: Site) -> bool:
    to, workers = reached(site.home, site.settings), reports(site.home)
    return to is not None and bool(workers) and all(worker.offset >= to for worker in workers)


def _to(proxy: Proxy, toxic: Name | None) -> None:
    if toxic is None:
        proxy.remove()
    else:
        proxy.add(toxic)


def _drive(site: Site, rate: float, seconds: float) -> Result:
    head = f"Host: bench\r\nAuthorization: Bearer {site.key}\r\n\r\n"
    requests = [f"GET /recommend/{user}?k=20 HTTP/1.1\r\n{head}" for user in site.users]
    port = int(site.url.rpartition(":")[2])
    return Result(**child("load", asdict(Plan("127.0.0.1", port, CONNECTIONS, seconds, requests, rate))))


def _pour(site: Site, rate: int, seconds: float) -> Poured:
    with LocalLog(site.home.log) as log:
        first_ms = log.now_ms() + 1
    batch = max(1, min(500, rate // 10))
    plan = Pouring(site.url, site.key, rate, batch, seconds, first_ms, site.users, site.movies)
    return Poured(**child("pour", asdict(plan)))

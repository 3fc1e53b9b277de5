"""`make bench-live`: what a viewer feels while the service does everything else it does, as ratios within one run.

`greenlight up` runs whole (registry, API with two workers, archive, reconcile, schedule) on MovieTweetings. Paced
requests go on while, one after the other, nothing else happens; events pour in; a bare loop takes a core; the archive
writes; releases are swapped. Rounds alternate. Every slate is made for its request: kept ones would shorten the tail at
rest, where they stay fresh, and hardly that beside events and swaps, where they do not. Then: seconds from an event to
its effect, from a promotion to every worker, and events poured as fast as the target asks for a minute, with memory and
what was stored.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.load import Plan, Result, tail_ratios
from benchmarks.pour import Poured, Pouring
from benchmarks.running import child, up
from conf.home import Home
from conf.settings import Settings, load
from events.archive import archive
from events.event import EVENTS
from events.local_log import LocalLog
from events.pace import Pace
from events.store import FolderStore
from events.turns import step_aside
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Decision, Ledger
from pipelines.archiving import SHARE
from pipelines.data import import_data
from pipelines.package import package_champion
from pipelines.promote import promote
from pipelines.train import train
from pipelines.trained import Trained
from serving.keys import KeyStore
from serving.report import reports

CONNECTIONS, VIEWERS = 32, 500  # of 8, all may end at one worker, as the kernel hands them out
HEAD_START_S = 3.0
FOREVER_MS = 1 << 60
TARGET_RATIO, TARGET_EFFECT_S, TARGET_POUR = 2.0, 5.0, 20_000
CONTROL = "a bare loop on a core"  # the machine's part: it steps aside as the archive does, and shares nothing
out = Console(width=110)


class Service(NamedTuple):
    """A running `greenlight up`, and whom to ask for."""

    home: Home
    settings: Settings
    url: str
    key: str
    pid: int
    users: list[str]
    movies: list[str]
    versions: tuple[int, int]
    past: Path  # a copy of its log, to be archived again and again

    @property
    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rate", type=float, default=300, help="requests a second (default: 300)")
    options.add_argument("--seconds", type=float, default=8, help="of each measurement (default: 8)")
    options.add_argument("--rounds", type=int, default=3, help="default: 3")
    options.add_argument("--events", type=int, default=1000, help="a second, while requests are timed (default: 1000)")
    options.add_argument("--swaps", type=int, default=50, help="promotions that are timed (default: 50)")
    options.add_argument("--pour", type=float, default=60, help="seconds of the full stream of events (default: 60)")
    args = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="greenlight-bench-") as folder, _service(Path(folder)) as service:
        missed = tails(service, args) + effects(service) + promotions(service, args.swaps) + flood(service, args.pour)
    return 1 if missed else 0


# Tails ----------------------------------------------------------------------------------------------------------------


def tails(service: Service, args: argparse.Namespace) -> int:
    """p99 of paced requests beside each kind of work, over p99 at rest; how many kinds miss the target."""
    longer_s = args.seconds + 2 * HEAD_START_S
    beside: dict[str, Callable[[threading.Event], object]] = {
        "at rest": lambda over: None,
        f"{args.events:,} events a second": lambda over: _pour(service, args.events, longer_s),
        CONTROL: lambda over: child("live", {"seconds": longer_s}),
        "archive": lambda over: child("live", {"archive": str(service.past), "seconds": longer_s}),
        "swaps, one every 2 s": lambda over: _swap_until(service, over),
    }
    found: dict[str, list[Result]] = {name: [] for name in beside}
    for _ in range(args.rounds):
        for name, work in beside.items():
            over = threading.Event()
            worker = threading.Thread(target=work, args=(over,))
            worker.start()
            time.sleep(HEAD_START_S)  # until a process that does it has read its modules
            found[name].append(_drive(service, args.rate, args.seconds))
            over.set()
            worker.join()
    table = Table(title=f"requests at {args.rate:g}/s on {CONNECTIONS} connections; {args.rounds} rounds, medians")
    for column in ("beside", "req/s", "p50 ms", "p99 ms", "p99 of rest", "least", "most", "failed"):
        table.add_column(column, justify="left" if column == "beside" else "right")
    missed = 0
    for name, rounds in found.items():
        p50, p99 = (statistics.median(getattr(r, field) for r in rounds) for field in ("p50_ms", "p99_ms"))
        failed, rps = sum(r.failures for r in rounds), statistics.median(r.rps for r in rounds)
        ratio = tail_ratios(rounds, found["at rest"])
        missed += (not ratio[0] <= TARGET_RATIO and name != CONTROL) or failed > 0
        table.add_row(name, f"{rps:,.0f}", f"{p50:.2f}", f"{p99:.2f}", *(f"{x:.2f}" for x in ratio), str(failed))
    out.print(table)
    out.print(f"target: median ratio at most {TARGET_RATIO:g}, none failed: {'missed' if missed else 'met'}\n")
    return missed


def _drive(service: Service, rate: float, seconds: float) -> Result:
    head = f"Host: bench\r\nAuthorization: Bearer {service.key}\r\n\r\n"
    requests = [f"GET /recommend/{user}?k=20 HTTP/1.1\r\n{head}" for user in service.users]
    port = int(service.url.rpartition(":")[2])
    return Result(**child("load", asdict(Plan("127.0.0.1", port, CONNECTIONS, seconds, requests, rate))))


def _swap_until(service: Service, over: threading.Event) -> None:
    while not over.wait(2.0):
        _swap(service)


# Times to effect ------------------------------------------------------------------------------------------------------


def effects(service: Service, count: int = 100) -> int:
    """Seconds from an event's acknowledgement until the viewer's slate no longer offers the movie."""
    took = []
    with httpx.Client(base_url=service.url, headers=_headers(service), trust_env=False) as client:
        for number in range(count):
            user = f"effect-{number}"
            movie = client.get(f"/recommend/{user}", params={"k": 1}).text
            client.post("/v1/events", json=[{"kind": "watch", "user_id": user, "movie_id": movie, "minute": 1}])
            begun = time.perf_counter()
            while sum(movie != client.get(f"/recommend/{user}", params={"k": 1}).text for _ in range(4)) < 4:
                time.sleep(0.02)
            took.append(time.perf_counter() - begun)
    return _told("event to effect", took, 0.99)


def promotions(service: Service, count: int) -> int:
    """Seconds from asking for a promotion until every worker says that it serves it."""
    return _told("promotion to every worker", [_swap(service) for _ in range(count)], 0.95)


def _swap(service: Service) -> float:
    """Promote the version that is not in charge, with the evidence that an A/B would have given."""
    home, (first, second) = service.home, service.versions
    ledger = Ledger.to_write(home.ledger, home.keys)
    now = in_charge(ledger)["champion"].body
    wanted = second if now["version"] == first else first
    digest = next(e.body["release"] for e in ledger.entries("registered") if e.body["version"] == wanted)
    for gate in ("offline", "infra", "online"):
        until = None if gate == "infra" else FOREVER_MS
        found = Decision(gate, "pass", digest, None, None, "", {"champion": now["release"]}, valid_until_ms=until)
        ledger.record(found, actor="benchmark", ts=0)
    begun = time.perf_counter()
    outcome = promote(home, service.settings, wanted, actor="benchmark")
    if not outcome.accepted:
        raise SystemExit(outcome.sentence)
    while not (seen := reports(home)) or any(r.arms["champion"].release != digest for r in seen):
        time.sleep(0.02)
    return time.perf_counter() - begun


def _told(what: str, took: list[float], share: float) -> int:
    ordered = sorted(took)
    high = ordered[min(len(ordered) - 1, int(len(ordered) * share))]
    missed = high > TARGET_EFFECT_S
    out.print(
        f"{what}: p50 {statistics.median(took):.2f} s, p{share * 100:g} {high:.2f} s, most {ordered[-1]:.2f} s "
        f"of {len(took)}; target {TARGET_EFFECT_S:g} s: {'missed' if missed else 'met'}\n"
    )
    return int(missed)


# A flood of events ----------------------------------------------------------------------------------------------------


def flood(service: Service, seconds: float) -> int:
    """Pour events for a while: how many were acknowledged and stored, what memory the service took."""
    with LocalLog(service.home.log) as log:
        before = log.count(EVENTS)
    memory, over = [_memory_mb(service)], threading.Event()
    watcher = threading.Thread(target=lambda: _watch(service, memory, over))
    watcher.start()
    got = _pour(service, TARGET_POUR, seconds)
    over.set()
    watcher.join()
    with LocalLog(service.home.log) as log:
        stored = log.count(EVENTS) - before
    behind = _catch_up_s(service)
    missed = stored != got.acknowledged or got.acknowledged < got.sent or got.seconds > 1.05 * seconds
    out.print(
        f"{got.sent:,} events in {got.seconds:.1f} s ({got.sent / got.seconds:,.0f}/s), batches p50 {got.p50_ms:.0f} ms"
        f", p99 {got.p99_ms:.0f} ms; acknowledged {got.acknowledged:,}, stored {stored:,}, refused {got.refused}; "
        f"memory of all processes {memory[0]:,.0f} MB before, {max(memory):,.0f} MB at most; workers caught up "
        f"{behind:.1f} s later: {'missed' if missed else 'met'}"
    )
    return int(missed)


def _pour(service: Service, rate: int, seconds: float) -> Poured:
    with LocalLog(service.home.log) as log:
        first_ms = log.now_ms() + 1
    batch, whom = min(500, rate // 10), (service.users, service.movies)
    return Poured(**child("pour", asdict(Pouring(service.url, service.key, rate, batch, seconds, first_ms, *whom))))


def _catch_up_s(service: Service) -> float:
    """Seconds until the live state of every worker has followed the log to its end."""
    begun = time.perf_counter()
    with LocalLog(service.home.log) as log:
        end = log.newest()
    while any(report.offset < end for report in reports(service.home)):
        time.sleep(0.1)
    return time.perf_counter() - begun


def _watch(service: Service, memory: list[float], over: threading.Event) -> None:
    while not over.wait(1.0):
        memory.append(_memory_mb(service))


def _memory_mb(service: Service) -> float:
    total = 0
    for process in service.family:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


# The service ----------------------------------------------------------------------------------------------------------


@contextmanager
def _service(folder: Path) -> Iterator[Service]:
    """`greenlight up` on a home with two versions of the ranker, so that a slate costs the same whoever is in charge:
    popularity's takes half as long."""
    home, settings = Home(folder / "home").open(), load({})
    import_data(home, settings, "movietweetings")
    shutil.copyfile(home.log, folder / home.log.name)
    first, second = (_trained(home, settings, seed) for seed in (0, 1))
    key, _ = KeyStore(home).create("benchmark", ("admin",))
    users, movies = _asked(home.releases / str(first.release))
    versions = int(first.version or 0), int(second.version or 0)
    with up(home, GREENLIGHT_CACHE__ENTRIES="1") as ready:
        yield Service(home, settings, ready["api"], key, ready["pid"], users, movies, versions, folder / home.log.name)


def _trained(home: Home, settings: Settings, seed: int) -> Trained:
    """A ranker; the first one is champion, and packaged."""
    training = train(home, settings, models=("ranker",), seed=seed, report=lambda line: out.print(line, style="dim"))
    package_champion(home, settings, training)
    made = training.candidates[-1]
    if made.version is None:
        raise SystemExit(training.sentence)
    return made


def _asked(release: Path) -> tuple[list[str], list[str]]:
    users = json.loads((release / "viewers" / "ids.json").read_text())[-VIEWERS:]
    return users, json.loads((release / "catalogue" / "ids.json").read_text())[:2000]


def _headers(service: Service) -> dict[str, str]:
    return {"Authorization": f"Bearer {service.key}"}


def _beside(plan: dict[str, Any]) -> None:
    """In a session of its own that steps aside, as the archive always is."""
    os.setsid()
    step_aside()
    until = time.monotonic() + plan["seconds"]
    if "archive" in plan:
        _archive(Path(plan["archive"]), until)
    while time.monotonic() < until:
        sum(range(10_000))
    print("{}")


def _archive(past: Path, until: float) -> None:
    """Write the whole history again and again, as after a lost folder: the most that the archive ever does, with the
    rests that it takes."""
    pace = Pace(SHARE)
    with tempfile.TemporaryDirectory() as folder, LocalLog(past) as log:
        for number in count():  # each into a folder of its own: deleting is not what an archive does
            archive(log, FolderStore(Path(folder) / str(number)), rest=pace.rest)
            if time.monotonic() >= until:
                return


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].endswith(".json"):
        _beside(json.loads(Path(sys.argv[1]).read_text()))
    else:
        sys.exit(main())

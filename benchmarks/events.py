"""`make bench-events`: what it costs that no acknowledged event is lost, beside bare parts, and what an outage costs.

Storing: the local log beside SQLite with the same durability, a producer straight to the broker, a file that is synced.
Draining: relay and mirror beside bare clients. Serving: p99 with Kafka up, down and black-holed. Then an outage, and
how long until live state knows again what was acknowledged meanwhile. All in one run, on one broker on this machine.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import outage, storing
from benchmarks.load import Result, tail_ratios
from conf.sections.kafka import Kafka
from tests.faults.broker import Broker
from tests.faults.proxied import proxied

MOST_APPEND, LEAST_DRAIN, MOST_P99 = 1.3, 0.5, 1.1  # targets
OURS, REFERENCE = "local log", "SQLite alone, same durability"
out = Console(width=118)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=9, help="of serving (default: 9)")
    options.add_argument("--append-seconds", type=float, default=20, help="one by one, and by 100 (default: 20)")
    options.add_argument("--backlog", type=int, default=100_000, help="records to drain (default: 100,000)")
    options.add_argument("--drains", type=int, default=3, help="rounds of draining (default: 3)")
    options.add_argument("--seconds", type=float, default=8, help="of each round of serving (default: 8)")
    options.add_argument("--rate", type=float, default=300, help="requests a second (default: 300)")
    options.add_argument("--events", type=int, default=300, help="posted a second meanwhile (default: 300)")
    options.add_argument("--outage", type=float, default=300, help="seconds without Kafka (default: 300)")
    options.add_argument("--model", default="ease", help="that is served (default: ease)")
    options.add_argument("--only", choices=("storing", "serving"), help="half of it")
    args = options.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory(prefix="greenlight-bench-") as folder:
        if args.only != "serving":
            missed += stores(Path(folder), args)
        if args.only != "storing":
            missed += serves(Path(folder), args)
    return 1 if missed else 0


def stores(folder: Path, args: argparse.Namespace) -> int:
    """Appending and draining; how many targets are missed."""
    table = _table(
        "one caller; the stores take turns", "events stored", "events/s", "p50 ms", "p99 ms", "p50 of SQLite"
    )
    missed = 0
    with Broker(folder) as broker:
        for batch in (1, 100):
            (place := folder / f"appends-{batch}").mkdir()
            found = storing.appends(place, broker.conf(), batch, args.append_seconds)
            for name, took in found.items():
                ratio = took.p50_ms / found[REFERENCE].p50_ms
                what = f"{'one by one' if batch == 1 else f'by {batch}'}: {name}"
                numbers = (f"{number:.2f}" for number in (took.p50_ms, took.p99_ms, ratio))
                table.add_row(what, f"{took.per_second:,.0f}", *numbers)
                missed += name == OURS and ratio > MOST_APPEND
        out.print(table)
        out.print(f"target: the local log's p50 is at most {MOST_APPEND:g} of SQLite's alone: {_word(missed)}\n")
        return missed + drains(folder, broker.conf(), args)


def drains(folder: Path, conf: Kafka, args: argparse.Namespace) -> int:
    found = storing.drains(folder, conf, args.backlog, args.drains)
    table = _table(
        f"a backlog of {args.backlog:,}; medians of {args.drains} rounds", "drained by", "records/s", "of bare"
    )
    ratio = {}
    for ours, bare in (("relay", "producer"), ("mirror", "consumer")):
        rates, limits = getattr(found, ours), getattr(found, bare)
        each = [rate / limit for rate, limit in zip(rates, limits, strict=True)]
        ratio[ours] = statistics.median(each)
        table.add_row(
            ours, f"{statistics.median(rates):,.0f}", f"{ratio[ours]:.2f} ({min(each):.2f} to {max(each):.2f})"
        )
        table.add_row(f"bare kafka-python, {bare}", f"{statistics.median(limits):,.0f}", "1.00")
    missed = int(not ratio["relay"] >= LEAST_DRAIN)
    out.print(table)
    out.print(f"target: the relay's rate is at least {LEAST_DRAIN:g} of the bare producer's: {_word(missed)}\n")
    return missed


def serves(folder: Path, args: argparse.Namespace) -> int:
    """p99 with and without Kafka, then an outage; how many targets are missed."""
    with proxied(folder) as (broker, proxy):
        conf = broker.conf(servers=proxy.address)
        with outage.site(folder, proxy, conf, args.model) as site:
            missed = tails(outage.rounds(site, args.rounds, args.seconds, args.rate, args.events), args)
            poured, behind_s = outage.catch_up(site, args.outage, args.events)
    lost = poured.sent - poured.acknowledged
    out.print(
        f"{poured.acknowledged:,} of {poured.sent:,} events acknowledged in {poured.seconds:.0f} s without Kafka; "
        f"every worker's live state had caught up {behind_s:.1f} s after it was back"
    )
    return missed + (lost > 0)


def tails(found: dict[str, list[Result]], args: argparse.Namespace) -> int:
    title = f"requests at {args.rate:g}/s beside {args.events:,} events/s; medians of {args.rounds} interleaved rounds"
    table, missed = _table(title, "Kafka", "req/s", "p50 ms", "p99 ms", "p99 of up", "least", "most", "failed"), 0
    for state, rounds in found.items():
        rps, p50, p99 = (statistics.median(getattr(r, field) for r in rounds) for field in ("rps", "p50_ms", "p99_ms"))
        ratio, failed = tail_ratios(rounds, found["up"]), sum(r.failures for r in rounds)
        missed += not ratio[0] <= MOST_P99 or failed > 0
        table.add_row(state, f"{rps:,.0f}", f"{p50:.2f}", f"{p99:.2f}", *(f"{x:.2f}" for x in ratio), str(failed))
    out.print(table)
    out.print(f"target: median ratio at most {MOST_P99:g}, none failed: {_word(missed)}\n")
    return missed


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _word(missed: int) -> str:
    return "missed" if missed else "met"


if __name__ == "__main__":
    sys.exit(main())

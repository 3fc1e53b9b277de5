"""A load generator light enough not to be the bottleneck: raw asyncio sockets, keep-alive, one request in flight per
connection. Run as a process of its own: `python -m benchmarks.load PLAN.json`, answers JSON.

Without a pace each connection sends as soon as it has its answer. With one, a request that was due while the one before
was still in flight counts from when it was due, so a stall is felt by all whom it would have met.
"""

import asyncio
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from events.turns import take_short_turns


@dataclass
class Plan:
    """What to send where. `requests` are whole HTTP/1.1 requests, sent in turn by every connection; `per_second`: of
    all connections together, 0 for as fast as answers come."""

    host: str
    port: int
    connections: int
    seconds: float
    requests: list[str]
    per_second: float = 0.0


@dataclass
class Result:
    requests: int
    failures: int  # answers other than 200
    rps: float
    p50_ms: float
    p99_ms: float
    max_ms: float


def tail_ratios(rounds: list[Result], base: list[Result]) -> tuple[float, float, float]:
    """p99 of one kind of round over that of another, round by round: median, least, most."""
    each = [one.p99_ms / other.p99_ms for one, other in zip(rounds, base, strict=True)]
    return statistics.median(each), min(each), max(each)


class Connection(asyncio.Protocol):
    """Sends the next request as soon as the whole answer is there, or when it is due."""

    def __init__(self, requests: list[bytes], first: int, every_s: float, until: float, times: list[float]) -> None:
        self.requests, self.number, self.until, self.times = requests, first, until, times
        self.every_s, self.due = every_s, 0.0
        self.failures, self.received, self.missing = 0, b"", -1
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.due = time.perf_counter()
        self._send(self.due)

    def _send(self, begun: float = 0.0) -> None:
        """`begun`: where the time counts from; now where none is given."""
        self.number += 1
        self.due += self.every_s
        self.begun = begun or time.perf_counter()
        self.transport.write(self.requests[self.number % len(self.requests)])

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        if self.missing < 0:
            self.missing = _length(head)
        if len(body) < self.missing:
            return
        now = time.perf_counter()
        self.times.append(now - self.begun)
        self.failures += not self.received.startswith(b"HTTP/1.1 200")
        self.received, self.missing = b"", -1
        if now >= self.until:
            self.transport.close()
        elif self.every_s and self.due > now:
            asyncio.get_running_loop().call_later(self.due - now, self._send)
        else:
            self._send(self.due if self.every_s else now)

    def connection_lost(self, why: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError(f"an answer without Content-Length: {head[:200]!r}")


async def drive(plan: Plan) -> Result:
    requests = [request.encode() for request in plan.requests]
    times: list[float] = []
    begun = time.perf_counter()
    until, loop = begun + plan.seconds, asyncio.get_running_loop()
    every_s = plan.connections / plan.per_second if plan.per_second else 0.0
    made = []
    for number in range(plan.connections):
        start = partial(Connection, requests, number * 97, every_s, until, times)
        made.append((await loop.create_connection(start, plan.host, plan.port))[1])
        await asyncio.sleep(every_s / plan.connections)  # so that they do not all send at once
    await asyncio.gather(*(connection.over for connection in made))
    seconds, ordered = time.perf_counter() - begun, sorted(times)
    at = [1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99, 1.0)]
    return Result(len(times), sum(c.failures for c in made), len(times) / seconds, *at)


if __name__ == "__main__":
    take_short_turns()  # what it waits for a core itself is not the service's
    plan = Plan(**json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps(asdict(asyncio.run(drive(plan)))))

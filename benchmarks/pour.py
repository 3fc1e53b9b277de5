"""Pours viewer events into a running service at a steady rate: `python -m benchmarks.pour PLAN.json`, answers JSON.

Text lines in batches, each event with a minute, viewer and movie of its own, so that none is a duplicate.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx


@dataclass
class Pouring:
    """What to pour where. `first_ms`: time of the first event; `users` and `movies` are drawn from in turn."""

    url: str
    key: str
    per_second: int
    batch: int
    seconds: float
    first_ms: int
    users: list[str]
    movies: list[str]
    connections: int = 16  # of four, most may end at one worker, as the kernel hands them out


@dataclass
class Poured:
    """sent and acknowledged: events; p50_ms, p99_ms: of a batch, from when it was due; refused: batches by status."""

    sent: int
    acknowledged: int
    seconds: float
    p50_ms: float
    p99_ms: float
    refused: dict[str, int]


def batches(plan: Pouring) -> Iterator[bytes]:
    """Watched minutes: of the n-th event, so that no two are alike."""
    number, users, movies = 0, plan.users, plan.movies
    while True:
        lines = []
        for _ in range(plan.batch):
            minute, rest = divmod(number, len(users))
            when, user, movie = (plan.first_ms + number) / 1000, users[rest], movies[number % len(movies)]
            lines.append(f"{when:.3f},{user},GET /data/m/{movie}/{minute % 200}.mpg\n")
            number += 1
        yield "".join(lines).encode()


async def pour(plan: Pouring) -> Poured:
    source, times, refused = batches(plan), [], dict[str, int]()
    every_s, begun = plan.batch / plan.per_second, time.perf_counter()
    sent = acknowledged = 0
    headers = {"Authorization": f"Bearer {plan.key}", "Content-Type": "text/plain"}

    async def one(number: int) -> None:
        nonlocal sent, acknowledged
        async with httpx.AsyncClient(base_url=plan.url, headers=headers, timeout=60, trust_env=False) as client:
            due = begun + number * every_s
            while due < begun + plan.seconds:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                answer = await client.post("/v1/events", content=next(source))
                times.append(time.perf_counter() - due)
                sent += plan.batch
                if answer.status_code == 200:
                    acknowledged += answer.json()["accepted"]
                else:
                    refused[str(answer.status_code)] = refused.get(str(answer.status_code), 0) + 1
                due += plan.connections * every_s

    await asyncio.gather(*(one(number) for number in range(plan.connections)))
    seconds, ordered = time.perf_counter() - begun, sorted(times)
    p50, p99 = (1000 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return Poured(sent, acknowledged, seconds, p50, p99, refused)


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(pour(Pouring(**json.loads(Path(sys.argv[1]).read_text())))))))

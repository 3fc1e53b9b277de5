"""A process that stores events by the intake that serving has: `python -m tests.faults.drills.posting HOME NAME SIZE…`.

Each SIZE is a batch; it is sent again, as callers do, until it is acknowledged, at most `TRIES` times. A line for each
answer: `acknowledged NAME-0`, or `refused 503 why`.
"""

import asyncio
import sys
from pathlib import Path

import orjson

from conf.home import Home
from conf.settings import Settings
from events.event import AnyEvent
from serving.intake import Intake
from serving.metrics import Metrics
from serving.reading import Call, Message, Refused
from tests.faults.drills.viewers import rating

TRIES = 3


def batches(name: str, sizes: list[int]) -> dict[str, list[AnyEvent]]:
    """The events of each batch, by the batch's name."""
    return {f"{name}-{b}": [rating(f"{name}-{b}-{n}") for n in range(size)] for b, size in enumerate(sizes)}


def body(events: list[AnyEvent]) -> bytes:
    return orjson.dumps([event.model_dump(exclude_none=True) for event in events])


async def post(intake: Intake, content: bytes, kind: bytes = b"application/json") -> str:
    """Empty where the events were acknowledged, else why not."""

    async def receive() -> Message:
        return {"type": "http.request", "body": content, "more_body": False}

    try:
        reply = await intake.post(Call({"headers": [(b"content-type", kind)]}, receive, 0.0, "drill"))
    except Refused as why:
        return f"{why.status} {why}"
    return "" if reply.status == 200 else f"{reply.status} {reply.body.decode()}"


async def _all(intake: Intake, name: str, sizes: list[int]) -> None:
    for batch, events in batches(name, sizes).items():
        for _ in range(TRIES):
            why = await post(intake, body(events))
            print(f"refused {why}" if why else f"acknowledged {batch}", flush=True)
            if not why:
                break


if __name__ == "__main__":
    taking = Intake(Home(Path(sys.argv[1])).open(), Settings(), Metrics())
    taking.start()
    asyncio.run(_all(taking, sys.argv[2], [int(size) for size in sys.argv[3:]]))
    taking.close()

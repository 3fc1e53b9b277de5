"""Callers of a running service: they ask for slates without pause, and count what they got.

A GET whose connection is dropped before an answer is asked once more on a new connection, as HTTP clients and proxies
do for idempotent requests (RFC 9110, 9.2.2); how often that happened is counted, not hidden.
"""

import asyncio
import threading
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import quote

import httpx

PER_CONNECTION = 20  # requests before a caller connects anew, so that a restarted worker meets callers too


@dataclass
class Answers:
    """What callers got: answers by rung, requests asked again, failures with their reason."""

    rungs: Counter[str] = field(default_factory=Counter)
    asked_again: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def lower(self) -> int:
        """Answers from below the model's rung."""
        return sum(self.rungs.values()) - self.rungs["model"]

    @property
    def total(self) -> int:
        return sum(self.rungs.values()) + sum(self.failures.values())


class Callers:
    """`with Callers(url, viewers) as callers: ...` keeps `connections` busy; `callers.answers` may be read any time."""

    def __init__(self, url: str, viewers: list[str], key: str, connections: int = 8, pause_s: float = 0.01) -> None:
        self.url, self.viewers, self.connections, self.pause_s = url, viewers, connections, pause_s
        self.headers = {"X-API-Key": key}
        self.answers = Answers()
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), daemon=True)

    def __enter__(self) -> "Callers":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, why: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    async def _all(self) -> None:
        await asyncio.gather(*(self._one(number) for number in range(self.connections)))

    async def _one(self, number: int) -> None:
        while not self._over.is_set():
            async with httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=5, trust_env=False) as client:
                for _ in range(PER_CONNECTION):
                    await self._ask(client, self.viewers[number % len(self.viewers)])
                    number += self.connections
                    await asyncio.sleep(self.pause_s)

    async def _ask(self, client: httpx.AsyncClient, viewer: str) -> None:
        for attempt in range(2):
            try:
                answer = await client.get(f"/recommend/{quote(viewer, safe='')}")
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as why:
                if attempt == 0:
                    self.answers.asked_again += 1
                    continue
                self.answers.failures[type(why).__name__] += 1
            except httpx.HTTPError as why:
                self.answers.failures[type(why).__name__] += 1
            else:
                self._count(answer)
            return

    def _count(self, answer: httpx.Response) -> None:
        if answer.status_code == 200 and answer.text:
            self.answers.rungs[answer.headers.get("X-Rung", "?")] += 1
        else:
            self.answers.failures[f"status {answer.status_code}"] += 1

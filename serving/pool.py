"""Threads for scoring that is too slow for the event loop: a bounded number, and no more waiting than running.

What several requests ask for at the same time is done once.
"""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class PoolFull(Exception):
    """All threads are busy and as many requests wait."""


class CallerGone(Exception):
    """The caller has closed the connection; nobody waits for the answer."""


class _Flight:
    """Work under way, and how many requests wait for it."""

    def __init__(self, answer: asyncio.Future[Any]) -> None:
        self.answer, self.waiting = answer, 0


class Pool:
    """Daemon threads, so that a model that hangs cannot keep the process from ending."""

    def __init__(self, threads: int) -> None:
        self._waiting: queue.Queue[tuple[Future, Callable] | None] = queue.Queue(maxsize=threads)
        self._flights: dict[Hashable, _Flight] = {}
        self._threads, self._closed = threads, False
        for number in range(threads):
            threading.Thread(target=self._work, name=f"scoring-{number}", daemon=True).start()

    async def run(self, key: Hashable, work: Callable[[], T], seconds: float, gone: Callable[[], Awaitable[None]]) -> T:
        """The result of `work`, or TimeoutError, PoolFull, CallerGone; or what it raised.

        While work of the same key is under way its result is shared, and each caller keeps its own time. Work that
        nobody waits for any more before it has begun never begins.
        """
        flight = self._flights.get(key) or self._begin(key, work)
        flight.waiting += 1
        leaving: asyncio.Future[Any] = asyncio.ensure_future(gone())
        try:
            waited = {flight.answer, leaving}
            done, _ = await asyncio.wait(waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            self._leave(key, flight)
        if flight.answer in done:
            return flight.answer.result()
        raise CallerGone if leaving in done else TimeoutError

    def _begin(self, key: Hashable, work: Callable[[], T]) -> _Flight:
        future: Future[T] = Future()
        try:
            self._waiting.put_nowait((future, work))
        except queue.Full:
            raise PoolFull from None
        return self._flights.setdefault(key, _Flight(asyncio.wrap_future(future)))

    def _leave(self, key: Hashable, flight: _Flight) -> None:
        flight.waiting -= 1
        if not flight.waiting:
            del self._flights[key]
            flight.answer.cancel()  # and with it the work, unless a thread runs it already

    def close(self) -> None:
        """End the threads when what waits is done. No more work may be handed over."""
        self._closed = True
        with suppress(queue.Full):  # then no thread is idle, and each looks again before it waits
            for _ in range(self._threads):
                self._waiting.put_nowait(None)

    def _work(self) -> None:
        while (job := self._next()) is not None:
            future, work = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as why:  # noqa: BLE001 - handed to the one who waits
                    future.set_exception(why)
            del job, future, work  # an idle thread would keep the model of the last work

    def _next(self) -> tuple[Future, Callable] | None:
        try:
            return self._waiting.get(block=not self._closed)
        except queue.Empty:
            return None

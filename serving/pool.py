"""Threads for scoring that is too slow for the event loop: a bounded number, and no more waiting than running."""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class PoolFull(Exception):
    """All threads are busy and as many requests wait."""


class CallerGone(Exception):
    """The caller has closed the connection; nobody waits for the answer."""


class Pool:
    """Daemon threads, so that a model that hangs cannot keep the process from ending."""

    def __init__(self, threads: int) -> None:
        self._waiting: queue.Queue[tuple[Future, Callable] | None] = queue.Queue(maxsize=threads)
        self._threads, self._closed = threads, False
        for number in range(threads):
            threading.Thread(target=self._work, name=f"scoring-{number}", daemon=True).start()

    async def run(self, work: Callable[[], T], seconds: float, gone: Callable[[], Awaitable[None]]) -> T:
        """The result of `work`, or TimeoutError, PoolFull, CallerGone. Work not begun by then never begins."""
        future: Future[T] = Future()
        try:
            self._waiting.put_nowait((future, work))
        except queue.Full:
            raise PoolFull from None
        answer: asyncio.Future[Any] = asyncio.wrap_future(future)
        leaving: asyncio.Future[Any] = asyncio.ensure_future(gone())
        try:
            done, _ = await asyncio.wait({answer, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            answer.cancel()  # and with it `future`, unless a thread runs it already
        if answer in done:
            return answer.result()
        raise CallerGone if leaving in done else TimeoutError

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

"""Threads for scoring that is too slow for the event loop: a bounded number, and no more waiting than running."""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class PoolFull(Exception):
    """All threads are busy and as many requests wait."""


class CallerGone(Exception):
    """The caller has closed the connection; nobody waits for the answer."""


class Pool:
    """Daemon threads, so that a model that hangs cannot keep the process from ending."""

    def __init__(self, threads: int) -> None:
        self._waiting: queue.Queue[tuple[Future, Callable]] = queue.Queue(maxsize=threads)
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

    def _work(self) -> None:
        while True:
            future, work = self._waiting.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as why:  # noqa: BLE001 - handed to the one who waits
                    future.set_exception(why)

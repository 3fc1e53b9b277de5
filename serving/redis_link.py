"""A worker's way to Redis: one connection, and one task that alone uses it, so that no request ever waits to connect.

Requests hand in what they want; the task sends all of it at once and hands out the replies. Where an exchange is
refused, broken or takes longer than its milliseconds, the connection is dropped (a primary that was demoted goes on
listening) and made anew; after a few failures in a row the breaker opens, nobody asks, and one probe at a time is sent,
less and less often, until Redis takes a write again.
"""

import asyncio
import contextlib
import logging
from typing import Any

from pybreaker import STATE_OPEN, CircuitBreaker, CircuitBreakerListener
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import EqualJitterBackoff, NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from serving.metrics import Metrics

log = logging.getLogger("greenlight.serving")

FAILURES = 3  # in a row, before the breaker opens
WAITS = EqualJitterBackoff(cap=2.0, base=0.1)  # seconds between probes, by how often it has opened
CONNECT_S = 1.0  # for TCP, TLS and the password; requests do not wait for it
IDLE_S = 1.0  # without a request, after which the connection is tried
BATCH = 100  # reads and as many writes sent at once
WAITING = 1000  # writes; more are not kept
MAX_BYTES = 65_536  # of a value: no more of it is ever read
PROBE = "greenlight:probe"
FOREVER_S = 1e9  # pybreaker waits by the wall clock, which jumps: the waiting is done here
STATES = {"closed": 0, "half-open": 1, "open": 2}


class Unanswered(Exception):
    """Redis did not answer, not in time, or not with a string."""


class Link(CircuitBreakerListener):
    """Reads and writes of one worker. All methods are called on its event loop."""

    def __init__(self, url: str, timeout_s: float, metrics: Metrics) -> None:
        self.url, self.timeout_s, self.metrics = url, timeout_s, metrics
        self._gets: dict[str, list[asyncio.Future[bytes]]] = {}
        self._asked: dict[str, list[asyncio.Future[bytes]]] = {}  # those under way
        self._puts: dict[str, tuple[bytes, float]] = {}
        self._breaker = CircuitBreaker(FAILURES, FOREVER_S, listeners=[self], throw_new_error_on_trip=False)
        self._opened = 0  # times in a row
        self._client: Redis | None = None
        self._connected = self._closed = False
        self._reason = ""
        self._task: asyncio.Task[None] | None = None
        metrics.cache_breaker.set(STATES["closed"])

    def up(self) -> bool:
        """Whether Redis can be asked now. The first call begins to connect."""
        if (self._task is None or self._task.done()) and not self._closed:
            self._work = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="redis")
        return self._connected

    async def get(self, name: str, seconds: float) -> bytes:
        """The value of a key, empty where there is none. Unanswered after `seconds` or `timeout_s`."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        self._gets.setdefault(name, []).append(answer)
        self._work.set()
        timer = loop.call_later(min(seconds, self.timeout_s), _fail, answer)
        try:
            return await answer
        finally:
            timer.cancel()

    def put(self, name: str, value: bytes, seconds: float) -> None:
        """Write a value that expires after `seconds`, later; where too many wait, not at all."""
        if len(self._puts) < WAITING or name in self._puts:
            self._puts[name] = value, seconds
            self._work.set()
        else:
            self.metrics.cache_lost.inc()

    def close(self) -> None:
        """Drop the connection, for good."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()

    # The task ------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                if self._breaker.current_state == STATE_OPEN:
                    await asyncio.sleep(WAITS.compute(self._opened))
                    self._breaker.half_open()
                try:
                    with self._breaker.calling():
                        await self._connect()
                        await self._something_to_do()
                        await self._exchange()
                except Exception:  # noqa: BLE001 - whatever it was (see `failure`), the worker goes on without Redis
                    await self._drop()
        finally:
            await self._drop()

    async def _connect(self) -> None:
        """Connect, and try whether a write is taken: a replica or a cut-off primary only reads."""
        if self._client is not None:
            return
        once = Retry(NoBackoff(), 0)
        self._client = Redis.from_url(
            self.url, max_connections=1, socket_connect_timeout=CONNECT_S, retry=once, protocol=2
        )
        async with asyncio.timeout(CONNECT_S):
            await self._client.ping()
        async with asyncio.timeout(self.timeout_s):
            with contextlib.suppress(OutOfMemoryError):  # it can be read
                await self._client.set(PROBE, b"", px=1000)
        self._connected = True

    async def _something_to_do(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_S):
                await self._work.wait()

    async def _exchange(self) -> None:
        """Send what waits, hand out what is answered; raise the first reply that says Redis is not to be used."""
        self._asked, puts = _some(self._gets), _some(self._puts)
        if not self._gets and not self._puts:
            self._work.clear()
        assert self._client is not None
        pipe = self._client.pipeline(transaction=False)
        for name in self._asked:
            pipe.getrange(name, 0, MAX_BYTES)
        for name, (value, seconds) in puts.items():
            pipe.set(name, value, px=int(seconds * 1000))
        if not len(pipe):
            pipe.ping()
        async with asyncio.timeout(self.timeout_s):
            replies = await pipe.execute(raise_on_error=False)
        reads = replies[: len(self._asked)]
        for answers, reply in zip(self._asked.values(), reads, strict=True):
            _hand_out(answers, reply)
        refused = [reply for reply in replies[len(reads) :] if isinstance(reply, Exception)]
        self.metrics.cache_lost.inc(len(refused))
        for reply in (*reads, *refused):
            if isinstance(reply, Exception) and not _of_one_key(reply):
                raise reply

    async def _drop(self) -> None:
        """Forget the connection; who waits goes on without an answer."""
        self._connected = False
        client, self._client = self._client, None
        for answers in (*self._asked.values(), *self._gets.values()):
            for answer in answers:
                _fail(answer)
        self.metrics.cache_lost.inc(len(self._puts))
        self._asked, self._gets, self._puts = {}, {}, {}
        if client is not None:
            with contextlib.suppress(Exception):  # it may be broken in any way
                async with asyncio.timeout(self.timeout_s):
                    await client.aclose()

    # What the breaker tells ------------------------------------------------------------------------------------------

    def failure(self, cb: CircuitBreaker, exc: BaseException) -> None:
        told = exc if isinstance(exc, RedisError) else ""  # another's words may hold a part of the address
        self._reason = f"{type(exc).__name__} {told}".strip()

    def state_change(self, cb: CircuitBreaker, old_state: Any, new_state: Any) -> None:
        self.metrics.cache_breaker.set(STATES[new_state.name])
        if new_state.name == "closed":
            self._opened = 0
            log.warning("Redis answers again: slates are shared between workers")
        elif new_state.name == "open":
            self._opened += 1
            if self._opened == 1:
                log.warning("Redis is out (%s): slates are made without it until it answers again", self._reason)


def _some(waiting: dict[str, Any]) -> dict[str, Any]:
    """Take the first few out of `waiting`."""
    return {name: waiting.pop(name) for name in list(waiting)[:BATCH]}


def _hand_out(answers: list[asyncio.Future[bytes]], reply: bytes | Exception) -> None:
    for answer in answers:
        if isinstance(reply, Exception):
            _fail(answer)
        elif not answer.done():
            answer.set_result(reply)


def _fail(answer: asyncio.Future[bytes]) -> None:
    if not answer.done():
        answer.set_exception(Unanswered())


def _of_one_key(reply: Exception) -> bool:
    """Whether Redis is well: something else lies under this key, or memory is full and only reading is left."""
    return isinstance(reply, OutOfMemoryError) or (isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply))

"""`POST /v1/events`: viewers' events, acknowledged when they are on disk.

    a JSON object or an array of them, or lines (`text/plain`, `application/x-ndjson`): JSON or the site's text lines
    -> {"accepted": 3, "stored": 2, "duplicates": 1, "quarantined": 1, "refused": [{"index": 3, "reason": "…"}]}

One thread unpacks, reads and stores; posts that wait for it share a commit. What is wrong with one event costs only
that event: it goes to the dead letter with the reason. Where the log cannot be written, posts are answered 503 and
slates are served all the same.
"""

import asyncio
import logging
import queue
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import orjson

from conf.home import Home
from conf.settings import Settings
from events.clock import wall_ms
from events.event import DEAD_LETTER
from events.local_log import LocalLog
from events.log import Appended, LogAtCap, LogError, LogFull
from events.reading import opened
from serving import reading
from serving.metrics import Metrics
from serving.posted import Batch, Gate
from serving.reading import JSON, Call, Refused, Reply

log = logging.getLogger("greenlight.serving")

READ_S = 15.0  # for the whole body of a batch
BUSY_MS = 5000  # the longest wait for other writers of the log
COMMIT = 16  # posts that share a commit, at most
RETRY = [(b"retry-after", b"5")]
SHOWN = 100  # refused events that the answer names; all are counted
LINES = (b"text/plain", b"application/x-ndjson", b"application/jsonl")
NOTHING = Appended(0, 0)


class Post(NamedTuple):
    """A body on its way into the log, and who is told what became of it: a reply, or why there is none."""

    body: bytes
    packed: bool
    lines: bool
    tell: Callable[[Reply | Refused], None]


class Intake:
    """`post` for each request, on the event loop; `start` and `close` with the worker."""

    def __init__(self, home: Home | None, settings: Settings, metrics: Metrics) -> None:
        self._home, self._settings, self._metrics = home, settings, metrics
        self._waiting: queue.SimpleQueue[Post | None] = queue.SimpleQueue()
        self._held = 0  # bytes of bodies that are being read or wait; the event loop's
        self._thread = threading.Thread(target=self._work, name="intake", daemon=True)
        self._log: LocalLog | None = None
        self._mirror: LocalLog | None = None

    def start(self) -> None:
        if self._home is not None:
            self._thread.start()

    def close(self) -> None:
        """Store what was handed over."""
        self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join(2 * BUSY_MS / 1000)

    async def post(self, call: Call) -> Reply:
        """The answer to a batch, once it is durable."""
        if self._home is None or not self._thread.is_alive():
            raise Refused(503, "events cannot be stored: the service runs without a home or is starting", RETRY)
        lines, packed = _form(call.scope["headers"])
        body = await self._read(call.receive)
        loop, told = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        self._held += len(body)

        def tell(what: Reply | Refused) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(settle, what)

        def settle(what: Reply | Refused) -> None:
            self._held -= len(body)
            if not told.done():
                told.set_result(what)

        self._waiting.put(Post(body, packed, lines, tell))
        reply = await told
        if isinstance(reply, Refused):
            raise reply
        return reply

    async def _read(self, receive: reading.Receive) -> bytes:
        """The body, its room counted while it comes, so that many slow ones together are bounded too."""
        intake, taken = self._settings.intake, 0

        async def counted() -> reading.Message:
            nonlocal taken
            message = await receive()
            taken += (size := len(message.get("body", b"")))
            self._held += size
            if self._held > intake.waiting_bytes:
                raise Refused(503, "too many events wait to be stored; send these again", RETRY)
            return message

        try:
            return await reading.body(counted, intake.max_bytes, READ_S)
        finally:
            self._held -= taken

    # The thread ---------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            posts, over = [first], False
            while len(posts) < COMMIT and not over:
                try:
                    following = self._waiting.get_nowait()
                except queue.Empty:
                    break
                posts, over = ([*posts, following], False) if following else (posts, True)
            self._store(posts)
            if over:
                break
        for book in (self._log, self._mirror):
            if book is not None:
                book.close()

    def _store(self, posts: list[Post]) -> None:
        """Read and store some posts in one commit, and tell each what became of it."""
        read: list[tuple[Post, Batch]] = []
        try:
            book = self._opened()
            gate = Gate(self._clock_ms(book), wall_ms(), self._settings)
            for post in posts:
                if batch := self._batch(post, gate):
                    read.append((post, batch))
            stored = book.append_each([[*batch.events, *batch.dead] for _, batch in read])
        except LogError as why:
            refused = Refused(503, f"the events were not stored: {_cause(why)}; send them again", RETRY)
            self._metrics.posted.labels("unstored").inc(sum(len(batch.events) for _, batch in read))
            for post in [post for post, _ in read] or posts:
                post.tell(refused)
        except Exception as why:
            log.exception("a batch of events could not be handled")
            for post in posts:
                post.tell(Refused(500, f"the events were not stored ({type(why).__name__})"))
        else:
            for (post, batch), appended in zip(read, stored, strict=True):
                post.tell(self._reply(batch, appended))

    def _opened(self) -> LocalLog:
        if self._log is not None and self._log.gone:  # what it took in would be stored where nobody looks
            self._log.close()
            self._log = None
        if self._log is None:
            assert self._home is not None
            self._log = LocalLog(self._home.log, BUSY_MS, self._settings.kafka.cap_mb)
        return self._log

    def _clock_ms(self, book: LocalLog) -> int:
        """The event clock: of the newest event that came in here or, through Kafka, elsewhere."""
        assert self._home is not None
        clock = book.now_ms()
        if self._settings.clock == "event":
            with suppress(LogError):  # a mirror that is damaged keeps no event out
                self._mirror = opened(self._home.mirror, self._mirror)
                clock = max(clock, self._mirror.now_ms() if self._mirror else 0)
        return clock

    def _batch(self, post: Post, gate: Gate) -> Batch | None:
        """The post's events; None where the post as a whole is refused, and was told so."""
        intake = self._settings.intake
        try:
            body = unpacked(post.body, intake.max_bytes) if post.packed else post.body
            return gate.lines(body, intake.max_events) if post.lines else gate.json(body, intake.max_events)
        except Refused as why:
            post.tell(why)
            return None

    def _reply(self, batch: Batch, appended: dict[str, Appended]) -> Reply:
        viewers = [counts for topic, counts in appended.items() if topic != DEAD_LETTER]
        stored, duplicates = sum(a.added for a in viewers), sum(a.duplicates for a in viewers)
        for outcome, count in (("stored", stored), ("duplicate", duplicates), ("quarantined", len(batch.dead))):
            self._metrics.posted.labels(outcome).inc(count)
        counts = {"accepted": stored + duplicates, "stored": stored, "duplicates": duplicates}
        refused = [{"index": index, "reason": reason} for index, reason in batch.reasons[:SHOWN]]
        answer = {**counts, "quarantined": len(batch.dead), "refused": refused}
        status = 422 if batch.dead and not batch.events else 200
        return Reply(status, [(b"content-type", JSON)], orjson.dumps(answer))


def unpacked(packed: bytes, most: int) -> bytes:
    """The content of gzip members. Refused where it is none, or larger than `most` bytes: no more is ever unpacked."""
    content = bytearray()
    while packed:
        member = zlib.decompressobj(wbits=31)
        try:
            content += member.decompress(packed, most + 1 - len(content))
        except zlib.error as why:
            raise Refused(400, f"the body is not gzip: {why}") from None
        if len(content) > most:
            raise Refused(413, f"the body is larger than {most} bytes when unpacked")
        if not member.eof:
            raise Refused(400, "the body is not whole gzip: its end is missing")
        packed = member.unused_data
    return bytes(content)


def _form(headers: reading.Headers) -> tuple[bool, bool]:
    """Whether the body is lines (else JSON), and whether it is gzip."""
    found = dict(headers)
    kind = found.get(b"content-type", JSON).split(b";")[0].strip().lower()
    if kind != JSON and kind not in LINES:
        raise Refused(415, "the content type must be application/json, application/x-ndjson or text/plain")
    coding = found.get(b"content-encoding", b"identity").strip().lower()
    if coding not in (b"identity", b"gzip", b"x-gzip"):
        raise Refused(415, "the content encoding must be gzip, or none")
    return kind in LINES, coding != b"identity"


def _cause(why: LogError) -> str:
    """What a caller may know of it."""
    causes: dict[type[LogError], str] = {
        LogAtCap: "the log holds as much as it may",
        LogFull: "no space is left on the log's disk",
    }
    return causes.get(type(why), "the log cannot be written")

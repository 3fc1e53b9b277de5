"""The edge: a small ASGI app in front of BentoML's stack that answers the hot routes itself and passes the rest on.

    GET  /recommend/{user_id}?k=20   text/plain: movie ids on one line, comma separated, best first
    POST /v1/recommend               {"user_id": "42", "k": 20} -> request_id, arm, release, rung, items with scores
    POST /v1/events                  what viewers did, in batches: see intake.py
    GET  /readyz /livez /healthz /metrics

Every answer carries X-Request-Id; a slate also X-Rung, X-Arm, X-Release and X-State, and X-Explored where its order is
random. `X-Deadline-Ms` is how long the caller waits. BentoML's own layers cost four fifths of the throughput and all
of the tail: they are not on this path.
"""

import asyncio
import gc
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import orjson

from conf.home import Home
from conf.sections.serving import Scope as Right
from conf.settings import Settings
from events.turns import take_short_turns
from mlflow_server.release import ReleaseError
from serving import door, reading
from serving import metrics as prometheus
from serving.answer import USER_PREFIX, Answering
from serving.cache import Cache, open_cache
from serving.door import Door
from serving.intake import Intake
from serving.journal import Journal, RequestIds
from serving.lag import lags
from serving.metrics import Metrics
from serving.passing import SLATES
from serving.pool import CallerGone
from serving.reading import JSON, TEXT, ASGIApp, Call, Message, Receive, Refused, Reply, Scope, Send
from serving.shelf import Shelf

log = logging.getLogger("greenlight.serving")

SWITCH_S = 0.0002  # other threads give the interpreter back to the event loop after this time, not after 5 ms
STATUS = {status: f"{status // 100}xx" for status in range(100, 600)}


Handler = Callable[[Call], Awaitable[Reply]]


class Route(NamedTuple):
    """What answers a path, which methods it has, and which right it needs (None: none)."""

    path: str
    handler: Handler
    methods: tuple[str, ...]
    needs: Right | None


class Edge:
    """Answers the hot routes; `inner` answers the rest. `open_shelf` reads the release when the worker starts."""

    def __init__(self, inner: ASGIApp, open_shelf: Callable[[], Shelf], home: Home | None, settings: Settings) -> None:
        self.inner, self.open_shelf, self.settings = inner, open_shelf, settings
        self.metrics, self.ids = Metrics(partial(lags, home, settings) if home else None), RequestIds()
        self.journal = Journal(home, settings.serving.journal_capacity, self.metrics, settings.kafka.cap_mb)
        self.shelf: Shelf | None = None
        self._answering: Answering | None = None
        self._cache: Cache | None = None
        self.door = Door(home, settings)
        self.intake = Intake(home, settings, self.metrics)
        look = ("GET", "HEAD")
        self._slates = Route("/recommend/{user_id}", self._recommend, look, "read")
        self._exact = {
            "/v1/recommend": Route("/v1/recommend", self._recommend, ("POST",), "read"),
            "/v1/events": Route("/v1/events", self.intake.post, ("POST",), "events"),
            "/readyz": Route("/readyz", self._readyz, look, None),
            "/livez": Route("/livez", self._livez, look, None),
            "/healthz": Route("/healthz", self._livez, look, None),
            "/metrics": Route("/metrics", self._metrics, look, "admin"),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._lifespan(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        raw = scope["raw_path"]
        if raw.startswith(USER_PREFIX) and b"/" not in raw[len(USER_PREFIX) :]:
            return await self._answer(self._slates, scope, receive, send)
        if route := self._exact.get(scope["path"]):
            return await self._answer(route, scope, receive, send)
        return await self._pass_on(scope, receive, send)

    async def _answer(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what the route's handler replies, or a plain sentence, and count it."""
        heard, seen = reading.Heard(receive), door.seen(scope["headers"])
        call = Call(scope, heard, time.monotonic(), self.ids.next())
        try:
            if scope["method"] not in route.methods:
                raise _other_method(scope["method"], route.methods)
            self.door.admit(scope, seen, route.needs)
            status, headers, body = await route.handler(call)
        except Refused as why:
            self._count(why)
            status, headers, body = _refusal(why, as_json=route.path.startswith("/v1/"))
        except CallerGone:
            return self.metrics.answered(route.path, "gone", time.monotonic() - call.begun)
        headers += [(b"content-length", b"%d" % len(body)), (b"x-request-id", call.request_id.encode())]
        headers += self.door.cross_origin(scope, seen, route.methods)
        reply = Reply(status, headers, b"" if scope["method"] == "HEAD" else body)
        await _sent(reply, send, heard, has_body=door.has_body(seen))
        self.metrics.answered(route.path, STATUS[status], time.monotonic() - call.begun)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What the edge does not answer itself, behind the same door and with a body of the same size."""
        heard, seen = reading.Heard(receive), door.seen(scope["headers"])
        try:
            self.door.admit(scope, seen, "read")
            if door.has_body(seen):
                receive = reading.again(await reading.body(heard), receive)
        except CallerGone:
            return
        except Refused as why:
            self._count(why)
            status, headers, body = _refusal(why, as_json=False)
            headers += [(b"content-length", b"%d" % len(body))]
            return await _sent(Reply(status, headers, body), send, heard, has_body=door.has_body(seen))
        await self.inner(scope, receive, send)

    def _count(self, why: Refused) -> None:
        if isinstance(why, door.TurnedAway):
            self.metrics.turned_away.labels(why.reason).inc()

    # Life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Read the release, start the journal. ReleaseError where there is not even a popularity ranking."""
        self.shelf = self.open_shelf()
        self._cache = open_cache(self.settings.cache, self.metrics)
        self._answering = Answering(self.shelf, self._cache, self.journal, self.metrics, self.settings)
        self.shelf.start()
        self.journal.start()
        self.intake.start()
        gc.collect()
        gc.freeze()  # a full collection over the libraries' heap would stall requests for 200 ms
        sys.setswitchinterval(SWITCH_S)
        take_short_turns()

    def stop(self) -> None:
        if self.shelf is not None:
            self.shelf.close()
        if self._cache is not None:
            self._cache.close()
        self.intake.close()
        self.journal.close()

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start before BentoML's own start-up, stop after its shutdown."""

        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.start()
            return message

        async def sending(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown"):
                self.stop()
            await send(message)

        try:
            await self.inner(scope, receiving, sending)
        except ReleaseError as why:
            await send({"type": "lifespan.startup.failed", "message": f"the worker cannot start: {why}"})

    # Slates -------------------------------------------------------------------------------------------------------

    @property
    def answering(self) -> Answering:
        """What slates are asked of, here and by BentoML's own API. Refused while the worker starts."""
        if self._answering is None:
            raise Refused(503, "the worker is starting: its release is not read yet")
        return self._answering

    async def _recommend(self, call: Call) -> Reply:
        with SLATES:
            return await (self.answering.post if call.scope["method"] == "POST" else self.answering.get)(call)

    # Health -------------------------------------------------------------------------------------------------------

    async def _readyz(self, call: Call) -> Reply:
        """`ready` only with the model; `fallback-only` is 200 too, since it serves, and body and header say so."""
        if self.shelf is None:
            return Reply(503, [(b"content-type", JSON), (b"x-state", b"starting")], b'{"state":"starting"}')
        opened, report = self.shelf.champion, self.shelf.report()
        champion = report.arms["champion"]
        body = {
            "state": champion.state,
            "reason": champion.trouble or report.trouble,
            "release": champion.release,
            "model": champion.model,
            "arms": {arm: told.model_dump() for arm, told in report.arms.items()},
            "refused": {digest: refusal.model_dump() for digest, refusal in report.refused.items()},
            "clock_ms": report.clock_ms,
            "offset": report.offset,
            "inline": opened.inline,
            "made_ahead": opened.ahead is not None,
            "worker": os.getpid(),
            "source": __file__,
            "mlflow_imported": "mlflow" in sys.modules,
        }
        return Reply(200, [(b"content-type", JSON), (b"x-state", champion.state.encode())], orjson.dumps(body))

    async def _livez(self, call: Call) -> Reply:
        return Reply(200, [(b"content-type", TEXT)], b"alive\n")

    async def _metrics(self, call: Call) -> Reply:
        text = await asyncio.to_thread(self.metrics.text)
        return Reply(200, [(b"content-type", prometheus.CONTENT_TYPE)], text)


def _other_method(method: str, methods: tuple[str, ...]) -> Refused:
    allowed = ", ".join((*methods, "OPTIONS"))
    status = 204 if method == "OPTIONS" else 405
    return Refused(status, f"{method} is not answered here; {allowed} are", [(b"allow", allowed.encode())])


async def _sent(reply: Reply, send: Send, heard: reading.Heard, *, has_body: bool) -> None:
    """Send a reply. Where a part of the body was not read, the connection ends with it, a little later."""
    status, headers, body = reply
    if heard.whole or not has_body:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        return await send({"type": "http.response.body", "body": body})
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await reading.rest(heard)
    await send({"type": "http.response.body", "body": b""})


def _refusal(why: Refused, *, as_json: bool) -> Reply:
    if why.status == 204:
        return Reply(204, why.headers, b"")
    if as_json:
        return Reply(why.status, [(b"content-type", JSON), *why.headers], orjson.dumps({"error": str(why)}))
    return Reply(why.status, [(b"content-type", TEXT), *why.headers], f"{why}\n".encode())

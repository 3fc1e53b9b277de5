"""Answering a wish for a slate: arm, ladder, journal, and the two forms in which it is told."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import orjson

from conf.settings import Settings
from events.clock import wall_ms
from serving import reading
from serving.cache import Cache
from serving.journal import Journal, Served
from serving.ladder import Request, Slate, recommend
from serving.metrics import Metrics
from serving.reading import JSON, TEXT, Call, Headers, Reply
from serving.router import Arm
from serving.shelf import Shelf

USER_PREFIX = b"/recommend/"


class Answered(NamedTuple):
    """A slate with the arm and the release that made it."""

    slate: Slate
    arm: Arm
    release: str
    state: str


class Answering:
    """What `GET /recommend/{user_id}`, `POST /v1/recommend` and BentoML's own API answer with."""

    def __init__(self, shelf: Shelf, cache: Cache, journal: Journal, metrics: Metrics, settings: Settings) -> None:
        self.shelf, self.cache, self.journal = shelf, cache, journal
        self.metrics, self.settings = metrics, settings

    async def slate(
        self, user_id: str, k: int, call: Call, deadline_ms: float, gone: Callable[[], Awaitable[None]]
    ) -> Answered:
        """One slate, journaled."""
        arm, opened = self.shelf.choose(user_id)
        request = Request(user_id, k, call.begun + deadline_ms / 1000, gone, call.request_id)
        slate = await recommend(request, arm, opened, self.cache, self.metrics)
        latency_ms = (time.monotonic() - call.begun) * 1000
        what = (slate.rung, slate.ids, k, latency_ms, slate.propensities, slate.explored)
        self.journal.put(Served(call.request_id, opened.clock_ms(), wall_ms(), user_id, arm, opened.release, *what))
        return Answered(slate, arm, opened.release, opened.state)

    async def get(self, call: Call) -> Reply:
        """`GET /recommend/{user_id}?k=20`: ids on one line."""
        scope, serving = call.scope, self.settings.serving
        user_id = reading.user_in_path(scope["raw_path"][len(USER_PREFIX) :])
        k = reading.k_in_query(scope["query_string"], serving)
        deadline_ms = reading.deadline_ms(scope["headers"], serving)
        if scope["method"] == "HEAD":  # nobody would see a slate, so none is made
            return Reply(200, [(b"content-type", TEXT)], b"")
        answered = await self.slate(user_id, k, call, deadline_ms, reading.until_gone(call.receive))
        return Reply(200, [(b"content-type", TEXT), *_told(answered)], ",".join(answered.slate.ids).encode())

    async def post(self, call: Call) -> Reply:
        """`POST /v1/recommend`: ids, titles and scores as JSON."""
        headers, serving = call.scope["headers"], self.settings.serving
        deadline_ms = reading.deadline_ms(headers, serving)
        user_id, k = reading.wish(headers, await reading.body(call.receive), serving)
        answered = await self.slate(user_id, k, call, deadline_ms, reading.until_gone(call.receive))
        answer = orjson.dumps(as_json(answered, call.request_id))
        return Reply(200, [(b"content-type", JSON), *_told(answered)], answer)


def as_json(answered: Answered, request_id: str) -> dict[str, Any]:
    """The JSON answer. Scores are finite: a slate holds no other."""
    slate = answered.slate
    columns = zip(slate.ids, slate.titles, slate.scores, strict=True)
    return {
        "request_id": request_id,
        "arm": answered.arm,
        "release": answered.release,
        "rung": slate.rung,
        "items": [{"movie_id": i, "title": t, "score": s} for i, t, s in columns],
    }


def _told(answered: Answered) -> Headers:
    age_s = answered.slate.age_s
    return [
        *([(b"age", b"%d" % age_s)] if age_s is not None else []),
        *([(b"x-explored", b"1")] if answered.slate.explored else []),
        (b"x-rung", answered.slate.rung.encode()),
        (b"x-arm", answered.arm.encode()),
        (b"x-release", answered.release.encode()),
        (b"x-state", answered.state.encode()),
    ]

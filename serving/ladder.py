"""The degradation ladder: model, precomputed, popularity. The first that can serves; the last always can.

A rung turns its own faults and time-outs into `RungUnavailable`; the next is asked. The slate says which rung made it.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from models.base import slates
from serving.metrics import Metrics
from serving.pool import PoolFull
from serving.shelf import Names, Ready, Shelf

log = logging.getLogger("greenlight.serving")

MODEL_SHARE = 0.7  # of the time left that the model may use; the rungs below only read memory
OVERRUNS = 3  # on the event loop, before a model moves to the threads; one may be the machine's fault
LOG_EVERY_S = 5.0  # a rung that is down is said again after this time, not at every request

Rung = Literal["model", "precomputed", "popularity"]
Reason = Literal["not_loaded", "no_time", "timed_out", "pool_full", "fault", "nothing", "unknown_viewer"]


class RungUnavailable(Exception):
    """This rung cannot serve this request. `reason` is one of a few words, for counting."""

    def __init__(self, reason: Reason, detail: str, non_finite: int = 0) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.non_finite = reason, non_finite


class Request(NamedTuple):
    """One wish for a slate. `deadline` is on the clock of `time.monotonic`; `gone` returns when the caller has left."""

    user_id: str
    k: int
    deadline: float
    gone: Callable[[], Awaitable[None]]


class Slate(NamedTuple):
    """The answer, best first."""

    rung: Rung
    ids: list[str]
    titles: list[str]
    scores: list[float]
    non_finite: int = 0


async def model(request: Request, shelf: Shelf) -> Slate:
    """The model's own slate, within its share of the time left."""
    ready = shelf.ready
    if ready is None:
        raise RungUnavailable("not_loaded", shelf.trouble)
    seconds = MODEL_SHARE * (request.deadline - time.monotonic())
    if seconds <= 0:
        raise RungUnavailable("no_time", "the deadline has passed")
    score = partial(_score, ready, request, shelf.now_ms())
    return _inline(score, seconds, shelf) if shelf.inline else await _pooled(score, seconds, request, shelf)


async def precomputed(request: Request, shelf: Shelf) -> Slate:
    """The slate made when the release was built."""
    ahead = shelf.ahead
    if ahead is None:
        raise RungUnavailable("not_loaded", shelf.trouble)
    row = ahead.rows.get(request.user_id)
    if row is None:
        raise RungUnavailable("unknown_viewer", "no slate was made ahead for a viewer not in the snapshot")
    return _slate("precomputed", ahead.topk.items[row, : request.k], ahead.topk.scores[row], ahead.names)


async def popularity(request: Request, shelf: Shelf) -> Slate:
    """What everyone likes, without what this viewer has seen, as far as that is known. Reads memory; cannot fail."""
    popular, viewers, k = shelf.popular, shelf.viewers, request.k
    places = range(min(k, len(popular.ids)))
    if viewers is not None and request.user_id in viewers.rows:
        seen = viewers.history(request.user_id).seen_items
        places = np.flatnonzero(~np.isin(popular.codes, seen))[:k].tolist()
    return Slate(
        "popularity",
        [popular.ids[n] for n in places],
        [popular.titles[n] for n in places],
        [popular.scores[n] for n in places],
    )


LADDER = (model, precomputed, popularity)


async def recommend(request: Request, shelf: Shelf, metrics: Metrics) -> Slate:
    """The slate of the first rung that can serve."""
    for rung in LADDER:
        try:
            slate = await rung(request, shelf)
        except RungUnavailable as why:
            metrics.unavailable.labels(rung.__name__, why.reason).inc()
            metrics.non_finite.inc(why.non_finite)
            _say(rung.__name__, why)
        else:
            metrics.served(slate.rung, slate.non_finite)
            return slate
    raise AssertionError("popularity reads memory filled at start-up and is always available")


def _inline(score: Callable[[], Slate], seconds: float, shelf: Shelf) -> Slate:
    """Score on the event loop. A model that overruns its time there again and again is sent to the threads."""
    begun = time.monotonic()
    try:
        return score()
    finally:
        if time.monotonic() - begun > seconds:
            shelf.overruns += 1
            shelf.inline = shelf.overruns < OVERRUNS
            log.warning("scoring overran its %.0f ms; time %d of %d", seconds * 1000, shelf.overruns, OVERRUNS)


async def _pooled(score: Callable[[], Slate], seconds: float, request: Request, shelf: Shelf) -> Slate:
    try:
        return await shelf.pool.run(score, seconds, request.gone)
    except TimeoutError:
        raise RungUnavailable("timed_out", f"no scores within {seconds * 1000:.0f} ms") from None
    except PoolFull:
        raise RungUnavailable("pool_full", "every scoring thread is busy and as many requests wait") from None


def _score(ready: Ready, request: Request, now_ms: int) -> Slate:
    try:
        made = slates(ready.model, ready.viewers.history(request.user_id), ready.live, now_ms, request.k)
    except BaseException as why:  # a model's own code runs here and may raise anything, SystemExit too
        raise RungUnavailable("fault", f"{ready.name} raised {type(why).__name__}: {why}") from why
    return _slate("model", made.items[0], made.scores[0], ready.names, made.non_finite)


def _slate(rung: Rung, items: np.ndarray, scores: np.ndarray, names: Names, non_finite: int = 0) -> Slate:
    """Ids, titles and scores of the codes; -1 marks a slate's end."""
    codes = [code for code in items.tolist() if code >= 0]
    if not codes:
        raise RungUnavailable("nothing", "not one movie to show", non_finite)
    ids, titles = names.ids, names.titles
    return Slate(rung, [ids[c] for c in codes], [titles[c] for c in codes], scores[: len(codes)].tolist(), non_finite)


_said: dict[str, float] = {}


def _say(rung: str, why: RungUnavailable) -> None:
    now = time.monotonic()
    if now - _said.get(rung, -LOG_EVERY_S) >= LOG_EVERY_S:
        _said[rung] = now
        log.warning("rung %s unavailable: %s", rung, why)

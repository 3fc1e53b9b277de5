"""The degradation ladder: model, stale, precomputed, popularity. The first that can serves; the last always can.

A rung turns its own faults and time-outs into `RungUnavailable`; the next is asked. The slate says which rung made it.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from models.base import slates
from serving.cache import Cache, Kept, Key
from serving.live import Live, Names
from serving.metrics import Metrics
from serving.opened import Opened, Ready
from serving.pool import PoolFull
from serving.router import Arm

log = logging.getLogger("greenlight.serving")

MODEL_SHARE = 0.7  # of the time left that the model may use; the rungs below only read memory
OVERRUNS = 3  # on the event loop, before a model moves to the threads; one may be the machine's fault
LOG_EVERY_S = 5.0  # a rung that is down is said again after this time, not at every request

Rung = Literal["model", "stale", "precomputed", "popularity"]
Reason = Literal[
    "not_loaded", "no_time", "timed_out", "pool_full", "fault", "nothing", "unknown_viewer", "nothing_kept"
]


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
    age_s: int | None = None  # of one that was kept


async def model(request: Request, opened: Opened, cache: Cache) -> Slate:
    """The model's own slate, a fresh one that is kept or a new one, within its share of the time left."""
    ready, live = opened.ready, opened.live
    if ready is None or live is None:
        raise RungUnavailable("not_loaded", opened.trouble)
    key, mark = _key(request, opened), live.mark(request.user_id)
    seconds = MODEL_SHARE * (request.deadline - time.monotonic())
    if seconds <= 0:
        raise RungUnavailable("no_time", "the deadline has passed")
    kept = await cache.fresh(key, mark, live.codes, seconds)
    if kept is not None:
        return _again("model", kept, kept.ids, kept.scores, live)
    seconds = MODEL_SHARE * (request.deadline - time.monotonic())
    score = partial(_score, ready, live, request, opened.now_ms())
    slate = _inline(score, seconds, opened) if opened.inline else await _pooled(score, seconds, request, opened, mark)
    cache.put(key, Kept(slate.ids, slate.scores, mark, time.monotonic()))
    return slate


async def stale(request: Request, opened: Opened, cache: Cache) -> Slate:
    """What the model made earlier for this viewer, past its time, without what the viewer has seen since."""
    live, kept = opened.live, cache.last(_key(request, opened))
    if live is None or kept is None:
        raise RungUnavailable("nothing_kept", "no earlier slate of this viewer is kept")
    seen = live.seen_ids(request.user_id, kept.ids)
    rows = [row for row in zip(kept.ids, kept.scores, strict=True) if row[0] not in seen]
    if not rows:
        raise RungUnavailable("nothing", "the viewer has seen all of it")
    ids, scores = (list(column) for column in zip(*rows, strict=True))
    return _again("stale", kept, ids, scores, live)


async def precomputed(request: Request, opened: Opened, cache: Cache) -> Slate:
    """The slate that was made ahead, today's or the release's own, without what the viewer has seen since."""
    if opened.ahead is None and opened.newer is None:
        raise RungUnavailable("not_loaded", opened.trouble)
    found = opened.made_ahead(request.user_id)
    if found is None:
        raise RungUnavailable("unknown_viewer", "no slate was made ahead for a viewer who is new")
    ahead, row = found
    items, scores = ahead.topk.items[row], ahead.topk.scores[row]
    if opened.live is not None:
        unseen = ~np.isin(items, opened.live.seen(request.user_id))
        items, scores = items[unseen], scores[unseen]
    return _slate("precomputed", items[: request.k], scores, ahead.names)


async def popularity(request: Request, opened: Opened, cache: Cache | None = None) -> Slate:
    """What everyone likes, without what this viewer has seen, as far as that is known. Reads memory; cannot fail."""
    popular, live, k = opened.popular, opened.live, request.k
    places = range(min(k, len(popular.ids)))
    if live is not None and len(seen := live.seen(request.user_id)):
        places = np.flatnonzero(~np.isin(popular.codes, seen))[:k].tolist()
    return Slate(
        "popularity",
        [popular.ids[n] for n in places],
        [popular.titles[n] for n in places],
        [popular.scores[n] for n in places],
    )


LADDER = (model, stale, precomputed, popularity)


async def recommend(request: Request, arm: Arm, opened: Opened, cache: Cache, metrics: Metrics) -> Slate:
    """The slate of the first rung that can serve; in the popularity arm the last rung is the only one."""
    for rung in LADDER if arm != "popularity" else LADDER[-1:]:
        try:
            slate = await rung(request, opened, cache)
        except RungUnavailable as why:
            metrics.unavailable.labels(rung.__name__, why.reason).inc()
            metrics.non_finite.inc(why.non_finite)
            _say(rung.__name__, why)
        else:
            metrics.served(slate.rung, slate.non_finite)
            return slate
    raise AssertionError("popularity reads memory filled at start-up and is always available")


def _key(request: Request, opened: Opened) -> Key:
    return Key(opened.release, request.k, request.user_id)


def _again(rung: Rung, kept: Kept, ids: list[str], scores: list[float], live: Live) -> Slate:
    """A slate from what was kept: its titles are the catalogue's."""
    codes, titles = live.codes, live.names.titles
    return Slate(rung, ids, [titles[codes[movie_id]] for movie_id in ids], scores, age_s=int(kept.age_s))


def _inline(score: Callable[[], Slate], seconds: float, opened: Opened) -> Slate:
    """Score on the event loop. A model that overruns its time there again and again is sent to the threads."""
    begun = time.monotonic()
    try:
        return score()
    finally:
        if time.monotonic() - begun > seconds:
            opened.overruns += 1
            opened.inline = opened.overruns < OVERRUNS
            log.warning("scoring overran its %.0f ms; time %d of %d", seconds * 1000, opened.overruns, OVERRUNS)


async def _pooled(score: Callable[[], Slate], seconds: float, request: Request, opened: Opened, mark: str) -> Slate:
    """Score on a thread; once for all who ask for the same at the same time."""
    try:
        return await opened.pool.run((request.user_id, request.k, mark), score, seconds, request.gone)
    except TimeoutError:
        raise RungUnavailable("timed_out", f"no scores within {seconds * 1000:.0f} ms") from None
    except PoolFull:
        raise RungUnavailable("pool_full", "every scoring thread is busy and as many requests wait") from None


def _score(ready: Ready, live: Live, request: Request, now_ms: int) -> Slate:
    try:
        made = slates(ready.model, live.history(request.user_id), live.counts, now_ms, request.k)
    except BaseException as why:  # a model's own code runs here and may raise anything, SystemExit too
        raise RungUnavailable("fault", f"{ready.name} raised {type(why).__name__}: {why}") from why
    return _slate("model", made.items[0], made.scores[0], live.names, made.non_finite)


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

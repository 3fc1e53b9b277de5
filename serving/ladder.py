"""The degradation ladder: model, stale, precomputed, popularity. The first that can serves; the last always can.

A rung turns its own faults and time-outs into `RungUnavailable`; the next is asked. The slate says which rung made it.
"""

import logging
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Literal, NamedTuple

import numpy as np

from models.base import slates
from serving.cache import Cache, Kept, Key
from serving.exploration import TOP, explored, own_propensities
from serving.live import Live
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
    request_id: str


class Slate(NamedTuple):
    """The answer, best first unless it was explored."""

    rung: Rung
    ids: list[str]
    titles: list[str]
    scores: list[float]
    propensities: list[float]
    non_finite: int = 0
    age_s: int | None = None  # of one that was kept
    explored: bool = False


class Made(NamedTuple):
    """What the model made, and how many scores it got wrong."""

    kept: Kept
    non_finite: int


async def model(request: Request, opened: Opened, cache: Cache) -> Slate:
    """The model's slate, from a fresh one that is kept or a new one, within its share of the time left.

    A share of the requests gets the movies in random order.
    """
    ready, live = opened.ready, opened.live
    if ready is None or live is None:
        raise RungUnavailable("not_loaded", opened.trouble)
    key, mark = _key(request, opened), live.mark(request.user_id)
    seconds = MODEL_SHARE * (request.deadline - time.monotonic())
    if seconds <= 0:
        raise RungUnavailable("no_time", "the deadline has passed")
    kept = await cache.fresh(key, mark, live.codes, seconds)
    if kept is not None:
        return _drawn(kept, request, opened, live, non_finite=0, age_s=int(kept.age_s))
    seconds = MODEL_SHARE * (request.deadline - time.monotonic())
    score = partial(_score, ready, live, request, opened, mark)
    made = _inline(score, seconds, opened) if opened.inline else await _pooled(score, seconds, request, opened, mark)
    cache.put(key, made.kept)
    return _drawn(made.kept, request, opened, live, non_finite=made.non_finite, age_s=None)


async def stale(request: Request, opened: Opened, cache: Cache) -> Slate:
    """What the model made earlier for this viewer, past its time, without what the viewer has seen since."""
    live, kept = opened.live, cache.last(_key(request, opened))
    if live is None or kept is None:
        raise RungUnavailable("nothing_kept", "no earlier slate of this viewer is kept")
    seen = live.seen_ids(request.user_id, kept.ids)
    places = [place for place, movie_id in enumerate(kept.ids) if movie_id not in seen][: request.k]
    if not places:
        raise RungUnavailable("nothing", "the viewer has seen all of it")
    return Slate("stale", *_at(kept, places, live), [1.0] * len(places), age_s=int(kept.age_s))


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
    codes, ids, titles = _codes(items[: request.k]), ahead.names.ids, ahead.names.titles
    named = _each(ids, codes), _each(titles, codes)
    return Slate("precomputed", *named, scores[: len(codes)].tolist(), [1.0] * len(codes))


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
        [1.0] * len(places),
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
            metrics.served(slate.rung, slate.non_finite, slate.explored)
            return slate
    raise AssertionError("popularity reads memory filled at start-up and is always available")


def _key(request: Request, opened: Opened) -> Key:
    return Key(opened.release, request.k, request.user_id)


def _drawn(kept: Kept, request: Request, opened: Opened, live: Live, *, non_finite: int, age_s: int | None) -> Slate:
    """The slate of this request: the model's own, or one in random order."""
    share, k, best = opened.exploration_share, request.k, len(kept.ids)
    if drawn := explored(request.request_id, share, k, best):
        ids, titles, scores = _at(kept, drawn.places, live)
        return Slate("model", ids, titles, scores, drawn.propensities, non_finite, age_s, explored=True)
    ids, propensities = kept.ids[:k], own_propensities(share, k, best)
    return Slate("model", ids, _titles(ids, live), kept.scores[:k].tolist(), propensities, non_finite, age_s)


def _at(kept: Kept, places: Sequence[int], live: Live) -> tuple[list[str], list[str], list[float]]:
    """Ids, titles and scores of some of what was kept."""
    ids = [kept.ids[place] for place in places]
    return ids, _titles(ids, live), [kept.scores[place] for place in places]


def _titles(ids: list[str], live: Live) -> list[str]:
    codes, titles = live.codes, live.names.titles
    return [titles[codes[movie_id]] for movie_id in ids]


def _inline(score: Callable[[], Made], seconds: float, opened: Opened) -> Made:
    """Score on the event loop. A model that overruns its time there again and again is sent to the threads."""
    begun = time.monotonic()
    try:
        return score()
    finally:
        if time.monotonic() - begun > seconds:
            opened.overruns += 1
            opened.inline = opened.overruns < OVERRUNS
            log.warning("scoring overran its %.0f ms; time %d of %d", seconds * 1000, opened.overruns, OVERRUNS)


async def _pooled(score: Callable[[], Made], seconds: float, request: Request, opened: Opened, mark: str) -> Made:
    """Score on a thread; once for all who ask for the same at the same time."""
    try:
        return await opened.pool.run((request.user_id, request.k, mark), score, seconds, request.gone)
    except TimeoutError:
        raise RungUnavailable("timed_out", f"no scores within {seconds * 1000:.0f} ms") from None
    except PoolFull:
        raise RungUnavailable("pool_full", "every scoring thread is busy and as many requests wait") from None


def _score(ready: Ready, live: Live, request: Request, opened: Opened, mark: str) -> Made:
    reserve = TOP if opened.exploration_share else 0
    try:
        history = live.history(request.user_id)
        made = slates(ready.model, history, live.counts, opened.now_ms(), request.k, reserve)
    except BaseException as why:  # a model's own code runs here and may raise anything, SystemExit too
        raise RungUnavailable("fault", f"{ready.name} raised {type(why).__name__}: {why}") from why
    codes = _codes(made.items[0], made.non_finite)
    ids, scores = _each(live.names.ids, codes), array("d", made.scores[0, : len(codes)].tobytes())
    return Made(Kept(ids, scores, mark, time.monotonic()), made.non_finite)


def _codes(items: np.ndarray, non_finite: int = 0) -> list[int]:
    """The codes of a slate; -1 marks its end."""
    codes: list[int] = items.tolist()
    if codes[-1] < 0:
        codes = codes[: codes.index(-1)]
    if not codes:
        raise RungUnavailable("nothing", "not one movie to show", non_finite)
    return codes


def _each(texts: list[str], codes: list[int]) -> list[str]:
    """The text of each code. A getter is several times as fast as asking one by one."""
    return [*itemgetter(*codes)(texts)] if len(codes) > 1 else [texts[codes[0]]]


_said: dict[str, float] = {}


def _say(rung: str, why: RungUnavailable) -> None:
    now = time.monotonic()
    if now - _said.get(rung, -LOG_EVERY_S) >= LOG_EVERY_S:
        _said[rung] = now
        log.warning("rung %s unavailable: %s", rung, why)

"""Slates that the model made, kept for a while: fresh ones spare the model, older ones stand in when it is out.

They are in each worker's memory and, where `cache.redis` is set, in Redis too, so that workers share them. What comes
from Redis is checked like anything from outside; while Redis is slow or out, nobody waits for it.
"""

import logging
import time
from array import array
from collections.abc import Container
from hashlib import blake2b
from typing import Annotated, NamedTuple, Protocol

import orjson
from cachetools import LRUCache
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from conf.sections import serving as conf
from serving.exploration import TOP
from serving.metrics import Metrics
from serving.redis_link import MAX_BYTES, Link, Unanswered

log = logging.getLogger("greenlight.serving")

PREFIX = "greenlight:slate:2"  # the number is the format's
CLOCKS_APART_S = 5.0  # that a value of another worker may seem to come from the future
LOG_EVERY_S = 5.0


class Key(NamedTuple):
    """Whose slate: no two releases, and so no two arms, share one."""

    release: str
    k: int
    user_id: str


class Kept(NamedTuple):
    """A slate as the model made it, best first, with the state's mark then; `made_s` is on `time.monotonic`'s clock.

    Behind the slate's own k stand the best of the rest, up to `TOP`: exploration draws from all of them.
    """

    ids: list[str]
    scores: "array[float]"
    mark: str
    made_s: float

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.made_s


class Cache(Protocol):
    async def fresh(self, key: Key, mark: str, known: Container[str], seconds: float) -> Kept | None:
        """The kept slate, if the mark is still `mark` and it is under `ttl_s` old. Never raises.

        It may take `seconds` at most; a slate from elsewhere counts only if all of its movies are `known`.
        """

    def last(self, key: Key) -> Kept | None:
        """The newest slate that this worker made or saw, under `stale_s` old, whatever its mark. Reads memory."""

    def put(self, key: Key, kept: Kept) -> None:
        """Keep a slate. Never waits, never raises."""

    def close(self) -> None:
        """Let go of connections."""


class Memory:
    """The cache of one worker: its `entries` last used slates."""

    def __init__(self, settings: conf.Cache, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self._kept: LRUCache[Key, Kept] = LRUCache(settings.entries)

    async def fresh(self, key: Key, mark: str, known: Container[str], seconds: float) -> Kept | None:
        kept = self._fresh(key, mark)
        self.metrics.looked("miss" if kept is None else "hit")
        return kept

    def last(self, key: Key) -> Kept | None:
        kept = self._kept.get(key)
        return kept if kept is not None and kept.age_s < self.settings.stale_s else None

    def put(self, key: Key, kept: Kept) -> None:
        self._kept[key] = kept

    def close(self) -> None:
        self._kept.clear()

    def _fresh(self, key: Key, mark: str) -> Kept | None:
        kept = self._kept.get(key)
        return kept if kept is not None and kept.mark == mark and kept.age_s < self.settings.ttl_s else None


class Shared(Memory):
    """Memory with Redis behind it. What Redis answers is put into memory, so `last` knows it too."""

    def __init__(self, settings: conf.Cache, metrics: Metrics) -> None:
        super().__init__(settings, metrics)
        self._link = Link(settings.redis, settings.timeout_ms / 1000, metrics)
        self._said_s = -LOG_EVERY_S

    async def fresh(self, key: Key, mark: str, known: Container[str], seconds: float) -> Kept | None:
        if (kept := self._fresh(key, mark)) is not None:
            self.metrics.looked("hit")
            return kept
        result = await self._fetch(key, known, seconds) if self._link.up() else "open"
        kept = self._fresh(key, mark)  # from Redis, or made meanwhile for another request of this viewer
        self.metrics.looked(result if kept is None else "hit")
        return kept

    def put(self, key: Key, kept: Kept) -> None:
        super().put(key, kept)
        if self._link.up() and len(value := pack(key, kept)) <= MAX_BYTES:
            self._link.put(name(key), value, self.settings.stale_s)

    def close(self) -> None:
        self._link.close()
        super().close()

    async def _fetch(self, key: Key, known: Container[str], seconds: float) -> str:
        """Bring into memory what Redis has. `miss`, where it has nothing or only something older; or `error`."""
        try:
            value = await self._link.get(name(key), seconds)
            far = unpack(key, value, known) if value else None
        except Unanswered:
            return "error"
        except ValueError as why:
            self._say(why)
            return "error"
        near = self._kept.get(key)
        if far is not None and (near is None or far.made_s > near.made_s):
            super().put(key, far)
        return "miss"

    def _say(self, why: ValueError) -> None:
        if time.monotonic() - self._said_s >= LOG_EVERY_S:
            self._said_s = time.monotonic()
            log.warning(
                "a value in Redis is not a slate that was kept there and is passed over: %s", type(why).__name__
            )


def open_cache(settings: conf.Cache, metrics: Metrics) -> Cache:
    """The cache that is configured. Redis need not be there: it is looked for at the first request, and again."""
    return Shared(settings, metrics) if settings.redis else Memory(settings, metrics)


class Value(BaseModel):
    """What lies in Redis under a key. The name is in it too, so a value that was copied elsewhere is refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str
    ids: Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(min_length=1)]
    scores: list[FiniteFloat]
    mark: str
    made_ms: int


_STARTED = time.time() - time.monotonic()  # wall time from here on: the monotonic clock's, so that it never jumps


def name(key: Key) -> str:
    """The key's name in Redis. It shows no viewer's id, and is short and plain whatever the id is."""
    viewer = blake2b(key.user_id.encode("utf-8", "surrogatepass"), digest_size=16, key=key.release.encode()[:64])
    return f"{PREFIX}:{key.release}:{key.k}:{viewer.hexdigest()}"


def pack(key: Key, kept: Kept) -> bytes:
    """The value for Redis: JSON, without titles, which the release knows."""
    made_ms = int((kept.made_s + _STARTED) * 1000)
    value = {"name": name(key), "ids": kept.ids, "scores": kept.scores.tolist(), "mark": kept.mark, "made_ms": made_ms}
    return orjson.dumps(value)


def unpack(key: Key, value: bytes, known: Container[str]) -> Kept:
    """The slate in a value that Redis answered. ValueError where it is anything but a slate kept under this key."""
    found = Value.model_validate_json(value)
    age_s = time.monotonic() + _STARTED - found.made_ms / 1000
    if found.name != name(key) or age_s < -CLOCKS_APART_S:
        raise ValueError("kept under another name, or in the future")
    if not len(set(found.ids)) == len(found.ids) == len(found.scores) <= max(key.k, TOP):
        raise ValueError("not one score for each movie, a movie twice, or too many")
    if not all(movie_id in known for movie_id in found.ids):
        raise ValueError("a movie that the release does not know")
    return Kept(found.ids, array("d", found.scores), found.mark, time.monotonic() - max(age_s, 0.0))

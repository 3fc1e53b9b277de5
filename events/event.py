"""What happened, as typed, versioned, frozen records: one model per kind.

Every event has an `event_id` and `ts`, the time it happened in milliseconds since 1970 (UTC). The id of an imported
line is `content_id(dialect, line content)`, so the same line imported twice, from any file, is one event.
"""

import hashlib
import re
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, model_validator

# Ids travel in comma-separated answers, text lines and URLs: no comma, no white space, no control characters.
Id = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\s,\x00-\x1f\x7f]+$")]
Millis = Annotated[int, Field(ge=0, le=253_402_300_799_999)]  # up to the year 9999
Count = Annotated[int, Field(ge=0, lt=1 << 63)]  # the archive has columns of 64 bits
Finite = Annotated[float, Field(allow_inf_nan=False)]  # JSON, in which events are stored, has no others

POSITIVE = 0.7  # strength from which an interaction counts as liked

TOPICS = EVENTS, CATALOGUE, IMPRESSIONS, DEAD_LETTER = "events", "catalogue", "impressions", "dead-letter"

SECOND_DIGITS = 14  # of a time written out; a number has those of its seconds, and maybe more
_NO_DIGIT = re.compile(r"[^0-9]")


def content_id(dialect: str, content: str, begin: str = "") -> str:
    """Deterministic event id of an imported line: 128 bits in hex, of SHA-256 over dialect and content.

    begin: hex digits that the id begins with in place of its own first ones. Ids that come together (of one viewer, of
    one second) should begin alike: an index over ids is then written in few places rather than in one per line.
    """
    digest = hashlib.sha256(f"{dialect}\x00{content}".encode()).hexdigest()
    return begin + digest[len(begin) : 32]


@lru_cache(maxsize=4096)
def of_viewer(user_id: str) -> str:
    """What the ids of one viewer's lines begin with: 32 bits of a hash."""
    return hashlib.sha256(user_id.encode()).hexdigest()[:8]


def of_moment(when: str) -> str:
    """What the ids of lines of one second begin with: the digits of the time as it is written, whatever its zone."""
    return _NO_DIGIT.sub("", when[:19])[:SECOND_DIGITS]


class BadRecord(ValueError):
    """A record that cannot be an event; the message is the reason kept in the dead letter."""


class Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    topic: ClassVar[str] = EVENTS

    version: Literal[1] = 1
    event_id: Id
    ts: Millis


class Watch(Event):
    """One minute of a movie was streamed; watch time is the number of distinct minutes per user and movie."""

    kind: Literal["watch"] = "watch"
    user_id: Id
    movie_id: Id
    minute: Annotated[int, Field(ge=0, le=100_000)]


class Rating(Event):
    kind: Literal["rating"] = "rating"
    user_id: Id
    movie_id: Id
    rating: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    scale: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]  # the largest rating its source allows

    @model_validator(mode="after")
    def _within_scale(self) -> "Rating":
        if self.rating > self.scale:
            raise ValueError(f"rating {self.rating:g} is above its scale's maximum {self.scale:g}")
        return self

    @property
    def strength(self) -> float:
        """How much the viewer liked it, 0 to 1."""
        return self.rating / self.scale


class Click(Event):
    kind: Literal["click"] = "click"
    user_id: Id
    movie_id: Id
    request_id: Id | None = None


class Account(Event):
    kind: Literal["account"] = "account"
    user_id: Id


class Movie(Event):
    """A line of the catalogue. Catalogues carry no times, so `ts` is 0."""

    topic: ClassVar[str] = CATALOGUE
    kind: Literal["movie"] = "movie"
    ts: Millis = 0
    movie_id: Id
    title: str = ""
    genres: tuple[str, ...] = ()


class Impression(Event):
    """A slate that was served. `event_id` is the request id; `ts` the home's clock, `wall_ts` the wall's.

    propensities: of each item, that this request would show it on its place. A rung below the model's always shows the
    same, so they are 1 there.

    A request that the site itself logged has `arm` = `site`, the server's address as `release` and rung `unknown`: the
    site does not know them. Where it got no slate, `items` is empty and `failure` says what it got.
    """

    topic: ClassVar[str] = IMPRESSIONS
    kind: Literal["impression"] = "impression"
    wall_ts: Millis
    user_id: str
    arm: str
    release: str  # digest of the release that answered
    rung: Literal["model", "stale", "precomputed", "popularity", "unknown"]
    items: tuple[str, ...]
    propensities: tuple[Finite, ...]
    k: Count
    latency_ms: Finite
    failure: str = ""
    explored: bool = False  # whether the model's movies were put in random order


class Unreadable(Event):
    """A record that could not be read, kept whole in the dead letter with the reason."""

    topic: ClassVar[str] = DEAD_LETTER
    kind: Literal["unreadable"] = "unreadable"
    source: str  # file name or topic
    line: Count  # line number in the source, or offset in the topic
    reason: str
    raw: str  # the record itself, undecodable bytes as backslash escapes


AnyEvent = Annotated[Watch | Rating | Click | Account | Movie | Impression | Unreadable, Field(discriminator="kind")]
ANY_EVENT: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)

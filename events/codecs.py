"""Two codecs of events: JSON, one object per record, and the streaming site's text lines.

    <time>,<userid>,GET /data/m/<movieid>/<minute>.mpg
    <time>,<userid>,GET /rate/<movieid>=<rating>
    <time>,<userid>,GET /create_account
    <time>,<userid>,recommendation request <server>, status <status>, result: <ids>, <n> ms

Reading never raises: what cannot be read becomes `Unreadable`, with the reason, and the reader goes on. Times of text
lines have 0, 6 or 9 fractional digits and no zone (`Rules.zone`), or are numbers; movie ids hold `+`, `_`, dots and
hyphens; results hold commas; a request that failed has `status 0` and an exception as its result.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from events.event import (
    ANY_EVENT,
    Account,
    AnyEvent,
    BadRecord,
    Impression,
    Rating,
    Unreadable,
    Watch,
    content_id,
    of_moment,
)
from events.times import from_number, from_text, latest_plausible_ms, number

ANY_EVENTS: TypeAdapter[list[AnyEvent]] = TypeAdapter(list[AnyEvent])
VIEWER_KINDS = frozenset({"watch", "rating", "click", "account"})
LINES = "lines"  # dialect of the text lines, part of their ids

Fields = dict[str, Any]  # an event before validation


@dataclass(frozen=True)
class Rules:
    """How text lines are read: the zone of times without one, the largest rating, the latest plausible time."""

    zone: tzinfo = UTC
    scale: float = 5.0
    latest_ms: int = field(default_factory=latest_plausible_ms)


def encode(event: AnyEvent) -> str:
    """The event as JSON; `decode` gives the same event back."""
    return event.model_dump_json()


def decode(
    raw: bytes | None, source: str, position: int, rules: Rules | None = None, dialect: str = "record"
) -> AnyEvent:
    """The event of one record: JSON, or with `rules` a text line too. `Unreadable` with the reason where it is neither.

    source and position name the record in the dead letter: a topic and an offset. dialect: see `unreadable`.
    """
    try:
        if raw is None:
            raise BadRecord("null value")
        if rules is None:
            return ANY_EVENT.validate_json(raw)
        text = decoded(raw).strip()
        fields, _ = json_fields(text, rules) if text.startswith("{") else line_fields(text, rules)
        return ANY_EVENT.validate_python(fields)
    except ValidationError as why:
        return unreadable(raw, source, position, plain_reason(why), dialect)
    except BadRecord as why:
        return unreadable(raw, source, position, str(why), dialect)


def unreadable(raw: bytes | None, source: str, position: int, reason: str, dialect: str = "record") -> Unreadable:
    """The dead letter's record. Its id depends on dialect, position and content, not on the source's name."""
    text = "" if raw is None else raw.decode("utf-8", "backslashreplace")
    return Unreadable(
        event_id=content_id(f"unreadable {dialect}", f"{position}\x00{text}"),
        ts=time.time_ns() // 1_000_000,
        source=source,
        line=position,
        reason=reason,
        raw=text,
    )


def decoded(raw: bytes) -> str:
    """UTF-8 text of a record; BadRecord names the first byte that is not."""
    try:
        return raw.decode()
    except UnicodeDecodeError as why:
        raise BadRecord(f"byte 0x{raw[why.start]:02X} at position {why.start + 1} is not UTF-8") from None


def validated(candidates: Sequence[Fields]) -> list[AnyEvent | str]:
    """Each candidate's event, or the reason why it is none. One pass over all of them where all are good."""
    try:
        return list(ANY_EVENTS.validate_python(candidates))
    except ValidationError as why:
        reasons: dict[int, str] = {}
        for error in why.errors(include_url=False):
            reasons.setdefault(int(error["loc"][0]), _sentence(error, skip=1))
    good = iter(ANY_EVENTS.validate_python([f for i, f in enumerate(candidates) if i not in reasons]))
    return [reasons[i] if i in reasons else next(good) for i in range(len(candidates))]


def plain_reason(why: ValidationError) -> str:
    """The first thing that is wrong, in one sentence."""
    return _sentence(why.errors(include_url=False)[0], skip=0)


def json_fields(text: str, rules: Rules) -> tuple[Fields, str]:
    """Fields of a JSON line and the unit of its time."""
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError as why:
        raise BadRecord(f"not JSON: {why}") from None
    if not isinstance(fields, dict):
        raise BadRecord(f"a JSON object is expected, found {type(fields).__name__}")
    return completed(fields, rules)


def completed(fields: Fields, rules: Rules) -> tuple[Fields, str]:
    """Fields of JSON with what they may leave out, and the unit of their time. A viewer's is put into ms."""
    kind, when = fields.get("kind"), fields.get("ts")
    if "event_id" not in fields:
        fields["event_id"] = content_id("json", _sorted(fields), of_moment(str(fields.get("ts", ""))))
    if kind == "rating":
        fields.setdefault("scale", rules.scale)
    if not isinstance(kind, str) or kind not in VIEWER_KINDS or not isinstance(when, int | float | str):
        return fields, ""
    if isinstance(when, str):
        fields["ts"], unit = from_text(when.strip(), rules.zone, rules.latest_ms)
    else:
        fields["ts"], unit = from_number(str(when), rules.latest_ms)
    return fields, unit


def _sorted(fields: Fields) -> str:
    try:
        return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONEncodeError:
        raise BadRecord("it is nested too deep") from None


def line_fields(text: str, rules: Rules) -> tuple[Fields, str]:
    """Fields of a text line and the unit of its time (`iso` where it is written out)."""
    parts = text.split(",", 2)
    if len(parts) < 3:
        raise BadRecord("expected <time>,<userid>,<what happened>")
    when, user, what = parts[0].strip(), parts[1].strip(), parts[2].strip()
    fields = _what_happened(what, rules)
    ts, unit = from_text(when, rules.zone, rules.latest_ms)
    fields |= {"event_id": content_id(LINES, text.strip(), of_moment(when)), "ts": ts, "user_id": user}
    if fields["kind"] == "impression":
        fields["wall_ts"] = ts
        for name in (user, fields["release"], *fields["items"]):
            if not _ID.fullmatch(name):
                raise BadRecord(f"{name[:60]!r} is no id of a viewer, server or movie: 1 to 256 characters, none white")
    return fields, unit


_ID = re.compile(r"[^\s,\x00-\x1f\x7f]{1,256}")  # as `event.Id`, which does not bind what impressions name
_WATCH = re.compile(r"GET /data/m/(.+)/0*([0-9]{1,9})\.mpg")  # every digit below is ASCII's: \d has other scripts' too
_RATE = re.compile(r"GET /rate/(.+)=([^=]*)")
_REQUEST = re.compile(
    r"recommendation request ([^,]*), status ([0-9]{1,9}), result: ?(.*), ([0-9]{1,12}(?:\.[0-9]+)?) ?ms", re.DOTALL
)


def _what_happened(what: str, rules: Rules) -> Fields:
    if found := _WATCH.fullmatch(what):
        return {"kind": "watch", "movie_id": found[1], "minute": int(found[2])}
    if found := _RATE.fullmatch(what):
        rating = within_scale(found[2], 1, rules.scale)
        return {"kind": "rating", "movie_id": found[1], "rating": rating, "scale": rules.scale}
    if what == "GET /create_account":
        return {"kind": "account"}
    if found := _REQUEST.fullmatch(what):
        return _request(*found.groups())
    raise BadRecord(f"not a watched minute, a rating, an account or a recommendation request: {what[:60]!r}")


def _request(server: str, status: str, result: str, latency_ms: str) -> Fields:
    """A request as the site logged it: what it got, or, where the status is not 200, why it got nothing."""
    served = int(status) == 200
    items = [movie for part in result.split(",") if (movie := part.strip())] if served else []
    return {
        "kind": "impression",
        "arm": "site",
        "release": server.strip(),
        "rung": "unknown",
        "items": items,
        "propensities": [1.0] * len(items),
        "k": len(items),
        "latency_ms": float(latency_ms),
        "failure": "" if served else f"status {status}: {result.strip()}",
    }


def within_scale(text: str, lowest: float, scale: float) -> float:
    """The rating, if it is a number from `lowest` to `scale`; BadRecord says which limit it breaks."""
    rating = number(text, "rating")
    if not lowest <= rating <= scale:
        raise BadRecord(f"rating {text[:40]} is out of range: from {lowest:g} to {scale:g}")
    return float(rating)


def encode_line(event: Watch | Rating | Account | Impression) -> str:
    """The event as the streaming site would log it, in UTC; what its line cannot hold (event id, scale) is left out."""
    when = datetime.fromtimestamp(event.ts / 1000, UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    match event:
        case Watch():
            what = f"GET /data/m/{event.movie_id}/{event.minute}.mpg"
        case Rating():
            what = f"GET /rate/{event.movie_id}={_written(event.rating)}"
        case Account():
            what = "GET /create_account"
        case Impression():
            status, _, cause = event.failure.removeprefix("status ").partition(": ")
            result = re.sub(r"[\r\n]+", " ", cause) if event.failure else ", ".join(event.items)
            what = (
                f"recommendation request {event.release}, status {status or 200}, "
                f"result: {result}, {_written(event.latency_ms)} ms"
            )
    return f"{when},{event.user_id},{what}"


def _written(value: float) -> str:
    """All its digits and no exponent, which the site's lines do not have."""
    return f"{Decimal(repr(value)):f}".removesuffix(".0")


def _sentence(error: Any, skip: int) -> str:
    """One sentence of a pydantic error: which field, what is wrong, the value. The first loc is the kind's tag."""
    path = ".".join(str(part) for part in error["loc"][skip + 1 :])
    message = error["msg"].removeprefix("Value error, ")
    if not path or error["type"] in ("missing", "extra_forbidden"):
        return f"{path}: {message}" if path else message
    return f"{path} = {str(error['input'])[:60]!r}: {message}"

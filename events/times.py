"""Times of imported records: their unit recognised by magnitude, text times with or without a zone, none implausible.

Seconds, milliseconds, microseconds and nanoseconds since 1970 of the years 1990 to 2100 are disjoint ranges of numbers,
so the size of a number tells its unit. What falls in none of them, or lies after `latest_ms`, is refused: one stray
stamp must not move the event clock, a window or an age.
"""

import re
import time
from datetime import UTC, datetime, tzinfo

from events.event import BadRecord

EARLIEST_MS = 631_152_000_000  # 1990-01-01, before any of the known data sets
HORIZON_MS = 4_102_444_800_000  # 2100-01-01: beyond it a number is in another unit, not in the future
TOLERANCE_MS = 300_000  # clocks of machines differ; more than five minutes ahead is a fault

# Java leaves out seconds that are 0; Python's own reader would take week dates, any separator, offsets of seconds too.
_ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[+-][0-9]{2}:?[0-5][0-9])?"
)
# Not Python's own, which take digits of any script, underscores, infinity.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

UNITS = {"seconds": 1000.0, "milliseconds": 1.0, "microseconds": 1e-3, "nanoseconds": 1e-6}  # to milliseconds


def latest_plausible_ms() -> int:
    """Wall time plus the tolerance: what claims to be later is quarantined."""
    return time.time_ns() // 1_000_000 + TOLERANCE_MS


def number(text: str, what: str) -> float:
    """The number that is written, whole ones exactly; BadRecord, which begins with `what`, where there is none."""
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        raise BadRecord(f"{what} {text[:40]!r} is not a number")
    return int(text) if text.isdigit() and len(text) <= 40 else float(text)


def from_number(text: str, latest_ms: int) -> tuple[int, str]:
    """Milliseconds since 1970 and the unit that `text`, a number since 1970, was recognised to be in."""
    if len(text) > 40:
        raise BadRecord(f"time {text[:40]}... is not between 1990 and 2100")
    since = number(text, "time")
    for unit, factor in UNITS.items():
        if EARLIEST_MS <= since * factor < HORIZON_MS:
            return _not_later(_scaled(since, unit), latest_ms, text), unit
    raise BadRecord(f"time {text} is not between 1990 and 2100 in seconds, ms, us or ns since 1970")


def from_text(text: str, zone: tzinfo, latest_ms: int) -> tuple[int, str]:
    """Milliseconds since 1970 of an ISO time (`zone` where it names none) or of a number; and the unit (`iso`)."""
    if text[4:5] != "-":
        return from_number(text, latest_ms)
    try:
        moment = datetime.fromisoformat(text if _ISO.fullmatch(text) else "")
    except ValueError:
        raise BadRecord(f"time {text[:40]!r} is neither ISO 8601 nor a number") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone)
    try:
        ms = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // _MILLISECOND
    except OverflowError:
        raise BadRecord(f"time {text[:40]} is out of range") from None
    if ms < EARLIEST_MS:
        raise BadRecord(f"time {text[:40]} is before 1990")
    return _not_later(ms, latest_ms, text), "iso"


_MILLISECOND = datetime(2000, 1, 1, 0, 0, 0, 1000) - datetime(2000, 1, 1)


def _scaled(since: float, unit: str) -> int:
    """Exact for whole numbers of any unit: nanoseconds do not fit a float."""
    if isinstance(since, int):
        return since * 1000 if unit == "seconds" else since // round(1 / UNITS[unit])
    return round(since * UNITS[unit])


def _not_later(ms: int, latest_ms: int, text: str) -> int:
    if ms > latest_ms:
        shown = f" ({datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%dT%H:%M:%S+00:00})" if ms < HORIZON_MS else ""
        raise BadRecord(f"time {text[:40]}{shown} is in the future")
    return ms

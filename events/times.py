"""Times of imported records: their unit recognised by magnitude, text times with or without a zone, none implausible.

Seconds, milliseconds, microseconds and nanoseconds since 1970 of the years 1990 to 2100 are disjoint ranges of numbers,
so the size of a number tells its unit. What falls in none of them, or lies after `latest_ms`, is refused: one stray
stamp must not move the event clock, a window or an age.
"""

import time
from datetime import UTC, datetime, tzinfo

from events.event import BadRecord

EARLIEST_MS = 631_152_000_000  # 1990-01-01, before any of the known data sets
HORIZON_MS = 4_102_444_800_000  # 2100-01-01: beyond it a number is in another unit, not in the future
TOLERANCE_MS = 300_000  # clocks of machines differ; more than five minutes ahead is a fault

UNITS = {"seconds": 1000.0, "milliseconds": 1.0, "microseconds": 1e-3, "nanoseconds": 1e-6}  # to milliseconds


def latest_plausible_ms() -> int:
    """Wall time plus the tolerance: what claims to be later is quarantined."""
    return time.time_ns() // 1_000_000 + TOLERANCE_MS


def from_number(text: str, latest_ms: int) -> tuple[int, str]:
    """Milliseconds since 1970 and the unit that `text`, a number since 1970, was recognised to be in."""
    if len(text) > 40:
        raise BadRecord(f"time {text[:40]}... is not between 1990 and 2100")
    try:
        number: float = int(text)
    except ValueError:
        try:
            number = float(text)
        except ValueError:
            raise BadRecord(f"time {text!r} is not a number") from None
    for unit, factor in UNITS.items():
        if EARLIEST_MS <= number * factor < HORIZON_MS:
            return _not_later(_scaled(number, unit), latest_ms, text), unit
    raise BadRecord(f"time {text} is not between 1990 and 2100 in seconds, ms, us or ns since 1970")


def from_text(text: str, zone: tzinfo, latest_ms: int) -> tuple[int, str]:
    """Milliseconds since 1970 of an ISO time (`zone` where it names none) or of a number; and the unit (`iso`)."""
    if text[4:5] != "-":
        return from_number(text, latest_ms)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadRecord(f"time {text!r} is neither ISO 8601 nor a number") from None
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


def _scaled(number: float, unit: str) -> int:
    """Exact for whole numbers of any unit: nanoseconds do not fit a float."""
    if isinstance(number, int):
        return number * 1000 if unit == "seconds" else number // round(1 / UNITS[unit])
    return round(number * UNITS[unit])


def _not_later(ms: int, latest_ms: int, text: str) -> int:
    if ms > latest_ms:
        shown = datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")
        raise BadRecord(f"time {text[:40]} ({shown}) is in the future")
    return ms

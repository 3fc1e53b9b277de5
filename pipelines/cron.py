"""Times as five cron fields, read as cron reads them, in a time zone with its summers and winters."""

import re
from datetime import UTC, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

from conf.errors import PlainError

DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")  # cron's numbers
FIELD = re.compile(r"[0-9a-z*,/-]+", re.ASCII | re.IGNORECASE)  # APScheduler passes over what follows a day's name
PART = re.compile(r"(\*|(\w+)(?:-(\w+))?)(?:/0*([0-9]+))?", re.ASCII)


class ScheduleError(PlainError):
    """The settings name a time that is none."""


class Times(NamedTuple):
    """triggers: APScheduler's; a moment of any of them counts. every_hour: the hour is `*`, so that an hour which comes
    twice counts twice."""

    triggers: tuple[CronTrigger, ...]
    zone: ZoneInfo
    every_hour: bool

    def after(self, moment_ms: int) -> int | None:
        """The first of these times after a moment, in ms since 1970; None for never.

        A time that the clock skips in spring is taken an hour later; one that comes twice in autumn is taken once.
        """
        found = self._after(moment_ms)
        while found is not None and not self.every_hour and self._is_again(found):
            found = self._after(found)
        return found

    def _after(self, moment_ms: int) -> int | None:
        since = datetime.fromtimestamp((moment_ms + 1) / 1000, UTC)
        found = [trigger.get_next_fire_time(None, since) for trigger in self.triggers]
        return min((round(moment.timestamp() * 1000) for moment in found if moment is not None), default=None)

    def _is_again(self, moment_ms: int) -> bool:
        return datetime.fromtimestamp(moment_ms / 1000, self.zone).fold == 1


def times(text: str, zone: str, setting: str = "schedule") -> Times:
    """Five cron fields, with cron's days: 0 and 7 are Sunday (APScheduler has 0 Monday). Where day and day of the
    week are both named, either will do."""
    fields = text.lower().split()
    try:
        if len(fields) != 5:
            raise ValueError(f"it has {len(fields)} fields")
        if odd := [field for field in fields if not FIELD.fullmatch(field)]:
            raise ValueError(f"{odd[0]!r} is no field")
        minute, hour, day, month, weekday = fields
        either = not (day.startswith("*") or weekday.startswith("*"))
        days = [(day, "*"), ("*", _weekdays(weekday))] if either else [(day, _weekdays(weekday))]
        triggers = tuple(
            CronTrigger(minute=minute, hour=hour, day=d, month=month, day_of_week=w, timezone=ZoneInfo(zone))
            for d, w in days
        )
        found = Times(triggers, ZoneInfo(zone), hour.startswith("*"))
        if found.after(0) is None:
            raise ValueError("that day never comes")
        return found
    except ValueError as why:
        raise ScheduleError(
            f"setting {setting} = {text!r} is no time ({why}): give minute, hour, day, month and day of the week, "
            'such as "30 4 * * *", or nothing'
        ) from None


def _weekdays(field: str) -> str:
    """The days that a field names, one by one: by name they mean the same to everybody."""
    if field == "*":
        return field
    return ",".join(dict.fromkeys(DAYS[day] for part in field.split(",") for day in _days(part)))


def _days(part: str) -> range:
    """The numbers of a day, of days from one to another, or of all; each, or each so many."""
    found = PART.fullmatch(part)
    if found is None:
        raise ValueError(f"{part!r} is no day of the week")
    body, first, last, step = found.groups()
    low, high = (0, 6) if body == "*" else (_day(first), _day(last or first))
    high = high or (7 if low else 0)  # a week that ends on Sunday
    if low > high or step == "0" or (step and body == first):
        raise ValueError(f"{part!r} is no day of the week")
    return range(low, high + 1, int(step or 1))


def _day(name: str) -> int:
    """A day's number. ValueError where it is none."""
    number = int(name) if name.isdigit() else DAYS.index(name) if name in DAYS else len(DAYS)
    if number >= len(DAYS):
        raise ValueError(f"{name!r} is no day of the week")
    return number

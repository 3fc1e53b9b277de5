"""Times as five cron fields, read as cron reads them, in a time zone with its summers and winters."""

from datetime import UTC, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

from conf.errors import PlainError

DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")  # cron's numbers


class ScheduleError(PlainError):
    """The settings name a time that is none."""


class Times(NamedTuple):
    """trigger: APScheduler's. every_hour: the hour is `*`, so that an hour which comes twice counts twice."""

    trigger: CronTrigger
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
        found = self.trigger.get_next_fire_time(None, datetime.fromtimestamp((moment_ms + 1) / 1000, UTC))
        return None if found is None else round(found.timestamp() * 1000)

    def _is_again(self, moment_ms: int) -> bool:
        return datetime.fromtimestamp(moment_ms / 1000, self.zone).fold == 1


def times(text: str, zone: str, setting: str = "schedule") -> Times:
    """Five cron fields, with cron's days of the week: 0 and 7 are Sunday (APScheduler's own reading has 0 Monday)."""
    fields = text.split()
    try:
        if len(fields) != 5:
            raise ValueError(f"it has {len(fields)} fields")
        minute, hour, day, month, weekday = fields
        trigger = CronTrigger(
            minute=minute, hour=hour, day=day, month=month, day_of_week=_weekday(weekday), timezone=ZoneInfo(zone)
        )
        return Times(trigger, ZoneInfo(zone), hour.startswith("*"))
    except ValueError as why:
        raise ScheduleError(
            f"setting {setting} = {text!r} is no time ({why}): give minute, hour, day, month and day of the week, "
            'such as "30 4 * * *", or nothing'
        ) from None


def _weekday(field: str) -> str:
    """Cron's numbers as names, which mean the same to everybody. A step, as in `*/2`, is no day."""
    body, slash, step = field.partition("/")
    named = "".join(DAYS[int(c)] if c.isdigit() and int(c) < len(DAYS) else c for c in body)
    if named.startswith("sun-") and named != "sun-sun":  # APScheduler's week begins on Monday
        named = f"sun,mon-{named[4:]}"
    return named + slash + step

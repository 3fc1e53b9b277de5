"""Five fields mean what cron means by them, in summer and in winter."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest

from pipelines.cron import ScheduleError, times


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def days_of(text: str, zone: str, since: str, until: str) -> list[str]:
    """The times between two moments, as UTC."""
    found, moment = [], at(since)
    while (moment := times(text, zone).after(moment) or at(until)) < at(until):
        found.append(f"{datetime.fromtimestamp(moment / 1000, UTC):%d %H:%M}")
    return found


@pytest.mark.parametrize(
    ("text", "zone", "then"),
    [
        ("30 4 * * *", "UTC", "2026-11-26T04:30"),  # 26 November 2026 is a Thursday
        ("30 4 * * *", "Europe/Berlin", "2026-11-26T03:30"),
        ("0 0 * * 0", "UTC", "2026-11-29T00:00"),  # Sunday, as in cron
        ("0 0 * * 7", "UTC", "2026-11-29T00:00"),
        ("0 0 * * 1", "UTC", "2026-11-30T00:00"),
        ("0 0 * * 0-2", "UTC", "2026-11-29T00:00"),
        ("0 0 * * 1-5", "UTC", "2026-11-27T00:00"),
        ("0 0 * * mon", "UTC", "2026-11-30T00:00"),
        ("*/15 * * * *", "UTC", "2026-11-26T00:15"),
        ("0 0 1 * sat", "UTC", "2026-11-28T00:00"),  # the first, or a Saturday
        ("0 0 28 * 7", "UTC", "2026-11-28T00:00"),
        ("0 0 */9 * 6", "UTC", "2026-11-28T00:00"),  # with a star both must hold
        ("0 0 * * FRI-SUN", "UTC", "2026-11-27T00:00"),
    ],
)
def test_fields_mean_what_cron_means(text: str, zone: str, then: str) -> None:
    assert times(text, zone).after(at("2026-11-26T00:00")) == at(then)


@pytest.mark.parametrize(
    "text",
    [
        "every night",
        "61 * * * *",
        "* * * * 8",
        "1 2 3",
        "a b c d e",
        "0 0 * * mon#1",
        "0 0 * * 5-1",
        "0 0 * * */0",
        "0 0 * * 2/2",
        "0 0 31 2 *",
        "٣ 0 * * *",
    ],
)
def test_a_time_that_is_none_is_a_sentence(text: str) -> None:
    with pytest.raises(ScheduleError, match=r"schedule\.prune"):
        times(text, "UTC", "schedule.prune")


@pytest.mark.parametrize(
    ("weekdays", "days"),
    [
        ("0-7", "22 23 24 25 26 27 28"),  # from a Sunday on
        ("*/2", "22 24 26 28"),
        ("*/3", "22 25 28"),
        ("0-6/2", "22 24 26 28"),
        ("1-7/3", "22 23 26"),
        ("1,0-3", "22 23 24 25"),
        ("6,5-7", "22 27 28"),
        ("sat,mon-tue", "23 24 28"),
    ],
)
def test_a_week_is_crons_week(weekdays: str, days: str) -> None:
    found = days_of(f"0 6 * * {weekdays}", "UTC", "2026-11-22T00:00", "2026-11-29T00:00")
    assert [day.split()[0] for day in found] == days.split()


def test_a_daily_time_comes_once_a_day_when_clocks_are_set() -> None:
    autumn = days_of("30 2 * * *", "Europe/Berlin", "2026-10-24T00:00", "2026-10-27T00:00")
    assert autumn == ["24 00:30", "25 00:30", "26 01:30"], "half past two comes twice on the 25th, and counts once"
    spring = days_of("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00", "2026-03-31T00:00")
    assert spring == ["28 01:30", "29 01:30", "30 00:30"], "half past two is left out on the 29th, and comes at three"


@pytest.mark.parametrize("day", ["2026-10-25", "2026-03-29"])
def test_an_hourly_time_comes_every_hour_all_the_same(day: str) -> None:
    moment, found = at(f"{day}T00:00") - 1, []
    while len(found) < 8:
        moment = times("0 * * * *", "Europe/Berlin").after(moment) or 0
        found.append(moment)
    assert {later - earlier for earlier, later in pairwise(found)} == {3_600_000}

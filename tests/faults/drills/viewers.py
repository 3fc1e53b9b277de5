"""Viewers' events as drills send them, small ones and now and then a large one; and those that are in a log."""

from datetime import UTC, datetime, timedelta

import orjson

from events.event import EVENTS, Rating
from events.local_log import LocalLog

FIRST = datetime(2023, 11, 14, tzinfo=UTC)
START_MS = round(FIRST.timestamp() * 1000)
DAY_MS = 86_400_000


def day(number: int) -> str:
    """A day after the first, as YYYY-MM-DD."""
    return f"{FIRST + timedelta(number):%Y-%m-%d}"


def rating(event_id: str, number: int = 0) -> Rating:
    """An event of this id on a day after the first."""
    size = 200 if event_id.endswith("7") else 1
    ts = START_MS + number * DAY_MS
    return Rating(event_id=event_id, ts=ts, user_id="u" * size, movie_id="m" * size, rating=4, scale=5)


def ids_in(log: LocalLog) -> list[str]:
    """The ids of all viewers' events that a log holds, as a reader gets them."""
    return [orjson.loads(body)["event_id"] for body in log.bodies([EVENTS])]

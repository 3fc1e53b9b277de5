"""Viewers' events as drills send them: small ones, and a large one now and then."""

from datetime import UTC, datetime, timedelta

from events.event import Rating

FIRST = datetime(2023, 11, 14, tzinfo=UTC)


def day(number: int) -> str:
    """A day after the first, as YYYY-MM-DD."""
    return f"{FIRST + timedelta(number):%Y-%m-%d}"


def rating(event_id: str, number: int = 0) -> Rating:
    """An event of this id on a day after the first."""
    size = 200 if event_id.endswith("7") else 1
    ts = round((FIRST + timedelta(number)).timestamp() * 1000)
    return Rating(event_id=event_id, ts=ts, user_id="u" * size, movie_id="m" * size, rating=4, scale=5)

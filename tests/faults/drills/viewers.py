"""Viewers' events as drills send them: small ones, and a large one now and then."""

from events.event import Rating

START = 1_700_000_000_000


def rating(event_id: str) -> Rating:
    size = 200 if event_id.endswith("7") else 1
    return Rating(event_id=event_id, ts=START, user_id="u" * size, movie_id="m" * size, rating=4, scale=5)

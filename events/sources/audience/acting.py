"""What a viewer does with a movie, as events: a click where a slate showed it, minutes watched, perhaps a rating."""

from collections.abc import Iterable, Iterator
from math import log

from events.event import Account, AnyEvent, Click, Rating, Watch, content_id, of_viewer

SCALE = 10.0  # of the ratings; 7 and more are likings
NAME = "simulated"  # the dialect in event ids
DRAWS = 4  # numbers in [0, 1) that an act takes
SHORTEST, LONGEST = 80.0, 140.0  # minutes of a movie
STARS = 0.9  # of a rating, for each logit of liking
STEP_MS = 2000  # from one place of a slate to the next
MINUTE_MS = 60_000

Deed = Click | Watch | Rating
Chunk = tuple[int, list[AnyEvent]]  # events, and the time before which no later chunk has any


def deeds(
    who: tuple[int, str],
    movie_id: str,
    ts: int,
    like: float,
    draws: Iterable[float],
    heartbeat: int,
    rated: float,
    watched: float = 1.0,
    click: tuple[int, str | None] | None = None,
) -> list[Deed]:
    """What a viewer does with one movie from `ts` on. who: seed and viewer; like: logits of a liking; draws: `DRAWS`.

    rated, watched: how likely these are to be told; click: when, and from which request.
    """
    seed, user_id = who
    taste, length, patience, tells = draws
    opinion = like + log(max(taste, 1e-12) / max(1 - taste, 1e-12))  # above 0: liked
    minutes = (SHORTEST + (LONGEST - SHORTEST) * length) * (1.0 if opinion > 0 else 0.1 + 0.9 * patience)
    event_id = content_id(NAME, f"{seed}\x00{user_id}\x00{movie_id}\x00{ts}", of_viewer(user_id))
    found: list[Deed] = []
    if click:
        found.append(_click(event_id, user_id, movie_id, *click))
    if watched > tells or watched == 1:
        for minute in range(0, int(minutes), heartbeat):
            at = ts + minute * MINUTE_MS
            found.append(
                Watch(event_id=f"{event_id}-{minute}", ts=at, user_id=user_id, movie_id=movie_id, minute=minute)
            )
    if tells < rated:
        at, stars = ts + int(minutes) * MINUTE_MS, _stars(opinion)
        found.append(
            Rating(event_id=f"{event_id}-r", ts=at, user_id=user_id, movie_id=movie_id, rating=stars, scale=SCALE)
        )
    return found or [_click(event_id, user_id, movie_id, ts, None)]


def _click(event_id: str, user_id: str, movie_id: str, ts: int, request_id: str | None) -> Click:
    return Click(event_id=f"{event_id}-c", ts=ts, user_id=user_id, movie_id=movie_id, request_id=request_id)


def ends(found: list[Deed]) -> int:
    """When the viewer is free for the next movie."""
    return found[-1].ts + MINUTE_MS


def account(seed: int, user_id: str, ts: int) -> Account:
    return Account(
        event_id=content_id(NAME, f"{seed}\x00account\x00{user_id}", of_viewer(user_id)), ts=ts, user_id=user_id
    )


def in_order(chunks: Iterable[Chunk]) -> Iterator[AnyEvent]:
    """All events by time, as soon as nothing earlier can come."""
    waiting: list[AnyEvent] = []
    for bound, events in chunks:
        waiting = sorted([*waiting, *events], key=lambda event: event.ts)
        ready = next((n for n, event in enumerate(waiting) if event.ts >= bound), len(waiting))
        yield from waiting[:ready]
        del waiting[:ready]
    yield from waiting


def _stars(opinion: float) -> float:
    if opinion > 0:
        return 7.0 + min(3, int(STARS * opinion))
    return max(1.0, 6.0 - int(-STARS * opinion))

"""`greenlight precompute`: slates for all viewers, and the popularity ranking, from today's live state.

A release holds what was made ahead as of its snapshot; the longer it serves, the older that is. This makes it anew for
the champion and the challenger, beside the release (`mlflow_server/refreshed.py`), where workers take it up within
seconds. Viewers who did something since the release come first: theirs are the slates that aged. The live state is
built as a worker builds it, so a slate is the one that the model rung would have answered at that moment.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from events.clock import wall_ms
from mlflow_server import refreshed, release
from mlflow_server.depot import Depot
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Entry, Ledger, SigningKey
from mlflow_server.refreshed import Refreshed
from mlflow_server.release import Loaded
from mlflow_server.topk import precompute as score
from mlflow_server.viewers import joined
from models.interactions import Histories
from serving.feed import Feed
from serving.live import Live

ARMS = ("champion", "challenger")
FOLLOW_S = 900.0  # the longest that the log is followed; what is left then is in tomorrow's slates
SHARE = 0.8  # of the job's minutes that the slates of all arms may take together


class PrecomputeError(PlainError):
    """Slates cannot be made: a release or the log cannot be read, or the model fails."""


@dataclass(frozen=True)
class Ahead:
    """What was made for one arm. viewers: with a slate; of: known; events: taken in since the release."""

    alias: str
    version: int
    release: str
    viewers: int
    of: int
    movies: int
    moment_ms: int
    note: str
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Precomputed:
    arms: tuple[Ahead, ...]
    sentence: str


def precompute(home: Home, settings: Settings, progress: Callable[[int], None] = lambda done: None) -> Precomputed:
    """Make slates for who is in charge, put them in force and say how many. PrecomputeError, ReleaseError, LogError.

    What was made before stays in force where anything fails. progress: gets the number of viewers done.
    """
    ledger = Ledger.to_read(home.ledger, home.keys)
    decided = in_charge(ledger)
    arms = [(alias, decided[alias]) for alias in ARMS if alias in decided]
    if not arms:
        return Precomputed((), "nobody is in charge yet, so there is nothing to make ahead: greenlight train")
    known = {entry.body["release"] for entry in ledger.entries("registered")}
    limit_s = SHARE * 60 * settings.schedule.precompute_minutes / len(arms)
    made = tuple(
        _arm(home, settings, alias, entry, entry.body["release"] in known, limit_s, progress) for alias, entry in arms
    )
    words = "; ".join(
        f"{a.alias} version {a.version}: {a.note}, {a.movies:,} movies, in {a.seconds:.1f} s" for a in made
    )
    return Precomputed(made, f"slates made ahead for {words}")


def _arm(
    home: Home,
    settings: Settings,
    alias: str,
    entry: Entry,
    ours: bool,
    limit_s: float,
    progress: Callable[[int], None],
) -> Ahead:
    begun, digest = time.monotonic(), entry.body["release"]
    loaded = release.load(Depot(home, settings.storage).folder(digest), SigningKey(home.keys).public)
    live = today(home, settings, loaded, ours=ours)
    made = _slates(loaded, live, settings, limit_s, progress)
    if len(made.viewers) == 0 and live.known:
        raise PrecomputeError(f"{alias} version {entry.body['version']}: {made.note}; what was made before stays")
    size = refreshed.write(home.live / digest, made)
    return Ahead(
        alias=alias,
        version=entry.body["version"],
        release=digest,
        viewers=len(made.viewers),
        of=len(_everybody(live)),
        movies=len(made.movies),
        moment_ms=made.moment_ms,
        note=made.note,
        bytes=size,
        seconds=round(time.monotonic() - begun, 2),
    )


def today(home: Home, settings: Settings, loaded: Loaded, *, ours: bool = True) -> Live:
    """The live state over a release, brought up to the end of the log. ours: it was registered in this home, so its
    offset is of this log. PrecomputeError where the log cannot be followed to its end."""
    live = Live(loaded.viewers, loaded.live, loaded.popular, loaded.catalogue, loaded.manifest, settings)
    if not ours:
        live.offset = 0
    feed = Feed(home, settings)
    try:
        feed.follow(live, FOLLOW_S)
    finally:
        feed.close()
    if feed.trouble:
        raise PrecomputeError(f"live state cannot be brought up to now: {feed.trouble}")
    return live


def _slates(
    loaded: Loaded, live: Live, settings: Settings, limit_s: float, progress: Callable[[int], None]
) -> Refreshed:
    viewers, counts = _everybody(live), live.counts
    now = wall_ms() if settings.clock == "wall" else live.now_ms

    def histories(start: int, stop: int) -> Histories:
        return joined([live.history(user_id) for user_id in viewers[start:stop]])

    made = score(loaded.model, len(viewers), histories, counts, now, lambda done, of: progress(done), limit_s)
    full = np.flatnonzero((made.items >= 0).any(axis=1))  # who has none keeps what the release holds
    return Refreshed(
        viewers=[viewers[row] for row in full],
        movies=counts.catalogue.ids.tolist(),
        titles=counts.catalogue.titles.tolist(),
        items=made.items[full],
        scores=made.scores[full],
        popular=live.popular,
        moment_ms=now,
        note=made.note,
    )


def _everybody(live: Live) -> list[str]:
    """All known viewers, those first who did something since the release."""
    return list(dict.fromkeys([*live.lately, *live.known]))

"""What the audience is asked about: the columns of the drift report, from what viewers chose in a window of traffic.

One row is a viewer and a movie: however many minutes were watched of it, it was chosen once. In a column a viewer
counts for at most `cap` rows, so that a bot with a tenth of the traffic is one odd viewer and not a movement.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from monitoring.drift import Column, percent

HOUR_MS = 3_600_000
RATINGS = tuple(f"{n}/10" for n in range(1, 11))  # of the scale's maximum, rounded up
MINUTES = (1, 2, 3, 4, 6, 11, 21, 41, 81, 121)  # the first count of each bin: a site may tell a minute in thirty
WATCHED = tuple(f"{m} min" for m in ("1", "2", "3", "4-5", "6-10", "11-20", "21-40", "41-80", "81-120", "over 120"))
HOURS = tuple(f"{h:02}-{h + 3:02} h UTC" for h in range(0, 24, 3))
MOVIES = (1, 2, 3, 5, 9, 17, 33)
ACTIVE = ("1 movie", "2 movies", "3-4 movies", "5-8 movies", "9-16 movies", "17-32 movies", "33 movies or more")
RANKS = (0, 10, 30, 100, 300)  # the first rank of each bin
POPULAR = ("the week's top 10", "rank 11-30", "rank 31-100", "rank 101-300", "less popular")
HIT = 5.0  # times what a movie usually has: what one counts for at most where genres are compared
KIND = 0.3  # difference of shares of what was rated, or watched, from which traffic is of another kind
CHOSEN = "what viewers chose"


@dataclass(frozen=True, eq=False)
class Window:
    """The sampled traffic of one window: n rows, each a viewer and a movie that the viewer chose.

    viewers: (viewers,) str ids; users: (n,) codes into them; movies: (n,) codes, of this window alone; times: (n,) ms
    of the first act; ratings: (n,) newest strength, 0 to 1, NaN where not rated; minutes: (n,) distinct watched
    minutes, NaN where none was; genres: (n, genres) bool.
    """

    viewers: np.ndarray
    users: np.ndarray
    movies: np.ndarray
    times: np.ndarray
    ratings: np.ndarray
    minutes: np.ndarray
    genres: np.ndarray

    def __len__(self) -> int:
        return len(self.users)


def columns(reference: Window, current: Window, genre_names: Sequence[str], cap: int) -> tuple[Column, ...]:
    """The six declared columns of two windows. genre_names: of the columns of their `genres`."""
    used = np.logical_or(reference.genres.any(axis=0), current.genres.any(axis=0))
    genres = tuple(name for name, kept in zip(genre_names, used.tolist(), strict=True) if kept)

    def column(name: str, bins: tuple[str, ...], what: str, count: Count, ordered: bool = False) -> Column:
        before, after = (_capped(count(window), cap) for window in (reference, current))
        return Column(name, bins, before, after, what, ordered)

    shared = np.logical_and(reference.genres.any(axis=0), current.genres.any(axis=0))[used]
    genre = column("genre", genres, CHOSEN, lambda window: _genres(window, used, shared))
    return (
        column("rating", RATINGS, "ratings", _ratings, ordered=True),
        replace(genre, missing=(_without_genre(reference), _without_genre(current))),
        column("watch time", WATCHED, "what was watched", _watched, ordered=True),
        column("activity", ACTIVE, "viewers", _movies_each, ordered=True),
        column("hour", HOURS, CHOSEN, _hours),
        column("popularity", POPULAR, CHOSEN, _popularity, ordered=True),
    )


def other_kind(reference: Window, current: Window) -> str:
    """Why the two are traffic of different kinds, in words: mostly ratings and mostly watching, say. Empty: alike."""
    for what, name in (("rated", "ratings"), ("watched", "minutes")):
        before, after = (float(np.isfinite(getattr(w, name)).mean()) if len(w) else 0.0 for w in (reference, current))
        if len(current) and abs(after - before) > KIND:
            shares = f"{percent(before)} of what viewers chose was {what} then, {percent(after)} now"
            return f"the training history is traffic of another kind: {shares}"
    return ""


Count = Callable[[Window], np.ndarray]  # (viewers, bins) of a window


def _ratings(window: Window) -> np.ndarray:
    return _counts(window, tenths(window.ratings), len(RATINGS))


def _genres(window: Window, used: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """A movie of several genres counts for each in equal parts, one without any for none.

    No movie counts for more than a few usual ones: a premiere that everybody sees is no change of taste. Where it has
    a genre that only one of the windows knows, it counts in full.
    """
    flags = window.genres[:, used].astype(np.float32)
    weights = np.where(flags[:, ~shared].any(axis=1), 1.0, _without_hits(window))
    parts = flags / np.maximum(1.0, flags.sum(axis=1, keepdims=True)) * weights[:, None]
    spread = np.zeros((len(window.viewers), parts.shape[1]), np.float32)
    np.add.at(spread, window.users, parts)
    return spread


def _without_genre(window: Window) -> float:
    return 1.0 - float(window.genres.any(axis=1).mean()) if len(window) else 1.0


def _watched(window: Window) -> np.ndarray:
    return _counts(window, _bins(window.minutes, MINUTES), len(WATCHED))


def _movies_each(window: Window) -> np.ndarray:
    """How many movies each viewer chose: a viewer counts once."""
    chosen = np.bincount(window.users, minlength=len(window.viewers)).astype(float)
    return np.eye(len(ACTIVE), dtype=np.float32)[_bins(chosen, MOVIES)]


def _hours(window: Window) -> np.ndarray:
    return _counts(window, hour_bins(window.times), len(HOURS))


def _popularity(window: Window) -> np.ndarray:
    return _counts(window, rank_bins(window), len(POPULAR))


def _bins(values: np.ndarray, firsts: Sequence[float]) -> np.ndarray:
    """(n,) number of the bin that begins at or below each value; -1 where it is no number or below the first."""
    known = np.isfinite(values)
    return np.where(known, np.searchsorted(firsts, np.where(known, values, 0.0), side="right") - 1, -1)


def rank_bins(window: Window) -> np.ndarray:
    """(n,) which of `POPULAR` each row's movie falls into, by how many viewers of this window chose it."""
    plays = np.bincount(window.movies)
    rank = np.empty(len(plays), int)
    rank[np.argsort(-plays, kind="stable")] = np.arange(len(plays))
    return _bins(rank[window.movies].astype(float), RANKS)


def _without_hits(window: Window) -> np.ndarray:
    """(n,) weights under which no movie has more rows than `HIT` movies usually have."""
    plays = np.bincount(window.movies)
    usual = len(window) / max(1, int(np.count_nonzero(plays)))
    return np.minimum(1.0, HIT * usual / np.maximum(1, plays[window.movies]))


def hour_bins(times: np.ndarray) -> np.ndarray:
    """(n,) which of `HOURS` each time in ms falls into."""
    return times // HOUR_MS % 24 // 3


def tenths(values: np.ndarray) -> np.ndarray:
    """(n,) tenths of 0 to 1: 0 is up to 0.1, 9 is above 0.9; -1 where the value is none."""
    known = np.isfinite(values) & (values >= 0) & (values <= 1)
    return np.where(known, np.maximum(0, np.ceil(np.where(known, values, 0.0) * 10 - 1e-4) - 1), -1).astype(int)


def _counts(window: Window, bins: np.ndarray, width: int) -> np.ndarray:
    """(viewers, width) rows of each viewer in each bin."""
    known = bins >= 0
    cells = window.users[known].astype(np.int64) * width + bins[known]
    return np.bincount(cells, minlength=len(window.viewers) * width).reshape(-1, width).astype(np.float32)


def _capped(counts: np.ndarray, cap: int) -> np.ndarray:
    """Counts of which no viewer has more than `cap`, in the same proportions."""
    return counts * np.minimum(1.0, cap / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9)).astype(np.float32)

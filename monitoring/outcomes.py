"""What slates brought: clicks, watched minutes and likes, by viewer, arm and rung.

A movie of a slate is clicked once, however often. A minute of a movie is watched once, by whoever watches it again. A
viewer likes a movie whose last rating is positive or, where none of its ratings counts for a slate, of which enough was
watched: with the strengths that models learn from. Which slate an event counts for: attribution.py.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from conf.sections.data import Snapshot
from conf.sections.experiment import Experiment
from events.event import POSITIVE
from monitoring.attribution import CLICK, RATING, WATCH, Acts, Days, join

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
MINUTES = 100_001  # a watched minute is below this

Metric = Literal["likes", "clicks", "watch_minutes", "fallbacks"]


@dataclass(frozen=True, eq=False)
class Brought:
    """Every slate of a period and what it brought; all (n,). The texts are pyarrow dictionary arrays."""

    users: pa.DictionaryArray
    arms: pa.DictionaryArray
    rungs: pa.DictionaryArray
    times: np.ndarray  # int64 ms
    clicks: np.ndarray  # int64: movies that were clicked
    watch_minutes: np.ndarray  # int64: minutes that were watched
    likes: np.ndarray  # int64: movies that were liked


@dataclass(frozen=True)
class LeftOut:
    """Viewers who do not count, whatever came of their slates, and how many slates they got.

    A bot got more slates on one UTC day than the settings allow a person. Who crossed got slates in two arms, so that
    nothing they did can be said to come of either.
    """

    bots: int
    bot_slates: int
    crossed: int
    crossed_slates: int


@dataclass(frozen=True, eq=False)
class UserMeans:
    """A metric's mean per slate of each viewer, by the viewer's first slate; all (n,)."""

    users: np.ndarray  # str
    arm: np.ndarray  # str
    mean: np.ndarray  # float64, finite
    exposures: np.ndarray  # int64, at least 1
    first_ms: np.ndarray  # int64, ascending


@dataclass(frozen=True, eq=False)
class Viewers:
    """Sums over the slates of each viewer who counts, by the viewer's first slate; all (n,)."""

    users: np.ndarray  # str
    arms: np.ndarray  # str
    first_ms: np.ndarray  # int64: of the first slate
    exposures: np.ndarray  # int64: slates
    likes: np.ndarray  # int64
    clicks: np.ndarray  # int64
    watch_minutes: np.ndarray  # int64
    fallbacks: np.ndarray  # int64: slates that another rung than the model's made
    left_out: LeftOut

    def means(self, metric: Metric) -> UserMeans:
        """Each viewer's mean of a metric per slate."""
        sums: np.ndarray = getattr(self, metric)
        return UserMeans(self.users, self.arms, sums / self.exposures, self.exposures, self.first_ms)


class Rates(NamedTuple):
    """What slates of one rung in one arm brought, those of bots left out. All but the first four are per slate."""

    arm: str
    rung: str
    slates: int
    viewers: int
    ctr: float  # share of the slates of which something was clicked
    watch_minutes: float
    likes: float


def brought(impressions: Days, events: Days, experiment: Experiment, snapshot: Snapshot) -> Brought:
    """Join the slates of a period with what viewers did in it, and count. `events` are read twice."""
    slates, acts = join(impressions, events, round(experiment.window_hours * HOUR_MS))
    watched = _watched(acts)
    found = (_clicked(acts), watched, _liked(acts, watched, snapshot))
    texts = (slates[name].combine_chunks().dictionary_encode() for name in ("user_id", "arm", "rung"))
    users, arms, rungs = (text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text for text in texts)
    clicks, minutes, likes = (np.bincount(acts.slate[rows], minlength=len(slates)) for rows in found)
    return Brought(users, arms, rungs, slates["ts"].to_numpy(), clicks, minutes, likes)


def per_viewer(slates: Brought, experiment: Experiment) -> Viewers:
    """Sum up by viewer. Who is left out is decided by how many slates they got, and where: never by what came."""
    users, arms = _codes(slates.users), _codes(slates.arms)
    count = len(slates.users.dictionary)
    exposures = np.bincount(users, minlength=count)
    first_ms, arm = np.full(count, np.iinfo(np.int64).max), np.zeros(count, np.int64)
    np.minimum.at(first_ms, users, slates.times)
    arm[users] = arms
    bot = _bots(slates, experiment)
    crossed = (np.bincount(users, arms != arm[users], count) > 0) & ~bot
    left_out = LeftOut(*(int(n) for who in (bot, crossed) for n in (who.sum(), exposures[who].sum())))
    names = _texts(slates.users)
    kept = np.flatnonzero(~bot & ~crossed)
    kept = kept[np.lexsort((names[kept], first_ms[kept]))]
    fell = _texts(slates.rungs)[_codes(slates.rungs)] != "model" if len(users) else np.zeros(0)
    likes, clicks, minutes, fallbacks = (
        np.bincount(users, what, count)[kept].astype(np.int64)
        for what in (slates.likes, slates.clicks, slates.watch_minutes, fell)
    )
    arm_names = _texts(slates.arms)[arm[kept]] if len(kept) else np.zeros(0, str)
    sums = (exposures[kept], likes, clicks, minutes, fallbacks)
    return Viewers(names[kept], arm_names, first_ms[kept], *sums, left_out)


def per_rung(slates: Brought, experiment: Experiment) -> tuple[Rates, ...]:
    """Click-through rate, watch time and likes of each rung in each arm, in the order of their names."""
    users, arms, rungs = _codes(slates.users), _codes(slates.arms), _codes(slates.rungs)
    kept = ~_bots(slates, experiment)[users]
    kinds = arms * len(slates.rungs.dictionary) + rungs
    found = []
    for kind in np.unique(kinds[kept]).tolist():
        rows = np.flatnonzero(kept & (kinds == kind))
        arm, rung = slates.arms[rows[0]].as_py(), slates.rungs[rows[0]].as_py()
        rates = (float(what[rows].mean()) for what in (slates.clicks > 0, slates.watch_minutes, slates.likes))
        found.append(Rates(arm, rung, len(rows), len(np.unique(users[rows])), *rates))
    return tuple(sorted(found))


def _bots(slates: Brought, experiment: Experiment) -> np.ndarray:
    """(users,) bool: who got more slates on one UTC day than the settings allow a person."""
    day = slates.times // DAY_MS
    days = int(day.max(initial=0)) + 1
    keys, counts = np.unique(_codes(slates.users) * days + day, return_counts=True)
    bots = np.zeros(len(slates.users.dictionary), bool)
    bots[keys[counts > experiment.max_slates_per_user_day] // days] = True
    return bots


def _codes(texts: pa.DictionaryArray) -> np.ndarray:
    return texts.indices.to_numpy().astype(np.int64)


def _texts(texts: pa.DictionaryArray) -> np.ndarray:
    return np.array(texts.dictionary.to_pylist(), dtype=str)


# Counting: rows of the joined acts, which are in the order of time ----------------------------------------------------


def _clicked(acts: Acts) -> np.ndarray:
    """A click of each movie of each slate that was clicked."""
    rows = acts.rows(CLICK)
    _, firsts = np.unique(acts.slate[rows] * (acts.pair.max(initial=0) + 1) + acts.pair[rows], return_index=True)
    return rows[firsts]


def _watched(acts: Acts) -> np.ndarray:
    """The first time that each minute of each pair was watched, in the order of time."""
    rows = acts.rows(WATCH)
    _, firsts = np.unique(acts.pair[rows] * MINUTES + acts.minute[rows], return_index=True)
    return rows[np.sort(firsts)]


def _liked(acts: Acts, watched: np.ndarray, snapshot: Snapshot) -> np.ndarray:
    """For each pair that was liked its last rating or, where it has none, its last watched minute."""
    rated, pair = acts.rows(RATING), acts.pair
    ratings, _ = _last_of_each(rated, pair)
    is_rated = np.zeros(pair.max(initial=0) + 1, bool)
    is_rated[pair[rated]] = True
    watches, minutes = _last_of_each(watched[~is_rated[pair[watched]]], pair)
    shares = (minutes / snapshot.full_watch_minutes).astype(
        np.float32
    )  # above 1 too: only whether it is positive counts
    return np.concatenate([ratings[acts.strength[ratings] >= POSITIVE], watches[shares >= POSITIVE]])


def _last_of_each(rows: np.ndarray, pair: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The last row of each pair, and how many it has."""
    _, from_the_end, counts = np.unique(pair[rows][::-1], return_index=True, return_counts=True)
    return rows[::-1][from_the_end], counts

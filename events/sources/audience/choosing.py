"""What viewers take who choose alone: of what they hear of, by how much it is talked about, what suits their taste."""

from typing import NamedTuple

import numpy as np

from events.sources.audience.acting import DRAWS
from events.sources.audience.chance import draws, salted, uniform
from events.sources.audience.world import Movies, Viewers

HEARD = 256  # movies that a viewer hears of, by how many others meet them
CHOOSY = 1.5  # weight of taste: who chooses alone is choosier than who takes what is at hand
OPEN = 16  # of these, one in so many comes into question on a day, another the next: hardly any is chosen twice


class Choices(NamedTuple):
    """visits: (c,) ascending numbers of the visits at which something was chosen; movies: (c,) rows; appeal: (c,) of
    each to its viewer; luck: (c, DRAWS) numbers in [0, 1) for what they do with it."""

    visits: np.ndarray
    movies: np.ndarray
    appeal: np.ndarray
    luck: np.ndarray


class Crowd(NamedTuple):
    """Who comes on a day, and what there is. weights: (m,) how many meet each movie; seen: keys of pairs, ascending;
    tastes: (n, f) of the viewers in `rows`; moments: (n,) ms at which they come."""

    movies: Movies
    viewers: Viewers
    seen: np.ndarray
    weights: np.ndarray
    day: int
    rows: np.ndarray
    moments: np.ndarray
    tastes: np.ndarray


def choose(crowd: Crowd) -> Choices:
    """One movie for each visit, in proportion to e^(choosy x appeal) of what is in question (Gumbel's trick)."""
    keys, moments = crowd.viewers.keys[crowd.rows], crowd.moments.astype(np.uint64)
    luck = draws(keys, moments, HEARD + DRAWS)
    visits, places, movies = _in_question(crowd, keys, luck[:, :HEARD])
    appeal = np.einsum("nf,nf->n", crowd.tastes[visits], crowd.movies.features[movies])
    noise = uniform(salted(keys[visits], moments[visits], places.astype(np.uint64)))
    best = np.lexsort((CHOOSY * appeal - np.log(-np.log(noise + 1e-12)), visits))
    best = best[np.flatnonzero(np.diff(visits[best], append=-1))]
    return Choices(visits[best], movies[best], appeal[best], luck[visits[best], HEARD:])


def _in_question(crowd: Crowd, keys: np.ndarray, luck: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Visit, place among what was heard of, and movie: of all that may be chosen today."""
    bounds = np.cumsum(crowd.weights)
    movies = np.searchsorted(bounds, luck * bounds[-1], side="right").clip(max=len(bounds) - 1)
    pairs = salted(keys[:, None], crowd.movies.keys[movies])
    visits, places = np.nonzero((pairs + np.uint64(crowd.day)) % np.uint64(OPEN) == 0)
    new = ~_among(pairs[visits, places], crowd.seen)
    visits, places = visits[new], places[new]
    return visits, places, movies[visits, places]


def _among(pairs: np.ndarray, seen: np.ndarray) -> np.ndarray:
    if not len(seen):
        return np.zeros(pairs.shape, bool)
    return seen[np.searchsorted(seen, pairs).clip(max=len(seen) - 1)] == pairs

"""What an audience is made of: movies and viewers as arrays, and how they change from day to day.

A day is a whole number of days since 1970 (UTC). A feature is a genre or a latent factor within genres: movie j appeals
to viewer u by `features[j] @ tastes[u]`, in logits, with mean 0 over the viewers, so that what everyone likes is in the
movie's weight alone. Newcomers resemble somebody who was there from the beginning, a little changed.
"""

import math
from dataclasses import dataclass, fields, replace
from datetime import date
from typing import TypeVar

import numpy as np

from conf.sections.audience import AudienceConf
from events.sources.audience.chance import generator, keys_of

DAY_MS = 86_400_000
EPOCH = date(1970, 1, 1).toordinal()
SLOTS = 3  # the most visits of a viewer in a day
PARETO = 1.3  # exponent of the tail of new movies' popularity: a few hits, many that nobody meets
HIT = 50.0  # the largest of them, in means
DONOR_SHARE = 0.8  # of a newcomer's taste that is a known viewer's; the rest is their own
LIKE_OF_TASTE = 0.6  # logits of a liking for each logit of taste
SHOCK_DAYS = 14  # how long a movie that became news by accident is remembered


@dataclass(frozen=True, eq=False)
class Movies:
    """ids, titles: (m,) str; genres: (m,) tuples; keys: (m,) uint64; features: (m, f) float32.

    quality: (m,) logits of a liking above the usual one; released: (m,) days; hot, steady: (m,) how many meet the
    movie in a day, by news, which fade from `released` on, and as long as it exists.
    """

    ids: np.ndarray
    titles: np.ndarray
    genres: np.ndarray
    keys: np.ndarray
    features: np.ndarray
    quality: np.ndarray
    released: np.ndarray
    hot: np.ndarray
    steady: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def weights(self, day: int, half_life_days: float) -> np.ndarray:
        """(m,) how many viewers meet each movie that day; 0 before its release."""
        age = day - self.released
        return np.where(age < 0, 0.0, self.steady + self.hot * np.exp2(-np.maximum(age, 0) / half_life_days))


@dataclass(frozen=True, eq=False)
class Viewers:
    """ids: (n,) str; keys: (n,) uint64; tastes: (n, f) float32; generosity: (n,) logits of a liking.

    rate: (n,) visits a day; arrives, leaves: (n,) days, the first included and the last not.
    """

    ids: np.ndarray
    keys: np.ndarray
    tastes: np.ndarray
    generosity: np.ndarray
    rate: np.ndarray
    arrives: np.ndarray
    leaves: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Rhythm:
    """hours: (24,) shares of a day's visits; weekdays: (7,) factors with mean 1, Monday first; yearly: amplitude."""

    hours: np.ndarray
    weekdays: np.ndarray
    yearly: float = 0.0

    def factor(self, day: int) -> float:
        """How busy a day is, 1 on average; the year's peak is at its turn."""
        year = 1.0 + self.yearly * math.cos(2 * math.pi * ((day + 10) % 365.25) / 365.25)
        return float(self.weekdays[(day + 3) % 7]) * year

    def moments(self, draws: np.ndarray) -> np.ndarray:
        """Time of day in ms of uniform draws, int64."""
        bounds = np.concatenate([[0.0], np.cumsum(self.hours)])
        return (np.interp(draws * bounds[-1], bounds, np.arange(25)) / 24 * (DAY_MS - 1)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Habits:
    """Shares of what viewers choose by themselves that they are seen to watch, and that they rate."""

    watched: float = 1.0
    rated: float = 0.7


@dataclass(frozen=True, eq=False)
class World:
    """Everything known on the first day. arrivals: viewers a day; premieres: movies a day; heat: their mean `hot`.

    like: logits of a liking of a usual movie by a usual viewer; seen: (p,) uint64 ascending, keys of the pairs of
    viewer and movie that the history holds already.
    """

    seed: int
    first_day: int
    begins_ms: int  # nothing happens before
    genre_names: tuple[str, ...]
    movies: Movies
    viewers: Viewers
    rhythm: Rhythm
    habits: Habits
    half_life_days: float
    arrivals: float
    newcomer_rate: float
    premieres: float
    heat: float
    like: float
    seen: np.ndarray

    def newcomers(self, day: int, conf: AudienceConf) -> Viewers:
        """The viewers who arrive that day."""
        rng, known = generator(self.seed, "viewers", day), self.viewers
        count = int(rng.poisson(self.arrivals))
        ids = np.array([f"s{day}-{n}" for n in range(count)], np.str_)
        one, other = rng.integers(len(known), size=(2, count))
        own = np.sqrt(1 - DONOR_SHARE**2)
        rates = self.newcomer_rate * rng.lognormal(-0.5, 1.0, count)
        return Viewers(
            ids=ids,
            keys=keys_of(self.seed, "viewer", ids.tolist()),
            tastes=DONOR_SHARE * known.tastes[one] + own * known.tastes[other],
            generosity=known.generosity[one],
            rate=np.minimum(rates, SLOTS),
            arrives=np.full(count, day),
            leaves=day + 1 + rng.exponential(conf.lifetime_days, count),
        )

    def new_movies(self, day: int) -> Movies:
        """The movies that come out that day."""
        rng, known = generator(self.seed, "movies", day), self.movies
        count = int(rng.poisson(self.premieres)) if len(known) else 0
        like = rng.integers(max(len(known), 1), size=count)
        factors = known.features[like].copy()
        factors[:, len(self.genre_names) :] *= rng.choice(np.array([-1, 1], np.float32), (count, 1))
        draws = np.minimum((1 - rng.random(count)) ** (-1 / PARETO) * (PARETO - 1) / PARETO, HIT)
        ids = np.array([f"sim{day}-{n}" for n in range(count)], np.str_)
        return Movies(
            ids=ids,
            titles=np.array([_title(known.genres[j], day, n) for n, j in enumerate(like.tolist())], np.str_),
            genres=known.genres[like],
            keys=keys_of(self.seed, "movie", ids.tolist()),
            features=factors,
            quality=known.quality[rng.integers(max(len(known), 1), size=count)],
            released=np.full(count, day),
            hot=self.heat * draws,
            steady=self.heat * draws * 0.02,
        )

    def shock(self, day: int, conf: AudienceConf) -> int | None:
        """The movie that becomes news on that day for no reason of its own; None on most days."""
        rng = generator(self.seed, "shock", day)
        if rng.random() >= conf.shocks_per_month / 30 or not len(self.movies):
            return None
        return int(rng.integers(len(self.movies)))


Rows = TypeVar("Rows", Movies, Viewers)


def joined(*parts: Rows) -> Rows:
    """All rows of the parts, one after the other."""
    first = parts[0]
    names = [field.name for field in fields(first)]
    return replace(first, **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _title(genres: tuple[str, ...], day: int, number: int) -> str:
    when = date.fromordinal(EPOCH + day)
    return f"Simulated {genres[0] if genres else 'Movie'} {when:%j}-{number + 1} ({when.year})"


def standardised(movies: Movies, viewers: Viewers, part: slice, spread: float, rng: np.random.Generator) -> Viewers:
    """The viewers with tastes for these features centred, and scaled to that spread over pairs that meet."""
    chance = viewers.rate / viewers.rate.sum()
    tastes = viewers.tastes.copy()
    tastes[:, part] -= chance @ tastes[:, part]
    met = movies.hot + movies.steady
    sample = rng.choice(len(viewers), 4000, p=chance), rng.choice(len(movies), 4000, p=met / met.sum())
    found = np.einsum("nf,nf->n", tastes[sample[0], part], movies.features[sample[1], part]).std()
    tastes[:, part] *= spread / max(float(found), 1e-6)
    return replace(viewers, tastes=tastes)

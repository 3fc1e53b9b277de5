"""A world from nothing: kinds of viewers, each with its mixture of genres; movies with a tail of popularity.

A viewer's preferences are Dirichlet around those of their kind (as in Blei, Ng and Jordan 2003, with genres for
topics); within genres, latent factors near the kind's own say who likes what. How many meet a movie falls with its rank
as in Zipf's law, and with its age since its release.
"""

import numpy as np

from conf.sections.audience import AudienceConf
from events.sources.audience.chance import generator, keys_of
from events.sources.audience.world import EPOCH, SLOTS, Habits, Movies, Rhythm, Viewers, World, standardised

GENRES = (
    *("Drama", "Comedy", "Thriller", "Action", "Romance", "Crime", "Adventure", "Horror", "Sci-Fi", "Fantasy"),
    *("Family", "Mystery", "Documentary", "Animation", "War", "Music", "Western", "Film-Noir"),
)
KINDS = 8  # of viewers
CONCENTRATION = 12.0  # of a viewer's preferences around those of their kind
FACTORS = 6
OWN_FACTORS = 0.6  # spread of a viewer's latent factors around their kind's, which have spread 1
ZIPF = 0.9
STEADY = 0.05  # of a movie's first popularity that never fades
HOURS = (  # shares of a day's visits by hour: evenings, and few at night
    *(3.0, 2.0, 1.2, 0.8, 0.5, 0.5, 0.8, 1.4, 2.0, 2.4, 2.8, 3.2),
    *(3.8, 3.8, 3.6, 3.8, 4.4, 5.4, 7.0, 9.0, 10.5, 10.0, 8.0, 5.0),
)
WEEKDAYS = (0.85, 0.83, 0.88, 0.92, 1.10, 1.25, 1.17)  # Monday first


def world(conf: AudienceConf, seed: int) -> World:
    """A world of the sizes in `conf` on its first day. The same seed and sizes give the same world."""
    day = conf.start.toordinal() - EPOCH
    rng = generator(seed, "fresh")
    base = 1.0 / np.arange(1, len(GENRES) + 1) ** 0.7
    movies = _movies(conf, seed, day, base / base.sum(), rng)
    viewers = _viewers(conf, seed, day, base / base.sum(), rng)
    genres, factors = slice(0, len(GENRES)), slice(len(GENRES), None)
    viewers = standardised(movies, viewers, genres, conf.genre_weight, rng)
    viewers = standardised(movies, viewers, factors, conf.factor_weight, rng)
    arrivals = conf.viewers / conf.lifetime_days
    met = movies.weights(day, conf.half_life_days) - movies.steady
    return World(
        seed=seed,
        first_day=day,
        begins_ms=0,
        genre_names=GENRES,
        movies=movies,
        viewers=viewers,
        rhythm=Rhythm(np.array(HOURS), np.array(WEEKDAYS) * 7 / sum(WEEKDAYS), conf.yearly),
        habits=Habits(watched=1.0, rated=conf.rating_share),
        half_life_days=conf.half_life_days,
        arrivals=arrivals,
        newcomer_rate=max(conf.visits_per_day - 1 / conf.lifetime_days, 0.01),
        premieres=conf.premieres_per_day,
        heat=float(met.sum()) * np.log(2) / conf.half_life_days / conf.premieres_per_day,
        like=-0.3,
        seen=np.zeros(0, np.uint64),
    )


def _movies(conf: AudienceConf, seed: int, day: int, base: np.ndarray, rng: np.random.Generator) -> Movies:
    """The catalogue of the first day, released one after the other, at the rate at which it goes on."""
    count = conf.movies
    age = ((np.arange(count)[::-1] + rng.random(count)) / conf.premieres_per_day).astype(int)
    popular = (1.0 + rng.permutation(count)) ** -ZIPF
    features = np.zeros((count, len(GENRES) + FACTORS), np.float32)
    named = np.empty(count, object)
    for row, size in enumerate(rng.choice([1, 2, 3], count, p=[0.4, 0.4, 0.2]).tolist()):
        chosen = rng.choice(len(GENRES), size, replace=False, p=base)
        features[row, chosen] = 1.0 / size
        named[row] = tuple(GENRES[g] for g in chosen.tolist())
    features[:, len(GENRES) :] = rng.standard_normal((count, FACTORS))
    ids = np.array([f"sim-{n:05}" for n in range(count)], np.str_)
    year = conf.start.year
    titles = [f"Simulated {named[n][0]} {n} ({max(1900, year - int(age[n]) // 365)})" for n in range(count)]
    return Movies(
        ids=ids,
        titles=np.array(titles, np.str_),
        genres=named,
        keys=keys_of(seed, "movie", ids.tolist()),
        features=features,
        quality=rng.normal(0.0, 0.6, count),
        released=day - 1 - age,
        hot=popular,
        steady=STEADY * popular,
    )


def _viewers(conf: AudienceConf, seed: int, day: int, base: np.ndarray, rng: np.random.Generator) -> Viewers:
    count = conf.viewers
    kinds = rng.dirichlet(base * 6.0 + 0.05, KINDS)
    kind = rng.integers(KINDS, size=count)
    shares = np.stack([rng.dirichlet(kinds[k] * CONCENTRATION + 0.02) for k in kind.tolist()])
    genres = np.clip(np.log((shares + 0.02) / (base + 0.02)), -3, 3)
    factors = rng.standard_normal((KINDS, FACTORS))[kind] + OWN_FACTORS * rng.standard_normal((count, FACTORS))
    ids = np.array([f"viewer-{n:05}" for n in range(count)], np.str_)
    rates = rng.lognormal(-0.5, 1.0, count)
    return Viewers(
        ids=ids,
        keys=keys_of(seed, "viewer", ids.tolist()),
        tastes=np.concatenate([genres, factors], axis=1).astype(np.float32),
        generosity=rng.normal(0.0, 0.7, count),
        rate=np.minimum(conf.visits_per_day * rates / rates.mean(), SLOTS),
        arrives=np.full(count, day - 1),
        leaves=day + 1 + rng.exponential(conf.lifetime_days, count),
    )

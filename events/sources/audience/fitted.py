"""A world fitted to a history: whose viewers like what they were seen to like, and who go on from its last day.

What the history tells of a viewer or a movie is mixed with somebody it tells much of, the more so the less it tells:
a viewer with two acts has a whole taste too. Latent factors are a truncated SVD of the normalised matrix of who met
what (as in Sarwar et al. 2000, with the normalisation of Dhillon 2001), so that models which learn who goes together
with whom find in the audience what they found in its history.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import svds

from conf.sections.audience import AudienceConf
from events.event import POSITIVE, Movie
from events.sources.audience.chance import generator, keys_of, salted
from events.sources.audience.choosing import Crowd, choose
from events.sources.audience.fresh import HOURS, WEEKDAYS
from events.sources.audience.world import (
    DAY_MS,
    LIKE_OF_TASTE,
    SLOTS,
    Habits,
    Movies,
    Rhythm,
    Viewers,
    World,
    standardised,
)
from events.state import Act

FACTORS = 12
VIEWER_ACTS, MOVIE_ACTS = 8.0, 15.0  # with as many, half of what is known of one is their own
WIDEST = 3.0  # of a movie's latent factor, in spreads
MOST = 2.0  # of a viewer's taste for a genre, as a log ratio, before it is scaled
RATE_ACTS = 10.0  # usual likings mixed into the share of a movie or a viewer
NEWS_DAYS = 7.0  # half-life of the counts that say what is news now
RECENT_DAYS = 28.0  # over which the pace of the history is measured
DORMANT = 0.1  # of the pace that goes by all acts of a viewer rather than by recent ones: some come back
STEADY = 0.5  # of what older movies got: the rest was news then
TRIED, TRIED_DAYS = 4000, 8  # choices that are tried, and on how many days
UNKNOWN = 0.02  # acts a day, together, of all movies nobody acted on


@dataclass(frozen=True, eq=False)
class History:
    """One row per pair of viewer and movie, by time of its last act: users, items (n,) int codes, days (n,) float,
    strengths (n,) float, NaN where it has no rating."""

    user_ids: list[str]
    movies: list[Movie]
    users: np.ndarray
    items: np.ndarray
    days: np.ndarray
    strengths: np.ndarray
    watched: float  # share of the pairs
    last_ms: int


def read(movies: Sequence[Movie], acts: Iterable[Act]) -> History:
    """The pairs of a history. Catalogue lines may be among the acts too; a movie without one has no title or genres."""
    known = {movie.movie_id: movie for movie in movies}
    users: dict[str, int] = {}
    items = {movie_id: code for code, movie_id in enumerate(known)}
    pairs: dict[tuple[int, int], tuple[int, float]] = {}
    watched: set[tuple[int, int]] = set()
    for act in acts:
        if act.kind == "movie":
            known[act.movie_id] = _line(act)
            items.setdefault(act.movie_id, len(items))
        if act.kind in ("account", "movie"):
            continue
        pair = users.setdefault(act.user_id, len(users)), items.setdefault(act.movie_id, len(items))
        when, strength = pairs.get(pair, (0, np.nan))
        pairs[pair] = max(when, act.ts), act.value if act.kind == "rating" and act.ts >= when else strength
        if act.kind == "watch":
            watched.add(pair)
    lines = [known.get(name) or Movie(event_id=name, movie_id=name) for name in items]
    rows = np.array([(*pair, when) for pair, (when, _) in pairs.items()], np.int64).reshape(-1, 3)
    strengths = np.array([strength for _, strength in pairs.values()])
    order = np.argsort(rows[:, 2], kind="stable")
    last = int(rows[:, 2].max(initial=0))
    parts = rows[order, 0], rows[order, 1], rows[order, 2] / DAY_MS, strengths[order]
    return History(list(users), lines, *parts, len(watched) / max(len(pairs), 1), last)


def _line(act: Act) -> Movie:
    return Movie(event_id=act.movie_id, movie_id=act.movie_id, title=act.title, genres=act.genres)


def world(history: History, conf: AudienceConf, seed: int) -> World:
    """The world that a history leads to. Needs at least one viewer's act."""
    first_day = (history.last_ms + DAY_MS // 2) // DAY_MS  # the last day goes on where most of it is left
    rng = generator(seed, "fitted", history.last_ms)
    names = tuple(dict.fromkeys(name for movie in history.movies for name in movie.genres))
    genres, factors = _genre_shares(history.movies, names), _item_factors(history, rng)
    movies = _movies(history, seed, first_day, np.concatenate([genres, factors], axis=1))
    daily, newcomers = _pace(history, conf)
    viewers = _viewers(history, movies, len(names), seed, first_day, daily, conf, rng)
    viewers = standardised(movies, viewers, slice(0, len(names)), conf.genre_weight, rng)
    viewers = standardised(movies, viewers, slice(len(names), None), conf.factor_weight, rng)
    rated = np.isfinite(history.strengths)
    news, half_life = float(movies.hot.sum()), conf.half_life_days
    found = World(
        seed=seed,
        first_day=first_day,
        begins_ms=max(history.last_ms + 1, first_day * DAY_MS),
        genre_names=names,
        movies=movies,
        viewers=viewers,
        rhythm=_rhythm(history, conf),
        habits=Habits(history.watched, float(rated.mean())),
        half_life_days=half_life,
        arrivals=newcomers,
        newcomer_rate=max(daily / newcomers - 1, 0.1) / conf.lifetime_days,
        premieres=conf.premieres_per_day,
        heat=news * np.log(2) / half_life / conf.premieres_per_day,
        like=0.0,
        seen=np.unique(salted(viewers.keys[history.users], movies.keys[history.items])),
    )
    return replace(found, like=_usual_liking(found, history, rng))


def _genre_shares(movies: Sequence[Movie], names: tuple[str, ...]) -> np.ndarray:
    """(movies, genres) float32: 1 / number of genres for each genre of a movie."""
    place = {name: column for column, name in enumerate(names)}
    shares = np.zeros((len(movies), len(names)), np.float32)
    for row, movie in enumerate(movies):
        for name in movie.genres:
            shares[row, place[name]] = 1.0 / len(movie.genres)
    return shares


def _item_factors(history: History, rng: np.random.Generator) -> np.ndarray:
    """(movies, factors) float32 with spread 1 over acts; of a movie with few acts mostly those of another movie.

    Only viewers and movies with some acts take part, and their counts are raised: else a factor would be about a
    handful of movies that three viewers share (Qin and Rohe 2013).
    """
    shape = len(history.user_ids), len(history.movies)
    matrix = csr_array((np.ones(len(history.users)), (history.users, history.items)), shape=shape)
    acts = matrix.sum(axis=0)
    busy, met = matrix.sum(axis=1) >= VIEWER_ACTS, acts >= MOVIE_ACTS
    count = min(FACTORS, int(busy.sum()) - 2, int(met.sum()) - 2)
    if count < 1:
        return np.zeros((shape[1], 0), np.float32)
    part = matrix[busy][:, met]
    rows, columns = part.sum(axis=1), part.sum(axis=0)
    raised = rows + rows.mean(), columns + columns.mean()
    scaled = diags_array(raised[0] ** -0.5) @ part @ diags_array(raised[1] ** -0.5)
    start = np.ones(min(part.shape))
    right = svds(scaled.tocsr(), k=count + 1, v0=start, random_state=0)[2][:-1].T  # without the first: popularity
    found = right / np.sqrt(raised[1])[:, None]
    for _ in range(3):  # what is left of outliers is cut off, and the spread is 1 again
        found -= columns @ found / columns.sum()
        found = np.clip(found / (np.sqrt(columns @ found**2 / columns.sum()) + 1e-12), -WIDEST, WIDEST)
    factors = np.zeros((shape[1], count))
    factors[met] = found
    return _mixed_with_known(factors, acts, MOVIE_ACTS, rng).astype(np.float32)


def _mixed_with_known(own: np.ndarray, acts: np.ndarray, half: float, rng: np.random.Generator) -> np.ndarray:
    """Rows of `own`, mixed with a row drawn among those known well, by how many acts speak for each."""
    known = np.flatnonzero(acts >= min(2 * half, acts.max()))
    share = (acts / (acts + half))[:, None]
    return np.sqrt(share) * own + np.sqrt(1 - share) * own[rng.choice(known, len(own))]


def _movies(history: History, seed: int, day: int, features: np.ndarray) -> Movies:
    age = day - history.days
    counts = len(history.movies)
    news = np.bincount(history.items, weights=np.exp2(-age / NEWS_DAYS), minlength=counts) * np.log(2) / NEWS_DAYS
    older = age > RECENT_DAYS
    span = max(float(age.max()) - RECENT_DAYS, RECENT_DAYS)
    steady = STEADY * np.bincount(history.items[older], minlength=counts) / span + UNKNOWN / counts
    genres = np.empty(counts, object)
    genres[:] = [movie.genres for movie in history.movies]
    ids = [movie.movie_id for movie in history.movies]
    return Movies(
        ids=np.array(ids, np.str_),
        titles=np.array([movie.title for movie in history.movies], np.str_),
        genres=genres,
        keys=keys_of(seed, "movie", ids),
        features=features,
        quality=_logit(_share_liked(history.items, history.strengths, counts)),
        released=np.full(counts, day - 1),
        hot=news,
        steady=steady,
    )


def _share_liked(codes: np.ndarray, strengths: np.ndarray, count: int) -> np.ndarray:
    """(count,) share of liked among rated, relative to the usual odds: 1/2 is usual."""
    rated = np.isfinite(strengths)
    liked = strengths[rated] >= POSITIVE
    usual = (liked.sum() + 1) / (len(liked) + 2)
    sums = np.bincount(codes[rated], weights=liked, minlength=count)
    share = (sums + RATE_ACTS * usual) / (np.bincount(codes[rated], minlength=count) + RATE_ACTS)
    odds = share / (1 - share) / (usual / (1 - usual))
    return odds / (1 + odds)


def _logit(share: np.ndarray) -> np.ndarray:
    return np.log(share / (1 - share))


def _pace(history: History, conf: AudienceConf) -> tuple[float, float]:
    """Acts and new viewers a day: as of late, or as set."""
    end = float(history.days.max())
    span = min(RECENT_DAYS, max(end - float(history.days.min()), 1.0))
    first = np.full(len(history.user_ids), np.inf)
    np.minimum.at(first, history.users, history.days)
    daily = float((history.days > end - span).sum()) / span
    newcomers = float((first > end - span).sum()) / span
    if conf.fitted_visits:
        daily, newcomers = conf.fitted_visits, newcomers * conf.fitted_visits / daily
    return daily, min(max(newcomers, daily / 200), daily / 1.5)


def _viewers(
    history: History,
    movies: Movies,
    genre_count: int,
    seed: int,
    day: int,
    daily: float,
    conf: AudienceConf,
    rng: np.random.Generator,
) -> Viewers:
    count = len(history.user_ids)
    acts = np.bincount(history.users, minlength=count)
    recent = np.bincount(history.users, np.exp2((history.days - day) / RECENT_DAYS), minlength=count)
    return Viewers(
        ids=np.array(history.user_ids, np.str_),
        keys=keys_of(seed, "viewer", history.user_ids),
        tastes=_mixed_with_known(_tastes(history, movies, genre_count), acts, VIEWER_ACTS, rng).astype(np.float32),
        generosity=_logit(_share_liked(history.users, history.strengths, count)),
        rate=_rates(recent + DORMANT * acts * recent.sum() / acts.sum(), daily),
        arrives=np.full(count, day - 1),
        leaves=day + 1 + rng.exponential(conf.lifetime_days, count),
    )


def _tastes(history: History, movies: Movies, genre_count: int) -> np.ndarray:
    """(viewers, features): log ratio of genre shares to the usual ones, then the mean of latent factors."""
    count = len(history.user_ids)
    pairs = (np.ones(len(history.users), np.float32), (history.users, history.items))
    sums = csr_array(pairs, shape=(count, len(movies))) @ movies.features
    base = sums[:, :genre_count].sum(axis=0) / max(len(history.users), 1)
    smoothed = (sums[:, :genre_count] + 5.0 * base) / (sums[:, :genre_count].sum(axis=1, keepdims=True) + 5.0)
    acts = np.bincount(history.users, minlength=count)[:, None]
    means = sums[:, genre_count:] / (acts + VIEWER_ACTS)
    ratios = np.log(smoothed / np.maximum(base, 1e-9) + 0.05)  # of a rare genre, one act says a lot: too much
    return np.concatenate([np.clip(ratios, -MOST, MOST), means], axis=1)


def _rates(recent: np.ndarray, daily: float) -> np.ndarray:
    """(viewers,) visits a day in proportion to recent acts, such that they come `daily` times together."""
    rates = recent * daily / recent.sum()
    for _ in range(20):  # slots are used once at most, so the busiest come less often than their rate says
        expected = SLOTS * -np.expm1(-rates / SLOTS)
        rates = np.minimum(rates * daily / expected.sum(), 10 * SLOTS)
    return rates


def _rhythm(history: History, conf: AudienceConf) -> Rhythm:
    """Hours and weekdays of the history, smoothed by the usual ones."""
    hours = np.bincount((history.days % 1 * 24).astype(int), minlength=24) + np.array(HOURS)
    days = history.days.astype(int)
    span = np.arange(days.min(), days.max() + 1)
    seen = np.bincount((days + 3) % 7, minlength=7) / np.maximum(np.bincount((span + 3) % 7, minlength=7), 1)
    usual = np.array(WEEKDAYS) / np.mean(WEEKDAYS)
    weight = min(len(span) / 28, 1.0)
    weekdays = weight * seen / max(seen.mean(), 1e-9) + (1 - weight) * usual
    return Rhythm(hours / hours.sum(), weekdays / weekdays.mean(), conf.yearly)


def _usual_liking(world: World, history: History, rng: np.random.Generator) -> float:
    """Logits such that what viewers choose is liked as often as it was."""
    liked = history.strengths[np.isfinite(history.strengths)] >= POSITIVE
    usual = (liked.sum() + 1) / (len(liked) + 2)
    viewers, movies = world.viewers, world.movies
    found = []
    for day in range(world.first_day, world.first_day + TRIED_DAYS):
        rows = rng.choice(len(viewers), TRIED // TRIED_DAYS, p=viewers.rate / viewers.rate.sum())
        times = np.arange(len(rows)) + day * DAY_MS
        weights = movies.weights(day, world.half_life_days)
        chosen = choose(Crowd(movies, viewers, world.seen, weights, day, rows, times, viewers.tastes[rows]))
        person = viewers.generosity[rows[chosen.visits]] + LIKE_OF_TASTE * chosen.appeal
        found.append(person + movies.quality[chosen.movies])
    logits, low, high = np.concatenate([*found, np.zeros(1)]), -20.0, 20.0  # and a usual one, if all is seen already
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if (1 / (1 + np.exp(-middle - logits))).mean() > usual else (middle, high)
    return low

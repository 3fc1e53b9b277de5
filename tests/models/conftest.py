"""Small histories with known answers."""

from collections.abc import Callable

import numpy as np
import pytest

from models.interactions import DAY_MS, Catalogue, Interactions

Make = Callable[..., Interactions]


def _catalogue(movies: int) -> Catalogue:
    ids = np.array([f"m{number}" for number in range(movies)], dtype=str)
    genres = np.stack([np.arange(movies) % 2 == 0, np.arange(movies) % 2 == 1], axis=1)
    return Catalogue(ids, np.array([f"Movie {i}" for i in ids], dtype=str), genres, ("Even", "Odd"))


def make_history(
    users: np.ndarray,
    items: np.ndarray,
    *,
    viewers: int,
    movies: int,
    days: int = 100,
    times: np.ndarray | None = None,
    strengths: np.ndarray | None = None,
    seed: int = 0,
) -> Interactions:
    """Interactions of these pairs, spread over the days at random or at the given times."""
    n = len(users)
    when = np.random.default_rng(seed).integers(0, days * DAY_MS, n) if times is None else np.asarray(times)
    order = np.argsort(when, kind="stable")
    return Interactions(
        users=np.asarray(users, np.int32)[order],
        items=np.asarray(items, np.int32)[order],
        times=when.astype(np.int64)[order],
        strengths=(np.ones(n) if strengths is None else np.asarray(strengths)).astype(np.float32)[order],
        user_ids=np.array([f"u{number}" for number in range(viewers)], dtype=str),
        catalogue=_catalogue(movies),
        end_ms=days * DAY_MS,
    )


@pytest.fixture(scope="session")
def history_of() -> Make:
    return make_history


@pytest.fixture(scope="session")
def checkerboard() -> Interactions:
    """50 viewers x 50 movies: viewer u likes the movies of u's parity, but for one, movie u, which is left to find."""
    users, items = np.divmod(np.arange(2500), 50)
    keep = ((users + items) % 2 == 0) & (users != items)
    return make_history(users[keep], items[keep], viewers=50, movies=50, seed=1)


@pytest.fixture(scope="session")
def audience() -> Interactions:
    """400 viewers over 120 days with tastes by genre, new movies coming in, and ratings of all strengths."""
    rng = np.random.default_rng(7)
    n, movies, days = 12_000, 200, 120
    times = np.sort(rng.integers(0, days * DAY_MS, n))
    users = rng.integers(0, 400, n)
    age = rng.exponential(15.0, n)
    items = np.clip((times / DAY_MS - age) / days * movies, 0, movies - 1).astype(np.int64)
    items = np.where((items + users) % 2 == 0, items, np.where(rng.random(n) < 0.7, np.maximum(items - 1, 0), items))
    strengths = np.where((items + users) % 2 == 0, 0.9, 0.5)
    _, first = np.unique(users * movies + items, return_index=True)
    return make_history(
        users[first],
        items[first],
        viewers=400,
        movies=movies,
        days=days,
        times=times[first],
        strengths=strengths[first],
    )

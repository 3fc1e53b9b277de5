"""Feature statistics of a snapshot, kept beside it: what the `inputs` gate judges, and later drift compares with."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def statistics_of(
    rows: pa.Table, users: pa.Table, movies: pa.Table, *, events: int, unreadable: int, offset: int
) -> dict[str, Any]:
    """Statistics of interactions, users and movies as plain values; shares are of 1, times in ms, hours in UTC.

    events and unreadable: how many records of the history could be read, catalogue included, and how many not.
    offset: of the log: the history holds everything that was stored up to there.
    """
    user, item, time, strength = (rows[name].to_numpy() for name in ("user", "item", "time", "strength"))
    pairs = user.astype(np.int64) * len(movies) + item
    repeated = (np.diff(time) == 0) & (np.diff(pairs) == 0)  # rows are by time, user and item
    return {
        "interactions": len(rows),
        "users": len(users),
        "movies": len(movies),
        "movies_seen": len(np.unique(item)),
        "pairs": len(np.unique(pairs)),
        "same_moment": int(repeated.sum()),  # of one user, movie and time: the same thing told twice
        "events": events,
        "unreadable": unreadable,
        "offset": offset,
        "start_ms": int(time.min()),
        "newest_ms": int(time.max()),
        "end_ms": int(time.max()) + 1,
        "schema": {
            name: str(table.schema.field(name).type) for table in (rows, users, movies) for name in table.schema.names
        },
        "missing": {
            "title": _share(pc.equal(movies["title"], "").to_numpy()),
            "genres": _share(pc.equal(pc.list_value_length(movies["genres"]), 0).to_numpy()),
            "either": _share(_without_title_or_genre(movies)),
            "strength": _share(~np.isfinite(strength)),
        },
        "strength": {"quantiles": _quantiles(strength), "histogram": _histogram(strength)},
        "per_user": {"quantiles": _quantiles(np.bincount(user, minlength=len(users)))},
        "per_movie": {"quantiles": _quantiles(np.bincount(item, minlength=len(movies)))},
        "genres": _genre_shares(movies, item),
        "hours": np.bincount(time // HOUR_MS % 24, minlength=24).tolist(),
        "days": int(np.ptp(time) // DAY_MS + 1),
    }


def _share(flags: np.ndarray) -> float:
    return float(flags.mean()) if len(flags) else 0.0


def _without_title_or_genre(movies: pa.Table) -> np.ndarray:
    no_title, no_genre = pc.equal(movies["title"], ""), pc.equal(pc.list_value_length(movies["genres"]), 0)
    return pc.or_(no_title, no_genre).to_numpy()


def _quantiles(values: np.ndarray) -> dict[str, float]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {}
    return {f"{q:g}": float(v) for q, v in zip(QUANTILES, np.quantile(finite, QUANTILES), strict=True)}


def _histogram(strength: np.ndarray) -> list[int]:
    """Interactions by strength in twenty bins of 0.05, the last one closed."""
    counts, _ = np.histogram(strength[np.isfinite(strength)], bins=20, range=(0, 1))
    return counts.tolist()


def _genre_shares(movies: pa.Table, items: np.ndarray) -> dict[str, float]:
    """Share of the interactions whose movie has the genre, by genre."""
    weights = np.bincount(items, minlength=len(movies))
    genres = movies["genres"].combine_chunks()
    flat = genres.flatten().dictionary_encode()
    counts = np.bincount(
        flat.indices.to_numpy(),
        weights=weights[pc.list_parent_indices(genres).to_numpy()],
        minlength=len(flat.dictionary),
    )
    return dict(sorted(zip(flat.dictionary.to_pylist(), (counts / len(items)).tolist(), strict=True)))

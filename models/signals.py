"""What a viewer's history says about movies beyond what everyone's says: three signals, centred per movie.

1. ease: EASE's score on the history, decayed; less its mean over active viewers, over its spread.
2. genre: mean over the movie's genres of log(the viewer's smoothed share of the genre / everyone's), centred.
3. share: the movie's share of the recent events of viewers with similar histories, smoothed, centred; and the same
   over its spread. Similarity is linear in the viewer's history, so it folds into one item-to-item matrix.

A popular movie has a high score for everybody. Centring removes that, so that what is left tells viewers apart.
Movies newer than the fit have the genre signal alone. Tried for them, on windows before the test window, and left out
since NDCG@10 by the day fell by 0.0001 to 0.0017: how much a viewer's past movies trend times how much the movie does;
and the same with popularity.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array, diags_array

from models.ease import item_weights, most_popular
from models.interactions import (
    DAY_MS,
    Catalogue,
    Histories,
    Interactions,
    decay,
    histories_of,
    live_counts,
    weighted_sums,
)

NAMES = ("ease", "genre", "share", "share_scaled")
ACTIVE_DAYS = 60  # viewers seen in so many days say what is usual
REFERENCE = 3000  # at most so many of them
PRIOR_EVENTS = 3.0  # weight of everyone's shares (of genres, of movies) in a viewer's own


@dataclass(frozen=True)
class SignalsConfig:
    max_items: int = 2500  # history side: most popular of `popular_half_life_days`
    max_columns: int = 800  # scored side: the most popular of the last weeks, where tomorrow's hot movies are
    popular_half_life_days: float = 90.0
    column_half_life_days: float = 28.0
    l2: float = 200.0  # of EASE
    history_half_life_days: float = 60.0  # how fast a viewer's past fades
    event_half_life_days: float = 14.0  # how fast similar viewers' events fade


@dataclass(frozen=True, eq=False)
class Signals:
    """Learned item statistics; m history items, c scored items (columns), g genres. Plain arrays.

    rows: (m,) and columns: (c,) int32 codes, ascending, columns among rows; weights: (m, c) float32 EASE;
    together: (m, c) float32 events of similar viewers, and together_total: (m,) over all items; usual: (4, c) float32
    mean and spread of ease, mean and spread of share; genre_base, genre_mean: (g,) float32.
    """

    rows: np.ndarray
    columns: np.ndarray
    weights: np.ndarray
    together: np.ndarray
    together_total: np.ndarray
    usual: np.ndarray
    genre_base: np.ndarray
    genre_mean: np.ndarray


@dataclass(frozen=True, eq=False)
class Stage:
    """Signals cut down to the h items at stake, shared by all viewers who are scored at that moment."""

    place: np.ndarray  # (items,) row of each movie of the catalogue in `matrix`; the last row is zero
    matrix: np.ndarray  # (m + 1, 2h + 1) float32: weights, together, together_total
    unknown: np.ndarray  # (h,) bool: no column was learned
    usual: np.ndarray  # (4, h)
    prior: np.ndarray  # (h + 1,) float32: what PRIOR_EVENTS typical events add to together and together_total
    genres: np.ndarray  # (items, g) float32, rows that sum to 1, or 0 where a movie has none
    item_genres: np.ndarray  # (g, h)
    genre_base: np.ndarray
    genre_mean: np.ndarray


def learn(history: Interactions, conf: SignalsConfig) -> Signals:
    """Everything the signals need, from `history` alone."""
    live = live_counts(history, (conf.popular_half_life_days, conf.column_half_life_days), history.end_ms)
    ties = history.catalogue.tie_breaks
    columns = most_popular(live.counts[1], conf.max_columns, ties)
    rows = np.union1d(most_popular(live.counts[0], conf.max_items, ties), columns).astype(np.int32)
    among = np.searchsorted(rows, columns)
    seen = history.matrix()[:, rows].astype(np.float32)  # (users, m)
    recent = history.matrix(half_life_days=conf.event_half_life_days)[:, rows]
    norms = np.sqrt(np.maximum(seen.sum(axis=1), 1.0))
    together = ((diags_array(1.0 / norms).astype(np.float32) @ seen).T @ recent).toarray()  # (m, m)
    np.fill_diagonal(together, 0.0)
    genres = genre_shares(history.catalogue)
    base = genres[history.latest().items].sum(axis=0) + 1.0
    plain = Signals(
        rows=rows,
        columns=columns,
        weights=item_weights(seen, conf.l2, among),
        together=np.ascontiguousarray(together[:, among]),
        together_total=together.sum(axis=1),
        usual=np.zeros((4, len(columns)), np.float32),
        genre_base=(base / base.sum()).astype(np.float32),
        genre_mean=np.zeros(genres.shape[1], np.float32),
    )
    return _centred(plain, history, conf)


def stage(signals: Signals, catalogue: Catalogue, items: np.ndarray, genre_names: tuple[str, ...]) -> Stage:
    """The signals for `items` (h,) codes of `catalogue`, which may hold newer movies than the fit's."""
    known, count = len(signals.rows), len(items)
    place = np.full(len(catalogue), known, np.int64)
    place[signals.rows] = np.arange(known)
    column = np.minimum(np.searchsorted(signals.columns, items), max(len(signals.columns) - 1, 0))
    unknown = signals.columns[column] != items if len(signals.columns) else np.ones(count, bool)
    matrix = np.zeros((known + 1, 2 * count + 1), np.float32)
    if len(signals.columns):
        matrix[:-1, :count] = signals.weights[:, column] * ~unknown
        matrix[:-1, count:-1] = signals.together[:, column] * ~unknown
    matrix[:-1, -1] = total = signals.together_total
    typical = total @ total / max(float(total.sum()), 1e-9)  # total of the movie of an event, over events
    genres = genre_shares(catalogue, genre_names)
    return Stage(
        place,
        matrix,
        unknown,
        signals.usual[:, column] if len(signals.columns) else np.zeros((4, count), np.float32),
        PRIOR_EVENTS * typical * matrix[:, count:].sum(axis=0) / max(float(total.sum()), 1e-9),
        genres,
        np.ascontiguousarray(genres[items].T),
        signals.genre_base,
        signals.genre_mean,
    )


def read(at: Stage, histories: Histories, now_ms: int, half_life_days: float) -> np.ndarray:
    """(viewers, h, 4) float32 signals in the order of NAMES; nan where an item was not known at the fit."""
    ease, share, tastes = _raw(at, histories, now_ms, half_life_days)
    ease_mean, ease_spread, share_mean, share_spread = at.usual
    out = np.empty((*ease.shape, len(NAMES)), np.float32)
    out[..., 0] = (ease - ease_mean) / np.maximum(ease_spread, 1e-3)
    # Not `@`: BLAS rounds one row and many differently, and a viewer's scores must not depend on the batch.
    out[..., 1] = np.einsum("vg,gh->vh", tastes - at.genre_mean, at.item_genres)
    out[..., 2] = 100.0 * (share - share_mean)  # per cent
    out[..., 3] = (share - share_mean) / np.maximum(share_spread, 1e-5)
    out[:, at.unknown, 0] = out[:, at.unknown, 2] = out[:, at.unknown, 3] = np.nan
    return out


def _raw(
    at: Stage, histories: Histories, now_ms: int, half_life_days: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Uncentred ease (viewers, h) and share (viewers, h), and log ratios of genre shares (viewers, g)."""
    weights = decay(now_ms - histories.times, half_life_days).astype(np.float32)
    sums = weighted_sums(weights, at.place[histories.items], histories.indptr, at.matrix)
    count = (at.matrix.shape[1] - 1) // 2
    together = sums[:, count:] + at.prior
    share = together[:, :-1] / np.maximum(together[:, -1:], 1e-9)
    watched = weighted_sums(weights, histories.items, histories.indptr, at.genres)
    smoothed = (watched + PRIOR_EVENTS * at.genre_base) / (watched.sum(axis=1, keepdims=True) + PRIOR_EVENTS)
    return sums[:, :count], share, np.log(smoothed / at.genre_base)


def _centred(plain: Signals, history: Interactions, conf: SignalsConfig) -> Signals:
    """The same with what is usual among active viewers who have not seen the movie."""
    active = np.unique(history.users[history.times >= history.end_ms - ACTIVE_DAYS * DAY_MS])
    viewers = histories_of(history, active[:: max(len(active) // REFERENCE, 1)], history.end_ms)
    at = stage(plain, history.catalogue, plain.columns, history.catalogue.genre_names)
    ease, share, tastes = _raw(at, viewers, history.end_ms, conf.history_half_life_days)
    unseen = 1.0 - seen_by(viewers)[:, plain.columns].toarray()
    total = np.maximum(unseen.sum(axis=0), 1.0)
    usual = []
    for values in (ease, share):
        mean = (values * unseen).sum(axis=0) / total
        usual += [mean, np.sqrt((np.square(values - mean) * unseen).sum(axis=0) / total)]
    return replace(
        plain,
        usual=np.array(usual, np.float32).reshape(4, -1),
        genre_mean=tastes.mean(axis=0) if len(viewers) else plain.genre_mean,
    )


def seen_by(histories: Histories) -> csr_array:
    ones = np.ones(len(histories.seen_items), np.float32)
    return csr_array(
        (ones, histories.seen_items, histories.seen_indptr), shape=(len(histories), len(histories.catalogue))
    )


def genre_shares(catalogue: Catalogue, names: tuple[str, ...] | None = None) -> np.ndarray:
    """(items, genres) float32: 1 / number of genres for each genre of a movie, columns in the order of `names`."""
    genres = catalogue.genres.astype(np.float32)
    if names is not None and names != catalogue.genre_names:
        place = {name: column for column, name in enumerate(catalogue.genre_names)}
        empty = np.zeros(len(catalogue), np.float32)
        genres = (
            np.stack([genres[:, place[n]] if n in place else empty for n in names], axis=1) if names else genres[:, :0]
        )
    return genres / np.maximum(genres.sum(axis=1, keepdims=True), 1.0)

"""What each model of the shelf should answer, by another way of computing it."""

import subprocess
import sys

import numpy as np
import pytest
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix

from models import signals
from models.als import ALS, ALSConfig
from models.base import slates
from models.ease import EASE, EASEConfig, item_weights
from models.interactions import DAY_MS, Interactions, histories_of, live_counts, roll_forward
from models.lift import fit_curves, lift
from models.popularity import Popularity, PopularityConfig
from models.ranker import Ranker, RankerConfig, best_half_life


def test_popularity_ranks_by_decayed_likings(history_of) -> None:
    """Two old likings against one of today: with a half-life of a day today's wins, with a year the two."""
    users, items, days = [0, 1, 2, 3], [0, 0, 1, 2], [50, 51, 99, 99]
    strengths = [1.0, 1.0, 0.7, 0.6]  # the last is not a liking
    history = history_of(
        np.array(users), np.array(items), viewers=5, movies=4, times=np.array(days) * DAY_MS, strengths=strengths
    )
    for half_life, best in ((1.0, [1, 0]), (365.0, [0, 1])):
        model = Popularity(PopularityConfig(half_life)).fit(history)
        live = live_counts(history, model.half_lives_days, history.end_ms)
        scores = model.score(histories_of(history, np.array([4]), history.end_ms), live, history.end_ms)[0]
        shown = slates(model, histories_of(history, np.array([4]), history.end_ms), live, history.end_ms, 4).items[0]
        assert shown[:2].tolist() == best
        assert scores[2] == scores[3] == 0.0
    assert scores[0] == pytest.approx(2 ** (-50 / 365) + 2 ** (-49 / 365))


def test_a_rerating_counts_once_with_its_newest_strength(history_of) -> None:
    """IMP-05's kind: 2 of 5, then 5 of 5, is one liking at the later time, whatever was there before."""
    times = np.array([10, 20, 90, 99]) * DAY_MS
    history = history_of(
        np.array([0, 0, 0, 1]), np.array([0, 0, 0, 1]), viewers=2, movies=2, times=times, strengths=[0.4, 0.8, 1.0, 1.0]
    )
    assert live_counts(history, (10.0,), 100 * DAY_MS).counts[0, 0] == pytest.approx(0.5)
    assert live_counts(history, (10.0,), 95 * DAY_MS).counts[0, 0] == pytest.approx(2**-0.5)
    assert live_counts(history, (10.0,), 30 * DAY_MS).counts[0, 0] == pytest.approx(0.5)
    assert live_counts(history, (10.0,), 15 * DAY_MS).counts[0, 0] == 0.0
    assert histories_of(history, np.array([0]), 95 * DAY_MS).items.tolist() == [0]


@pytest.mark.parametrize("repeats", [False, True])
def test_counts_rolled_forward_are_those_counted_anew(repeats: bool, history_of) -> None:
    rng = np.random.default_rng(2)
    users, items = rng.integers(0, 40, 900), rng.integers(0, 30, 900)
    if not repeats:
        _, first = np.unique(users * 30 + items, return_index=True)
        users, items = users[first], items[first]
    strengths = rng.random(len(users))
    history = history_of(users, items, viewers=40, movies=30, strengths=strengths)
    live = live_counts(history, (0.5, 7.0, 90.0), 40 * DAY_MS)
    for day in (41, 47, 80, 100):
        live = roll_forward(live, history, day * DAY_MS)
        np.testing.assert_allclose(live.counts, live_counts(history, (0.5, 7.0, 90.0), day * DAY_MS).counts, rtol=1e-9)


def test_ease_weights_solve_the_least_squares_problem_they_stand_for() -> None:
    """Column by column: ridge regression of each item on all others."""
    rng = np.random.default_rng(0)
    seen = csr_matrix((rng.random((60, 12)) < 0.3).astype(np.float32))
    weights, dense = item_weights(seen, 5.0), seen.toarray()
    for item in range(12):
        others = np.delete(np.arange(12), item)
        a = dense[:, others]
        expected = np.linalg.solve(a.T @ a + 5.0 * np.eye(11), a.T @ dense[:, item])
        np.testing.assert_allclose(weights[others, item], expected, atol=1e-5)
        assert weights[item, item] == 0.0
    np.testing.assert_allclose(item_weights(seen, 5.0, np.array([3, 7])), weights[:, [3, 7]], atol=1e-6)


def test_ease_learns_only_the_most_popular_and_still_ranks_the_rest(audience: Interactions) -> None:
    model = EASE(EASEConfig(max_items=30)).fit(audience)
    assert model.weights.shape == (30, 30)
    live = live_counts(audience, model.half_lives_days, audience.end_ms)
    assert live.counts[0, model.known].min() >= np.delete(live.counts[0], model.known).max()
    shown = slates(model, histories_of(audience, np.array([0]), audience.end_ms), live, audience.end_ms, 100).items[0]
    assert (shown >= 0).all()


def test_als_folds_a_history_in_as_the_library_does(audience: Interactions) -> None:
    """The viewer's factors from the history are those that implicit's own recalculation gives."""
    conf = ALSConfig(factors=8, half_life_days=30.0)
    model = ALS(conf, seed=1).fit(audience)
    histories = histories_of(audience, np.arange(20), audience.end_ms)
    past = csr_matrix(histories.decayed(audience.end_ms, conf.half_life_days))
    past.data = 1.0 + np.float32(conf.alpha) * past.data
    library = AlternatingLeastSquares(factors=8, regularization=conf.regularization, num_threads=1)
    library.item_factors = model.item_factors
    theirs = library.recalculate_user(np.arange(20), past)
    np.testing.assert_allclose(model._viewers(histories, audience.end_ms), theirs, atol=1e-4)


def test_the_lift_recovers_a_planted_curve_and_ignores_what_is_unknown() -> None:
    """Liking is the rate times a curve of the first signal; the second signal says nothing."""
    rng = np.random.default_rng(3)
    n = 300_000
    signals = rng.normal(size=(n, 2)).astype(np.float32)
    rate = rng.choice([0.01, 0.04], n)
    truth = np.where(signals[:, 0] > 0, signals[:, 0], 0.0)
    liked = rng.random(n) < rate * np.exp(truth)
    knots, heights = fit_curves(signals, liked, rate, np.ones(n), 30.0)
    at = np.array([[-1.5, 0.0], [0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    np.testing.assert_allclose(lift(at, knots, heights), [0.0, 0.0, 1.0, 2.0], atol=0.2)
    np.testing.assert_allclose(np.ptp(lift(np.array([[1.0, -1.0], [1.0, 1.0]]), knots, heights)), 0.0, atol=0.1)
    assert lift(np.array([[np.nan, np.nan]]), knots, heights).tolist() == [0.0]


def test_what_scores_does_not_import_what_only_fitting_needs() -> None:
    """scikit-learn takes seconds to import, in every process that serves."""
    asked = "import sys, models.ranker; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked]).returncode == 0


def test_signals_are_centred_on_active_viewers_who_have_not_seen_the_movie(audience: Interactions) -> None:
    learned = signals.learn(audience, signals.SignalsConfig())
    at = signals.stage(learned, audience.catalogue, learned.columns.astype(np.int64), audience.catalogue.genre_names)
    active = np.unique(audience.users[audience.times >= audience.end_ms - signals.ACTIVE_DAYS * DAY_MS])
    viewers = histories_of(audience, active, audience.end_ms)
    values = signals.read(at, viewers, audience.end_ms, signals.SignalsConfig.history_half_life_days)
    unseen = signals.seen_by(viewers)[:, learned.columns].toarray() == 0
    for column in (0, 2, 3):
        means = np.where(unseen, values[..., column], 0).sum(axis=0) / unseen.sum(axis=0)
        np.testing.assert_allclose(means, 0.0, atol=1e-3)
    np.testing.assert_allclose(values[..., 1].mean(axis=0), 0.0, atol=1e-4)


def test_a_movie_newer_than_the_fit_has_only_its_genres_to_go_by(audience: Interactions) -> None:
    learned = signals.learn(audience.before(60 * DAY_MS), signals.SignalsConfig())
    newest = np.array([len(audience.catalogue) - 1])
    at = signals.stage(learned, audience.catalogue, newest, audience.catalogue.genre_names)
    values = signals.read(at, histories_of(audience, np.array([3]), audience.end_ms), audience.end_ms, 60.0)[0, 0]
    assert np.isnan(values).tolist() == [True, False, True, True]


def test_the_ranker_learns_who_deviates_where_there_is_something_to_learn(audience: Interactions) -> None:
    """Viewers of this audience like movies of their own parity: the lift must prefer them."""
    model = Ranker(RankerConfig(discovery=False)).fit(audience)
    assert np.ptp(model.heights) > 0.1
    live = live_counts(audience, model.half_lives_days, audience.end_ms)
    viewers = np.arange(0, 400, 4)
    histories = histories_of(audience, viewers, audience.end_ms)
    shown = slates(model, histories, live, audience.end_ms, 10).items
    plain = slates(
        Popularity().fit(audience), histories, live_counts(audience, (1.05,), audience.end_ms), audience.end_ms, 10
    ).items
    assert (shown % 2 == viewers[:, None] % 2).mean() > (plain % 2 == viewers[:, None] % 2).mean() + 0.1


def test_a_viewer_without_history_has_everyones_share(audience: Interactions) -> None:
    """The fewer events, the nearer: one event alone says nearly nothing."""
    learned = signals.learn(audience, signals.SignalsConfig())
    at = signals.stage(learned, audience.catalogue, learned.columns.astype(np.int64), audience.catalogue.genre_names)
    everyone = learned.together.sum(axis=0) / learned.together_total.sum()
    _, share, _ = signals._raw(at, histories_of(audience, np.array([-1, 0]), audience.end_ms), audience.end_ms, 60.0)
    np.testing.assert_allclose(share[0], everyone, rtol=1e-4)
    assert np.abs(share[1] - everyone).max() > 1e-3


def test_a_ranker_with_too_little_to_learn_from_is_popularity(audience: Interactions) -> None:
    thin = audience.before(20 * DAY_MS)
    model = Ranker(RankerConfig(discovery=False)).fit(thin)
    assert not model.heights.any()
    live = live_counts(thin, model.half_lives_days, thin.end_ms)
    scores = model.score(histories_of(thin, np.array([-1, 3]), thin.end_ms), live, thin.end_ms)
    np.testing.assert_array_equal(scores[0], scores[1])


def test_hot_movies_stand_above_all_others_and_every_score_is_finite(audience: Interactions) -> None:
    model = Ranker(RankerConfig(hot_first=10, hot_each=5)).fit(audience)
    live = live_counts(audience, model.half_lives_days, audience.end_ms)
    histories = histories_of(audience, np.arange(50), audience.end_ms)
    scores = model.score(histories, live, audience.end_ms)
    hot = np.isfinite(model.discover(histories, live, audience.end_ms)).any(axis=0)
    top = np.isin(np.arange(scores.shape[1]), model._at(live).hot)
    assert not (hot & top).any()
    assert np.isfinite(scores).all()
    assert scores[:, top].min() > scores[:, ~top].max()


def test_the_half_life_that_predicted_best_is_chosen(history_of) -> None:
    """A new hit every day that lasts that day: short. The same few favourites all year: long."""
    rng = np.random.default_rng(5)
    n, days = 6000, 60
    times = np.sort(rng.integers(0, days * DAY_MS, n))
    news = (times // DAY_MS * 3 + rng.integers(0, 6, n)).astype(int)
    fresh = history_of(rng.integers(0, 900, n), news, viewers=900, movies=200, days=days, times=times)
    favourites = np.minimum(rng.geometric(0.03, n), 199)
    steady = history_of(rng.integers(0, 900, n), favourites, viewers=900, movies=200, days=days, times=times)
    assert best_half_life(fresh, 25) <= 1.05
    assert best_half_life(steady, 25) >= 14

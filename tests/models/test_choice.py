"""Weights that are learned from slates are those that were planted, whatever stood where."""

from dataclasses import replace

import numpy as np

from models.choice import fit_choice
from models.interactions import DAY_MS, Interactions, Shown
from models.ranker import Ranker, RankerConfig

PLACES = 10
LOOKED_AT = np.arange(1, PLACES + 1) ** -0.7


def slates(count: int, weights: tuple[float, float], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features and likings of slates that were ranked by the first feature, before viewers who like much or little."""
    features = rng.normal(size=(count, PLACES, 2))
    order = np.argsort(-features[..., 0] - 0.3 * features[..., 1], axis=1)
    features = np.take_along_axis(features, order[..., None], axis=1)
    viewer = rng.normal(-3.0, 1.0, (count, 1))
    return features, rng.random((count, PLACES)) < LOOKED_AT * np.exp(np.minimum(features @ weights + viewer, 0.0))


def test_planted_weights_are_found_though_the_popular_stood_first() -> None:
    features, liked = slates(60_000, (0.2, 0.8), np.random.default_rng(1))
    found = fit_choice(features, liked, np.ones(liked.shape, bool), np.array([1.0, 0.75]))
    assert np.allclose(found, [0.2, 0.8], atol=0.08)


def test_a_few_slates_hardly_move_what_was_believed() -> None:
    features, liked = slates(10, (0.0, 3.0), np.random.default_rng(2))
    found = fit_choice(features, liked, np.ones(liked.shape, bool), np.array([1.0, 0.75]))
    assert np.allclose(found, [1.0, 0.75], atol=0.7)
    nothing = fit_choice(features, np.zeros(liked.shape, bool), np.ones(liked.shape, bool), np.array([1.0, 0.75]))
    assert nothing.tolist() == [1.0, 0.75]


def test_what_was_not_there_is_no_alternative() -> None:
    features, liked = slates(30_000, (0.2, 0.8), np.random.default_rng(3))
    there = np.random.default_rng(4).random(liked.shape) < 0.7
    features[~there] = 1e3
    found = fit_choice(features, liked & there, there, np.array([1.0, 0.75]))
    assert np.allclose(found, [0.2, 0.8], atol=0.12)


def with_slates(audience: Interactions, personal: bool) -> Interactions:
    """The same with a slate before each liking of the last days: the movie that was liked, among recent others."""
    rng = np.random.default_rng(5)
    rows = np.flatnonzero((audience.times > audience.end_ms - 14 * DAY_MS) & (audience.strengths >= 0.7))
    recent = np.unique(audience.items[rows])
    items = rng.choice(recent, (len(rows), PLACES)).astype(np.int32)
    if personal:  # of what they were shown, all else was of the kind that the viewer does not watch
        items[(items + audience.users[rows, None]) % 2 == 0] = -1
    items[np.arange(len(rows)), rng.integers(0, PLACES, len(rows))] = audience.items[rows]
    brought_by = np.full(len(audience), -1, np.int32)
    brought_by[rows] = np.arange(len(rows))
    return replace(audience, shown=Shown(audience.users[rows], audience.times[rows], items), brought_by=brought_by)


def test_the_ranker_weighs_popularity_and_lift_by_what_slates_brought(audience: Interactions) -> None:
    config = RankerConfig(discovery=False, min_positives=100)
    plain = Ranker(config).fit(audience)
    assert plain.weights == [1.0, config.lift_weight]
    taught = Ranker(config).fit(with_slates(audience, personal=True))
    assert taught.weights[1] / taught.weights[0] > 1.5 * plain.weights[1] / plain.weights[0]
    assert np.array_equal(taught.heights, plain.heights)  # the lift itself is learned as before


def test_too_few_slates_leave_the_weights_as_they_are(audience: Interactions) -> None:
    config = RankerConfig(discovery=False, min_positives=10_000)
    assert Ranker(config).fit(with_slates(audience, personal=True)).weights == [1.0, config.lift_weight]

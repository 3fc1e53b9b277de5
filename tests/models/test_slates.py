"""Slates: top k, ties, faults in scores, the discovery place. What no model can get wrong because the base does it."""

from typing import Self

import numpy as np
import pytest

from models.base import DISCOVERY_PLACE, Recommender, slates, top
from models.interactions import DAY_MS, Histories, Interactions, LiveCounts, histories_of, live_counts


class Fixed(Recommender):
    """Scores that a test gives it."""

    def __init__(self, scores: np.ndarray, chances: np.ndarray | None = None) -> None:
        super().__init__()
        self.scores, self.chances = scores, chances

    def fit(self, history: Interactions) -> Self:
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        return self.scores

    def discover(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray | None:
        return self.chances


def shown(history: Interactions, model: Recommender, k: int, viewers=(-1,), now_ms: int | None = None):
    now = history.end_ms if now_ms is None else now_ms
    histories = histories_of(history, np.array(viewers), history.end_ms)
    return slates(model, histories, live_counts(history, (), history.end_ms), now, k)


@pytest.fixture
def movies(history_of) -> Interactions:
    return history_of(np.array([0]), np.array([0]), viewers=200, movies=60)


def row(*values: float, movies: int = 60) -> np.ndarray:
    return np.concatenate([np.array(values, float), np.full(movies - len(values), -1.0)])[None]


def test_srv_03_non_finite_scores_are_dropped_and_counted(movies: Interactions) -> None:
    """SRV-03: NaN, 0.9, 0.8, infinity with k = 2 gives the items of 0.9 and 0.8, and two faults."""
    answer = shown(movies, Fixed(row(np.nan, 0.9, 0.8, np.inf)), 2)
    assert answer.items.tolist() == [[1, 2]]
    assert answer.scores.tolist() == [[0.9, 0.8]]
    assert answer.non_finite == 2


def test_minus_infinity_means_never_and_is_no_fault(movies: Interactions) -> None:
    answer = shown(movies, Fixed(row(0.9, -np.inf, 0.8)), 60)
    assert answer.non_finite == 0
    assert 1 not in answer.items[0]
    assert answer.items[0, -1] == -1


@pytest.mark.parametrize("k", [1, 2, 10, 20, 59, 60, 100])
@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_top_is_the_head_of_the_full_order(k: int, levels: int) -> None:
    rng = np.random.default_rng(k + levels)
    for size in (1, 59, 60, 777, 5000):
        scores = rng.integers(0, levels, size).astype(float)
        scores[rng.random(size) < 0.1] = -np.inf
        ties = rng.permutation(size)
        order = np.lexsort((ties, -scores))
        expected = order[scores[order] > -np.inf][:k]
        np.testing.assert_array_equal(top(scores, k, ties), expected)


def test_no_places_no_items() -> None:
    assert len(top(np.ones(3), 0, np.arange(3))) == len(top(np.ones(3), -5, np.arange(3))) == 0
    assert len(top(np.zeros(0), 5, np.arange(0))) == 0


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        (np.zeros((1, 59)), "must return shape"),
        (np.zeros(60), "must return shape"),
        (np.zeros((1, 60), int), "must return a float array"),
        ([[0.0] * 60], "must return a float array"),
        (None, "must return a float array"),
    ],
)
def test_an_answer_of_the_wrong_shape_or_type_is_refused_in_words(movies: Interactions, scores, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        shown(movies, Fixed(scores), 5)


def test_the_discovery_takes_the_tenth_place_and_stays_all_day(movies: Interactions) -> None:
    scores = np.arange(60.0)[None, ::-1]
    chances = np.full((1, 60), -np.inf)
    chances[0, 40:] = np.linspace(0, 1, 20)
    model = Fixed(scores, chances)
    plain = shown(movies, Fixed(scores), 20).items[0]
    days = [shown(movies, model, 20, now_ms=movies.end_ms + n * DAY_MS).items[0] for n in range(30)]
    draws = {int(day[DISCOVERY_PLACE - 1]) for day in days}
    assert draws <= set(range(40, 60))
    assert len(draws) > 5  # another day, another movie
    for day in days:
        assert np.delete(day, DISCOVERY_PLACE - 1).tolist() == plain[:19].tolist()
    morning, evening = (shown(movies, model, 20, now_ms=movies.end_ms + ms).items for ms in (0, DAY_MS - 1))
    np.testing.assert_array_equal(morning, evening)


def test_short_slates_and_viewers_without_discoveries_are_left_alone(movies: Interactions) -> None:
    scores, none = np.arange(60.0)[None, ::-1], np.full((1, 60), -np.inf)
    assert shown(movies, Fixed(scores, np.ones((1, 60))), 9).items[0].tolist() == list(range(9))
    assert shown(movies, Fixed(scores, none), 10).items[0].tolist() == list(range(10))


def test_scores_given_to_slates_are_not_written_to(movies: Interactions) -> None:
    scores = np.broadcast_to(np.arange(60.0), (3, 60))  # read-only, as popularity answers
    before = scores.copy()
    shown(movies, Fixed(scores), 20, viewers=(0, 1, 2))
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("k", [1, 9, 10, 20, 59, 60, 150])
@pytest.mark.parametrize("levels", [2, 1000])
def test_a_reserve_stands_behind_the_same_slate(movies: Interactions, k: int, levels: int) -> None:
    """The slate is the one without it; behind it stands the best of the rest, and the discovered movie nowhere else."""
    rng = np.random.default_rng(k)
    scores, chances = (rng.integers(0, levels, (1, 60)).astype(float) for _ in range(2))
    scores[0, rng.choice(60, 5, replace=False)] = -np.inf
    model, viewers = Fixed(scores, chances), np.array([0])
    histories, live = histories_of(movies, viewers, movies.end_ms), live_counts(movies, (), movies.end_ms)
    slate, whole = (slates(model, histories, live, movies.end_ms, k, reserve) for reserve in (0, 100))
    assert whole.items[0, :k].tolist() == slate.items[0].tolist()
    assert whole.scores[0, :k].tolist() == slate.scores[0].tolist()
    shown = whole.items[0][whole.items[0] >= 0].tolist()
    assert len({*shown}) == len(shown)
    allowed = {*np.flatnonzero(np.isfinite(scores[0])).tolist()} - {*histories.seen(0).tolist()}
    discovered = {shown[9]} - allowed if len(shown) > 9 else set()
    assert len({*shown} - discovered) >= len(allowed) - 1
    rest = whole.scores[0, k : len(shown)].tolist()
    assert rest == sorted(rest, reverse=True)

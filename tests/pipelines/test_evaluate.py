"""Evaluation as deployed: what is found, what is masked, what is known when; and that no cheat of order pays."""

from dataclasses import replace
from typing import Self

import numpy as np
import pytest

from conf.sections.training import Evaluate
from models.base import Recommender
from models.ease import EASE
from models.interactions import DAY_MS, Catalogue, Histories, Interactions, LiveCounts, Shown
from models.popularity import Popularity
from pipelines.evaluate import SLICES, Evaluation, difference, disguise, evaluate, windows

MOVIES = 40


def history(rows: list[tuple[int, int, float, float]], viewers: int = 6) -> Interactions:
    """Rows of viewer, movie, day, strength, in any order; it ends on day 30."""
    users, items, days, strengths = (np.array(column) for column in zip(*sorted(rows, key=lambda r: r[2]), strict=True))
    ids = np.array([f"m{n}" for n in range(MOVIES)])
    return Interactions(
        users.astype(np.int32),
        items.astype(np.int32),
        (days * DAY_MS).astype(np.int64),
        strengths.astype(np.float32),
        np.array([f"u{n}" for n in range(viewers)]),
        Catalogue(ids, ids, np.zeros((MOVIES, 0), bool)),
        30 * DAY_MS,
    )


@pytest.fixture(scope="module")
def crowd() -> Interactions:
    rng = np.random.default_rng(0)
    n = 6000
    items = np.minimum(rng.geometric(0.12, n), MOVIES) - 1
    return history(list(zip(rng.integers(0, 600, n), items, rng.random(n) * 30, rng.random(n), strict=True)), 600)


class Recorder(Recommender):
    """Notes what it is asked; scores movies by number, lowest first."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, int, dict[str, list[int]]]] = []

    def fit(self, history: Interactions) -> Self:
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        seen = {name: sorted(histories.seen(v).tolist()) for v, name in enumerate(histories.viewer_ids)}
        self.asked.append((now_ms, live.as_of_ms, seen))
        return np.tile(-np.arange(float(len(live.catalogue))), (len(histories), 1))


class Constant(Recorder):
    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        return np.ones((len(histories), len(live.catalogue)))


def test_each_morning_knows_what_happened_before_it_and_nothing_after() -> None:
    rows = [(0, 1, 5.0, 1.0), (0, 2, 20.5, 1.0), (0, 3, 21.2, 1.0), (1, 4, 21.4, 1.0)]
    model = Recorder()
    found = evaluate(model, history(rows), 20 * DAY_MS, 30 * DAY_MS)
    assert model.asked == [
        (20 * DAY_MS, 20 * DAY_MS, {"u0": [1]}),
        (21 * DAY_MS, 21 * DAY_MS, {"u0": [1, 2], "u1": []}),
    ]
    assert [SLICES[s] for s in found.slices] == ["light", "light", "new"]


def test_the_numbers_of_a_counted_case() -> None:
    """u0 has seen movie 0 and finds 1 (place 1) and 4 (place 4); movie 9 was disliked, movie 0 seen: neither counts."""
    rows = [(0, 0, 5.0, 1.0), (0, 1, 20.1, 0.7), (0, 4, 20.2, 1.0), (0, 9, 20.3, 0.69), (0, 0, 20.4, 1.0)]
    found = evaluate(Recorder(), history(rows), 20 * DAY_MS, 30 * DAY_MS)
    assert found.mean("recall@10") == 1.0
    assert found.mean("mrr@10") == 1.0
    assert found.mean("ndcg@10") == pytest.approx((1 + 1 / np.log2(5)) / (1 + 1 / np.log2(3)))
    assert found.coverage == 10 / MOVIES
    assert found.random("recall@10") == pytest.approx(10 / (MOVIES - 1))


def test_days_are_averaged_per_viewer_first() -> None:
    """u0 finds nothing on two days, u1 everything on one: a half, not a third."""
    rows = [(0, 39, 20.1, 1.0), (0, 38, 21.1, 1.0), (1, 0, 20.1, 1.0)]
    found = evaluate(Recorder(), history(rows), 20 * DAY_MS, 30 * DAY_MS)
    assert len(found.viewers) == 3
    assert found.mean("recall@10") == 0.5


def test_static_is_one_day_and_never_refreshed_stays_as_it_was() -> None:
    rows = [(0, 1, 5.0, 1.0), (0, 2, 20.5, 1.0), (0, 3, 22.2, 1.0)]
    static, stale = Recorder(), Recorder()
    evaluate(static, history(rows), 20 * DAY_MS, 30 * DAY_MS, daily=False)
    evaluate(stale, history(rows), 20 * DAY_MS, 30 * DAY_MS, refreshed=False)
    assert static.asked == [(20 * DAY_MS, 20 * DAY_MS, {"u0": [1]})]
    assert [(now, as_of) for now, as_of, _ in stale.asked] == [(20 * DAY_MS, 20 * DAY_MS)] * 2
    assert stale.asked[1][2] == {"u0": [1, 2]}  # what was seen since is still masked


def test_trn_01_equal_scores_reach_chance_whatever_the_order_of_the_catalogue(crowd: Interactions) -> None:
    """TRN-01: a model that scores everything 1 gets about chance level, and the same with the catalogue reversed."""
    start, end = 20 * DAY_MS, 30 * DAY_MS
    backwards = replace(
        crowd,
        items=(MOVIES - 1 - crowd.items).astype(np.int32),
        catalogue=replace(crowd.catalogue, ids=crowd.catalogue.ids[::-1], titles=crowd.catalogue.titles[::-1]),
    )
    there, back = (evaluate(Constant(), x, start, end) for x in (crowd, backwards))
    np.testing.assert_array_equal(there.values["ndcg@10"], back.values["ndcg@10"])
    averages = [evaluate(Constant(), disguise(crowd, seed), start, end).mean("recall@10") for seed in range(12)]
    assert np.mean(averages) == pytest.approx(there.random("recall@10"), rel=0.15)
    assert there.mean("ndcg@10") < evaluate(Popularity(), crowd, start, end).mean("ndcg@10") / 2


def test_chance_is_what_random_orders_reach(crowd: Interactions) -> None:
    class Random(Recorder):
        def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
            return np.random.default_rng([now_ms, len(histories)]).random((len(histories), len(live.catalogue)))

    found = evaluate(Random(), crowd, 20 * DAY_MS, 30 * DAY_MS)
    for metric in ("recall@10", "ndcg@10", "mrr@20"):
        assert found.mean(metric) == pytest.approx(found.random(metric), rel=0.08), metric


def test_an_honest_model_does_as_well_in_disguise(crowd: Interactions) -> None:
    start, end = 20 * DAY_MS, 30 * DAY_MS
    hidden = disguise(crowd, 1)
    assert not set(hidden.user_ids) & set(crowd.user_ids)
    assert not set(hidden.catalogue.ids) & set(crowd.catalogue.ids)
    plain = evaluate(EASE().fit(crowd.before(start)), crowd, start, end).mean("ndcg@10")
    again = evaluate(EASE().fit(hidden.before(start)), hidden, start, end).mean("ndcg@10")
    assert again == pytest.approx(plain, rel=0.05)


def test_a_disguise_keeps_who_did_what_and_changes_with_its_seed(crowd: Interactions) -> None:
    hidden, other = disguise(crowd, 1), disguise(crowd, 2)
    pairs = crowd.users.astype(int) * MOVIES + crowd.items
    renamed = hidden.users.astype(int) * MOVIES + hidden.items
    assert len(np.unique(np.stack([pairs, renamed]), axis=1).T) == len(np.unique(pairs)) == len(np.unique(renamed))
    assert not np.array_equal(hidden.items, other.items)
    np.testing.assert_array_equal(hidden.times, crowd.times)


def test_a_difference_pairs_viewers_and_knows_its_sign(crowd: Interactions) -> None:
    start, end = 20 * DAY_MS, 30 * DAY_MS
    popular, equal = (evaluate(m, crowd, start, end) for m in (Popularity(), Constant()))
    found = difference(popular, equal, "ndcg@10", 0.95, 300, 0)
    assert found.low > 0
    assert found.mean == pytest.approx(popular.mean("ndcg@10") - equal.mean("ndcg@10"))
    none = difference(popular, popular, "ndcg@10", 0.95, 300, 0)
    assert (none.mean, none.low, none.high) == (0.0, 0.0, 0.0)


def test_nobody_with_anything_to_find_is_nan_not_a_crash() -> None:
    found = evaluate(Popularity(), history([(0, 1, 5.0, 1.0)]), 20 * DAY_MS, 30 * DAY_MS)
    assert isinstance(found, Evaluation)
    assert np.isnan(found.mean("ndcg@10"))
    assert found.summary()["viewers"] == 0


def test_windows_follow_the_settings(crowd: Interactions) -> None:
    found = windows(crowd, Evaluate(test_days=3, validation_days=5))
    assert (found.test_start_ms, found.validation_start_ms) == (27 * DAY_MS, 22 * DAY_MS)


def test_what_a_slate_brought_is_not_to_be_found() -> None:
    """Whoever ranks as the model in charge did would win."""
    rows = [(0, 1, 5.0, 1.0), (0, 2, 20.0, 1.0), (0, 3, 20.1, 1.0), (1, 4, 20.2, 1.0)]
    shown = Shown(np.array([0, 1], np.int32), np.array([20, 20]) * DAY_MS, np.array([[2, 9], [4, 9]], np.int32))
    whole = replace(history(rows), shown=shown, brought_by=np.array([-1, 0, -1, 1], np.int32))
    found = evaluate(Constant(), whole, 19 * DAY_MS, 30 * DAY_MS)
    assert found.viewers.tolist() == [0]
    assert found.values["recall@20"].tolist() in ([0.0], [1.0])  # one movie is right, not two
    assert windows(whole, Evaluate(test_days=1, validation_days=1, min_viewers=1)).test_start_ms <= 20.1 * DAY_MS


def test_a_disguise_keeps_what_slates_showed_and_brought(crowd: Interactions) -> None:
    shown = Shown(crowd.users[:50], crowd.times[:50], np.stack([crowd.items[:50], np.full(50, -1)], axis=1))
    brought_by = np.append(np.arange(50), np.full(len(crowd) - 50, -1)).astype(np.int32)
    whole = replace(crowd, shown=shown, brought_by=brought_by)
    hidden = disguise(whole, 1)
    assert whole.liked_places.any()
    assert np.array_equal(whole.liked_places, hidden.liked_places)
    assert not np.array_equal(whole.shown.items, hidden.shown.items) if whole.shown and hidden.shown else False

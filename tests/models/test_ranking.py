"""Metrics agree with trec_eval; chance, windows and intervals agree with counting."""

import itertools

import numpy as np
import pytest
import pytrec_eval

from models import ranking
from models.interactions import DAY_MS


def by_trec(items: np.ndarray, relevant: list[set[int]], k: int) -> dict[str, np.ndarray]:
    qrels = {str(v): {str(i): 1 for i in found} for v, found in enumerate(relevant)}
    run = {
        str(v): {str(i): float(len(row) - place) for place, i in enumerate(row.tolist()) if i >= 0}
        for v, row in enumerate(items[:, :k])
    }
    found = pytrec_eval.RelevanceEvaluator(qrels, {f"recall.{k}", f"ndcg_cut.{k}", "recip_rank"}).evaluate(run)
    names = {"recall": f"recall_{k}", "ndcg": f"ndcg_cut_{k}", "mrr": "recip_rank"}
    return {m: np.array([found[str(v)][name] for v in range(len(items))]) for m, name in names.items()}


def measured(items: np.ndarray, relevant: list[set[int]], k: int, size: int) -> dict[str, np.ndarray]:
    row = np.repeat(np.arange(len(relevant)), [len(found) for found in relevant])
    wanted = np.array([i for found in relevant for i in sorted(found)], np.int64)
    hit = ranking.hits(items, wanted, row, size)
    counts = np.array([len(found) for found in relevant])
    return {metric: getattr(ranking, metric)(hit, counts, k) for metric in ranking.METRICS}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("k", [1, 10, 20, 50])
def test_metrics_agree_with_trec_eval_to_nine_places(seed: int, k: int) -> None:
    """Random lists of random length, k beyond their ends included."""
    rng = np.random.default_rng(seed)
    size, viewers, length = 80, 30, 25
    items = np.full((viewers, length), -1, np.int32)
    for row in items:
        n = rng.integers(1, length + 1)
        row[:n] = rng.permutation(size)[:n]
    relevant = [set(rng.permutation(size)[: rng.integers(1, 40)].tolist()) for _ in range(viewers)]
    ours, theirs = measured(items, relevant, k, size), by_trec(items, relevant, k)
    for metric in ranking.METRICS:
        np.testing.assert_allclose(ours[metric], theirs[metric], rtol=0, atol=1e-9, err_msg=metric)


def test_without_relevant_items_metrics_are_undefined_where_trec_eval_counts_zero() -> None:
    items = np.array([[0, 1], [2, 3]], np.int32)
    ours = measured(items, [{0}, set()], 2, 10)
    assert all(np.isnan(values[1]) and values[0] > 0 for values in ours.values())


def test_recall_divides_by_all_relevant_items_even_beyond_k() -> None:
    assert measured(np.array([[0, 1]], np.int32), [{0, 5, 6, 7}], 2, 10)["recall"].tolist() == [0.25]


@pytest.mark.parametrize(("candidates", "relevant", "k"), [(6, 2, 3), (5, 1, 5), (4, 4, 2), (5, 3, 10)])
def test_chance_is_the_mean_over_all_orders(candidates: int, relevant: int, k: int) -> None:
    orders = np.array(list(itertools.permutations(range(candidates))), np.int32)
    wanted = set(range(relevant))
    counted = measured(orders, [wanted] * len(orders), k, candidates)
    expected = ranking.chance(np.array([relevant]), np.array([candidates]), k)
    for metric in ranking.METRICS:
        assert expected[metric][0] == pytest.approx(counted[metric].mean(), abs=1e-9), metric


def test_coverage_novelty_and_popularity_share_of_a_counted_case() -> None:
    items = np.array([[0, 1], [0, -1]], np.int32)
    known = np.array([6, 2, 0, 0])
    assert ranking.coverage(items, 4) == 0.5
    assert ranking.novelty(items, known, 6) == pytest.approx(-(2 * np.log2(7 / 8) + np.log2(3 / 8)) / 3)
    assert ranking.popularity_share(items, known, top_share=0.25) == pytest.approx(2 / 3)


def test_the_bootstrap_interval_covers_the_mean_and_repeats_with_its_seed() -> None:
    values = np.random.default_rng(0).normal(1.0, 1.0, 400)
    found = ranking.bootstrap(values, 0.95, 1000, 5)
    assert found == ranking.bootstrap(values, 0.95, 1000, 5)
    assert found.low < found.mean < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert np.isnan(ranking.bootstrap(np.zeros(0), 0.95, 1000, 5).low)


def test_windows_are_the_last_days(history_of) -> None:
    n = 5000
    history = history_of(np.zeros(n, int), np.arange(n) % 7, viewers=1, movies=7, days=100)
    found = ranking.split(history, 14, 14)
    assert (found.end_ms - found.test_start_ms, found.test_start_ms - found.validation_start_ms) == (14 * DAY_MS,) * 2


def test_windows_reach_back_to_enough_viewers(history_of) -> None:
    """Ten years in which a viewer comes every ten days and never again."""
    viewers = np.arange(365)
    history = history_of(viewers, viewers % 7, viewers=365, movies=7, days=3650)
    found = ranking.split(history, 14, 14, min_viewers=50)
    assert (history.times >= found.test_start_ms).sum() == 50
    assert ((history.times >= found.validation_start_ms) & (history.times < found.test_start_ms)).sum() == 50


def test_a_window_leaves_two_thirds_to_learn_from(history_of) -> None:
    viewers = np.arange(300)
    history = history_of(viewers, viewers % 7, viewers=300, movies=7, days=3000)
    found = ranking.split(history, 14, 14, min_viewers=1000)
    assert (history.times >= found.test_start_ms).sum() == pytest.approx(100, abs=1)
    assert (history.times < found.validation_start_ms).sum() == pytest.approx(133, abs=2)


def test_an_empty_history_has_windows(history_of) -> None:
    found = ranking.split(history_of(np.zeros(0, int), np.zeros(0, int), viewers=0, movies=0), 14, 14)
    assert found.validation_start_ms < found.test_start_ms < found.end_ms

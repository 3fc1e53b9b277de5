"""Slates beside recorded ones and beside later choices, with numbers that were worked out by hand."""

import pytest

from monitoring.comparison import Comparison

HOUR = 3_600_000


def test_overlap_first_place_hits_and_gains() -> None:
    told = Comparison(24 * HOUR, honest_from_ms=0)
    told.slate(1 * HOUR, "ann", ["a", "b", "c"], ["a", "x", "c"])
    told.did(2 * HOUR, "ann", "c", liked=True)
    told.slate(3 * HOUR, "ann", ["a", "b", "d"], ["b", "a", "d"])
    told.did(4 * HOUR, "ann", "x", liked=True)
    told.did(4 * HOUR, "bob", "a", liked=True)
    found = told.result()
    assert (found.compared, found.overlap_at_10, found.same_first) == (2, pytest.approx((2 / 3 + 1) / 2), 0.5)
    # ann's first slate: c on place 3 gains 1 / log2(4); two choices could gain 1 + 1 / log2(3); her second holds none
    assert (found.followed, found.hit_rate_at_10) == (2, 0.5)
    assert found.ndcg_at_10 == pytest.approx(0.5 / (1 + 0.63093) / 2, abs=1e-5)
    assert (found.recorded_followed, found.recorded_hit_rate_at_10) == (2, 0.5)
    assert found.recorded_ndcg_at_10 == pytest.approx((0.63093 + 0.5) / (1 + 0.63093) / 2, abs=1e-5)


def test_what_counts_for_no_slate() -> None:
    """What came before it, later than the window, was not liked, or was met already; and slates that knew it."""
    told = Comparison(24 * HOUR, honest_from_ms=10 * HOUR)
    told.slate(9 * HOUR, "ann", ["a"], ["a"])
    told.slate(10 * HOUR, "ann", ["a", "b", "c", "d"], [])
    told.did(9 * HOUR, "ann", "b", liked=False)
    told.did(11 * HOUR, "ann", "b", liked=True)
    told.did(11 * HOUR, "ann", "c", liked=False)
    told.did(35 * HOUR, "ann", "d", liked=True)
    found = told.result()
    assert (found.compared, found.overlap_at_10, found.followed, found.hit_rate_at_10) == (1, 1.0, 0, None)
    assert Comparison(HOUR, None).result().ndcg_at_10 is None


def test_only_the_first_ten_places_are_looked_at() -> None:
    told = Comparison(HOUR, honest_from_ms=0)
    told.slate(0, "ann", [str(n) for n in range(11)], [str(n) for n in range(10, 21)])
    told.did(1, "ann", "10", liked=True)
    found = told.result()
    assert (found.overlap_at_10, found.hit_rate_at_10, found.recorded_hit_rate_at_10) == (0.0, 0.0, 1.0)


def test_an_empty_slate_is_a_miss() -> None:
    told = Comparison(HOUR, honest_from_ms=0)
    told.slate(0, "ann", [], ["a"])
    told.did(1, "ann", "a", liked=True)
    found = told.result()
    assert (found.compared, found.overlap_at_10, found.followed, found.hit_rate_at_10) == (0, None, 1, 0.0)

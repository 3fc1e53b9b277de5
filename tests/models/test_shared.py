"""What is made once for all viewers of a moment."""

import numpy as np

from models.interactions import Catalogue, LiveCounts
from models.shared import Shared


def moment(number: int) -> LiveCounts:
    catalogue = Catalogue(np.array(["a"]), np.array(["A"]), np.zeros((1, 0), bool), ())
    return LiveCounts((1.0,), np.array([[float(number)]]), number, catalogue)


def test_it_is_made_once_for_each_of_two_moments_that_are_asked_for_in_turn() -> None:
    old, new, calls = moment(1), moment(2), list[LiveCounts]()
    shared = Shared[float]()

    def at(live: LiveCounts) -> float:
        return shared.at(live, lambda: calls.append(live) or float(live.counts[0, 0]))  # type: ignore[func-returns-value]

    assert [at(live) for live in (old, new, old, new, old)] == [1.0, 2.0, 1.0, 2.0, 1.0]
    assert [live is of for live, of in zip(calls, (old, new), strict=True)] == [True, True]


def test_of_older_moments_nothing_is_kept() -> None:
    shared, calls = Shared[int](), list[int]()
    moments = [moment(number) for number in range(3)]
    for number, live in enumerate([*moments, moments[0]]):
        shared.at(live, lambda number=number: calls.append(number) or number)  # type: ignore[misc,func-returns-value]
    assert calls == [0, 1, 2, 3]

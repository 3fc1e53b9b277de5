"""Work that rests: measured by a clock that is read, not by how fast the machine is."""

import pytest

from events.pace import LEAST_S, Pace


def test_a_rest_is_in_proportion_to_the_work_and_the_share_is_kept() -> None:
    worked, rested = 0.0, list[float]()
    pace = Pace(0.2, clock=lambda: worked, wait=rested.append)
    for piece in (0.01, 0.04):
        worked += piece
        pace.rest()
    assert rested == pytest.approx([0.04, 0.16])
    assert worked / (worked + sum(rested)) == pytest.approx(0.2)


def test_short_pieces_are_put_together() -> None:
    worked, rested = 0.0, list[float]()
    pace = Pace(0.5, clock=lambda: worked, wait=rested.append)
    for _ in range(10):
        worked += LEAST_S * 0.4
        pace.rest()
    assert len(rested) == 3
    assert sum(rested) == pytest.approx(9 * LEAST_S * 0.4)

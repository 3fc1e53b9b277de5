"""What the audience waits for before a day begins: that every worker serves whom the ledger names."""

import pytest

from pipelines.stage import _serves
from serving.report import ArmReport, Refusal, WorkerReport


def worker(refused: tuple[str, ...] = (), **arms: str) -> WorkerReport:
    told = {alias: ArmReport(release=release, since_wall_ms=0, state="ready") for alias, release in arms.items()}
    no = {release: Refusal(reason="damaged", wall_ms=0) for release in refused}
    return WorkerReport(pid=1, started_wall_ms=0, beat_wall_ms=0, clock_ms=0, offset=0, arms=told, refused=no)


@pytest.mark.parametrize(
    ("it", "ready"),
    [
        (worker(champion="a", challenger="b"), True),
        (worker(champion="a"), False),  # the challenger is not there yet
        (worker(champion="a", challenger="c"), False),
        (worker(champion="b", challenger="a"), False),
        (worker(champion="a", refused=("b",)), True),  # nothing more will come
        (worker(champion="c", refused=("a", "b")), True),
    ],
)
def test_both_arms_are_served_before_an_experiments_first_day(it: WorkerReport, ready: bool) -> None:
    assert _serves(it, {"champion": "a", "challenger": "b"}) == ready


def test_a_challenger_that_was_withdrawn_must_be_gone() -> None:
    assert not _serves(worker(champion="a", challenger="b"), {"champion": "a"})
    assert _serves(worker(champion="a"), {"champion": "a"})

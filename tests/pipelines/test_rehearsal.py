"""What a demo makes of a history: whose taste moves, however few genres there are, and how long its A/B may take."""

import pytest

from conf.sections.audience import AudienceConf
from conf.sections.experiment import Experiment
from conf.settings import Settings
from events.sources.audience import Shift
from pipelines.rehearsal import _turned, rehearsed

GENRES = [f"g{number}" for number in range(25)]


@pytest.mark.parametrize("count", range(26))
def test_a_taste_moves_between_different_genres_that_the_history_has(count: int) -> None:
    shift = _turned(7, GENRES[:count])
    assert (shift.day, shift.share) == (7, 0.5)
    if count < 2:
        assert shift.kind == "rating"
        return
    assert shift.loses
    assert shift.gains
    assert not set(shift.loses) & set(shift.gains)
    shift.check(GENRES[:count])


def test_it_leaves_what_is_watched_most_for_the_middle() -> None:
    assert _turned(7, GENRES) == Shift(7, "taste", ("g0", "g1", "g2"), ("g10", "g11"), 1.0, 0.5)


def test_what_was_set_by_hand_stays() -> None:
    by_hand = Settings(
        audience=AudienceConf(fitted_visits=300), experiment=Experiment(min_days=3, max_days=5, effect=0.1)
    )
    assert rehearsed(by_hand) == by_hand
    longer = rehearsed(Settings(experiment=Experiment(min_days=20, max_days=40)))
    assert (longer.experiment.max_days, longer.audience.fitted_visits) == (20, 2000)

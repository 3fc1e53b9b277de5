"""The search: on validation only, resumable, pruning, unharmed by trials that fail."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial

from conf.sections.training import Evaluate
from models.base import Recommender
from models.interactions import DAY_MS, Catalogue, Histories, Interactions, LiveCounts
from models.popularity import Popularity
from pipelines.tune import tune

CONF = Evaluate(validation_days=8, min_viewers=100)


@dataclass(frozen=True)
class DialConfig:
    tilt: float = 0.0

    @classmethod
    def suggest(cls, trial: optuna.Trial) -> Self:
        return cls(tilt=trial.suggest_float("tilt", -1.0, 1.0))


class Dial(Recommender):
    """Best where tilt is high; breaks below -0.5; NaN scores between -0.5 and -0.3."""

    Config = DialConfig
    latest_ms = 0

    def fit(self, history: Interactions) -> Self:
        if self.config.tilt < -0.5:
            raise FloatingPointError(f"diverged at tilt {self.config.tilt:.2f}")
        return self

    def score(self, histories: Histories, live: LiveCounts, now_ms: int) -> np.ndarray:
        Dial.latest_ms = max(Dial.latest_ms, now_ms)
        order = np.random.default_rng(0).random(len(live.catalogue))
        scores = (1 - self.config.tilt) * order - (1 + self.config.tilt) * np.arange(len(live.catalogue)) / 40
        return np.tile(np.nan if self.config.tilt < -0.3 else scores, (len(histories), 1)).reshape(len(histories), -1)


@pytest.fixture(scope="module")
def crowd() -> Interactions:
    rng = np.random.default_rng(0)
    n, movies = 4000, 40
    ids = np.array([f"m{i}" for i in range(movies)])
    return Interactions(
        rng.integers(0, 400, n).astype(np.int32),
        (np.minimum(rng.geometric(0.15, n), movies) - 1).astype(np.int32),
        np.sort(rng.integers(0, 30 * DAY_MS, n)),
        np.ones(n, np.float32),
        np.array([f"u{i}" for i in range(400)]),
        Catalogue(ids, ids, np.zeros((movies, 0), bool)),
        30 * DAY_MS,
    )


def test_the_defaults_are_tried_first_and_the_best_is_returned(crowd: Interactions, tmp_path: Path) -> None:
    told: list[FrozenTrial] = []
    found = tune(Dial, crowd, CONF, trials=15, minutes=None, seed=0, storage=tmp_path / "j", report=told.append)
    assert told[0].params == {"tilt": 0.0}
    assert len(told) == len(found.trials) == 15
    completed = [trial for trial in told if trial.state.name == "COMPLETE"]
    assert found.value == max(trial.value for trial in completed)
    assert found.config.tilt > 0.3


def test_trials_that_raise_or_have_no_value_are_marked_failed_and_the_search_goes_on(
    crowd: Interactions, tmp_path: Path
) -> None:
    found = tune(Dial, crowd, CONF, trials=20, minutes=None, seed=1, storage=tmp_path / "j")
    states = {trial.number: trial.state.name for trial in found.trials}
    broken = [t.number for t in found.trials if t.params["tilt"] < -0.5]
    assert broken
    assert all(states[number] == "FAIL" for number in broken)
    assert "COMPLETE" in states.values()


def test_hopeless_trials_are_stopped_before_their_last_day(crowd: Interactions, tmp_path: Path) -> None:
    found = tune(Popularity, crowd, CONF, trials=25, minutes=None, seed=0, storage=tmp_path / "j")
    pruned = [trial for trial in found.trials if trial.state.name == "PRUNED"]
    assert pruned
    assert all(3 <= max(trial.intermediate_values) < 8 for trial in pruned)


def test_a_search_started_again_goes_on_where_it_stopped(crowd: Interactions, tmp_path: Path) -> None:
    first = tune(Popularity, crowd, CONF, trials=3, minutes=None, seed=0, storage=tmp_path / "j")
    told: list[FrozenTrial] = []
    again = tune(Popularity, crowd, CONF, trials=5, minutes=None, seed=0, storage=tmp_path / "j", report=told.append)
    assert [trial.number for trial in told] == [3, 4]
    assert again.value >= first.value
    tune(Popularity, crowd, CONF, trials=5, minutes=None, seed=0, storage=tmp_path / "j", report=told.append)
    assert len(told) == 2


def test_another_history_in_the_same_journal_is_another_search(crowd: Interactions, tmp_path: Path) -> None:
    tune(Popularity, crowd, CONF, trials=2, minutes=None, seed=0, storage=tmp_path / "j")
    told: list[FrozenTrial] = []
    shorter = crowd.before(29 * DAY_MS)
    tune(Popularity, shorter, CONF, trials=2, minutes=None, seed=0, storage=tmp_path / "j", report=told.append)
    assert len(told) == 2


def test_the_same_seed_tries_the_same_settings(crowd: Interactions, tmp_path: Path) -> None:
    tried = [
        [t.params for t in tune(Popularity, crowd, CONF, trials=8, minutes=None, seed=4, storage=tmp_path / n).trials]
        for n in ("a", "b")
    ]
    assert tried[0] == tried[1]


def test_no_time_and_no_trials_leave_the_defaults(crowd: Interactions, tmp_path: Path) -> None:
    for trials, minutes in ((0, None), (0, 1e-9), (5, 0.0)):
        found = tune(Popularity, crowd, CONF, trials=trials, minutes=minutes, seed=0, storage=tmp_path / f"j{minutes}")
        assert found.config == Popularity.Config() or not math.isnan(found.value)


def test_a_model_that_always_fails_leaves_the_defaults(crowd: Interactions, tmp_path: Path) -> None:
    class Broken(Dial):
        def fit(self, history: Interactions) -> Self:
            raise RuntimeError("no")

    found = tune(Broken, crowd, CONF, trials=3, minutes=None, seed=0, storage=tmp_path / "j")
    assert found.config == DialConfig()
    assert math.isnan(found.value)
    assert [trial.state.name for trial in found.trials] == ["FAIL"] * 3


def test_nothing_after_the_given_end_is_looked_at(crowd: Interactions, tmp_path: Path) -> None:
    Dial.latest_ms = 0
    tune(Dial, crowd.before(20 * DAY_MS), CONF, trials=2, minutes=None, seed=0, storage=tmp_path / "j")
    assert Dial.latest_ms == 19 * DAY_MS

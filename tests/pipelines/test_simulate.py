"""`data simulate` and `data import simulated`: the audience's events in a home, and what models find in them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from conf.home import Home
from conf.sections.audience import AudienceConf
from conf.settings import Settings
from events.clock import now_ms
from events.event import CATALOGUE, EVENTS, Rating
from events.local_log import LocalLog
from events.sources.audience import Audience, Shift
from models.base import Recommender
from models.interactions import Interactions, histories_of, live_counts
from models.popularity import Popularity
from models.ranker import Ranker
from monitoring.gates.inputs import InputsEvidence, judge
from pipelines.data import DataError, import_data
from pipelines.simulate import audience_of, simulate
from pipelines.snapshot import cut

ROOT = Path(__file__).parents[2]
DAY_MS = 86_400_000
SMALL = Settings(audience=AudienceConf(viewers=200, movies=200, days=5))


def stored(home: Home) -> list[bytes]:
    with LocalLog(home.log) as log:
        return list(log.bodies((EVENTS, CATALOGUE)))


@pytest.mark.long
def test_a_history_of_the_default_size_is_fit_to_learn_from_and_taste_can_be_learnt(home: Home) -> None:
    settings = Settings()
    report = import_data(home, settings, "simulated", seed=3)
    assert (report.dialect, report.added, report.unreadable) == ("simulated", report.read, 0)
    snapshot = cut(home, settings)
    evidence = InputsEvidence.of(snapshot.id, snapshot.statistics, now_ms(home, settings))
    assert judge(evidence, settings.inputs).reason == "all 13 checks passed"
    audience = audience_of(home, settings, seed=3)
    personal, popular = (worth(model, snapshot.interactions, audience) for model in (Ranker(), Popularity()))
    gain = personal - popular
    assert gain.mean() > 0.1 * popular.mean()
    assert gain.mean() > 5 * gain.std() / np.sqrt(len(gain))


def worth(model: Recommender, history: Interactions, audience: Audience) -> np.ndarray:
    """By the truth: the value of the slates that a model makes for who comes on the first day after its history."""
    model.fit(history)
    visits, now = audience.visits(0), audience.begins_ms
    code = {user: n for n, user in enumerate(history.user_ids.tolist())}
    codes = np.array([code.get(user, -1) for _, user in visits])
    live = live_counts(history, model.half_lives_days, now)
    made = model.slates(histories_of(history, codes, now), live, now, 20).items
    ids = history.catalogue.ids
    slates = [ids[row[row >= 0]].tolist() for row in made]
    values = [audience.value(user, slate, ts) for (ts, user), slate in zip(visits, slates, strict=True)]
    return np.array(values)


def test_repeating_adds_nothing_and_more_days_add_the_rest(home: Home, tmp_path: Path) -> None:
    first = simulate(home, SMALL, seed=1)
    assert (first.read, first.added) == (first.read, first.read)
    again = simulate(home, SMALL, seed=1)
    assert (again.read, again.added, again.duplicates) == (first.read, 0, first.read)
    more = simulate(home, SMALL, seed=1, days=8)
    assert more.duplicates == first.read
    at_once = Home(tmp_path / "other").open()
    assert simulate(at_once, SMALL, seed=1, days=8).added == first.added + more.added
    assert sorted(stored(home)) == sorted(stored(at_once))


def test_a_killed_one_is_ended_by_the_same_command(tmp_path: Path) -> None:
    words = ["data", "simulate", "--users", "1500", "--days", "10", "--seed", "4"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "GREENLIGHT_HOME": str(tmp_path / "killed")}
    command = [sys.executable, "-m", "greenlight", *words]
    home = Home(tmp_path / "killed")
    with subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not (home.log.exists() and _count(home) >= 10_000):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    done = subprocess.run([*command, "--json"], env=variables, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["duplicates"] >= 10_000
    whole = Home(tmp_path / "whole").open()
    simulate(whole, Settings(), viewers=1500, days=10, seed=4)
    assert sorted(stored(home)) == sorted(stored(whole))


def _count(home: Home) -> int:
    with LocalLog(home.log) as log:
        return log.newest()


def test_the_audience_of_a_simulated_home_is_the_one_that_made_it(home: Home) -> None:
    simulate(home, SMALL, seed=1)
    found, made = audience_of(home, SMALL, seed=1), Audience.fresh(SMALL.audience, 1)
    assert found.begins_ms == made.begins_ms + 5 * DAY_MS
    assert found.visits(0) == made.visits(5)
    moved = audience_of(home, SMALL, seed=1, shift=Shift.parse("day=2 kind=activity strength=-1"))
    assert len(moved.visits(1)) == len(found.visits(1)) > 10
    assert len(moved.visits(2)) < 5


def test_with_another_seed_it_is_fitted_to_what_happened_and_goes_on(home: Home) -> None:
    simulate(home, SMALL, seed=1)
    until = now_ms(home, SMALL)
    other = audience_of(home, SMALL, seed=2)
    assert until < other.begins_ms <= until + DAY_MS
    assert set(other.viewers) <= _users(home)
    before = len(stored(home))
    report = simulate(home, SMALL, seed=2)
    assert report.added == report.read == len(stored(home)) - before
    assert "fitted to the history" in report.notes[0]
    assert simulate(home, SMALL, seed=2).added == 0
    assert now_ms(home, SMALL) > until + 4 * DAY_MS


def _users(home: Home) -> set[str]:
    with LocalLog(home.log) as log:
        return {json.loads(body)["user_id"] for body in log.bodies((EVENTS,))}


def test_viewers_fitted_to_real_ratings_go_on_with_real_movies_as_they_did(home: Home) -> None:
    import_data(home, SMALL, "movietweetings")
    found = audience_of(home, SMALL, seed=1)
    genres = {movie.movie_id: movie.genres for movie in found.movies}
    assert len(genres) == 12_611
    assert (
        next(m.title for m in found.movies if m.movie_id == "0002844") == "Fantômas - À l'ombre de la guillotine (1913)"
    )
    until = now_ms(home, SMALL)
    assert until < found.visits(0)[0].ts < until + DAY_MS  # a post more than a day ahead of the clock is quarantined
    went_on = [event for event in found.simulate(14) if isinstance(event, Rating) and event.movie_id in genres]
    with LocalLog(home.log) as log:
        past = [record.event for record in log.iterate(EVENTS) if isinstance(record.event, Rating)]
    recent = [rating for rating in past if rating.ts > until - 28 * DAY_MS]
    assert len(went_on) / 14 == pytest.approx(len(recent) / 28, rel=0.2)
    was, now = (genre_shares(some, genres) for some in (recent, went_on))
    assert sum(abs(was.get(name, 0) - now.get(name, 0)) for name in {*was, *now}) / 2 < 0.12
    liked = [np.mean([rating.strength >= 0.7 for rating in some]) for some in (past, went_on)]
    assert liked[0] == pytest.approx(liked[1], abs=0.06)


def genre_shares(told: list[Rating], genres: dict[str, tuple[str, ...]]) -> dict[str, float]:
    counts = Counter(name for rating in told for name in genres[rating.movie_id])
    return {name: count / counts.total() for name, count in counts.items()}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"days": 100_000}, "end in the future: at most"),
        ({"days": 0}, "days = 0"),
        ({"viewers": -1}, "viewers = -1"),
        ({"movies": 0}, "movies = 0"),
        ({"shift": "day=3 from=Dramma"}, "did you mean Drama"),
        ({"shift": "sometime"}, "did you mean"),
    ],
)
def test_wrong_sizes_and_shifts_are_one_plain_sentence_and_store_nothing(home: Home, how: dict, says: str) -> None:
    with pytest.raises(DataError, match=says):
        simulate(home, SMALL, **how)
    assert not home.log.exists() or not stored(home)
    assert not home.simulated.exists()


def test_the_smallest_world(home: Home) -> None:
    report = simulate(home, Settings(), viewers=1, movies=1, days=3)
    assert report.added == report.read >= 1


def test_a_damaged_note_is_no_obstacle(home: Home) -> None:
    home.open()
    home.simulated.write_text('{"seed": 1, "base": "x"')
    assert simulate(home, SMALL, seed=1).added > 0
    home.simulated.write_text("[]")
    assert simulate(home, SMALL, seed=1).added > 0

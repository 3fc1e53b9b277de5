"""The drift report of a real home: what it is compared with, when it says `moved`, what it keeps and what it reads."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from conf.home import Home
from conf.settings import Settings
from events.archive import archive
from events.event import AnyEvent, Click, Impression, Movie, Rating, Watch
from events.local_log import LocalLog
from events.store import FolderStore
from mlflow_server.ledger import Ledger
from pipelines.movement import unanswered_movement
from pipelines.prune import prune
from pipelines.report import DriftReport, ReportError, drift
from pipelines.traffic import Span, drawn_by, genres, rate_for, window
from tests.town import lines

DAY = 86_400_000
START = 1_700_006_400_000 // DAY * DAY
GENRES = ("Drama", "Comedy", "Horror", "War")
TASTE = (0.4, 0.3, 0.2, 0.1)
MOVIES = 80
SETTINGS = Settings()


def catalogue(genres: tuple[str, ...] = GENRES, first: int = 0) -> list[AnyEvent]:
    return [
        Movie(event_id=f"m{first + n}", movie_id=f"m{first + n}", title=f"M{n}", genres=(genres[n % len(genres)],))
        for n in range(MOVIES)
    ]


def week(
    number: int, taste: tuple[float, ...] = TASTE, viewers: int = 120, first: int = 0, seed: int = 0
) -> Iterator[AnyEvent]:
    """What viewers did in a week: each chooses a few movies, watches some minutes, rates half of them."""
    rng = np.random.default_rng([number, seed])
    for viewer in range(viewers):
        for n in range(int(rng.integers(1, 6))):
            genre = int(rng.choice(len(taste), p=taste))
            movie = first + genre + len(taste) * int(rng.integers(0, MOVIES // len(taste)) ** 2 / (MOVIES / 4))
            ts = START + number * 7 * DAY + int(rng.integers(0, 7 * DAY))
            who = {"user_id": f"u{viewer}", "movie_id": f"m{movie}"}
            name = f"{number}-{viewer}-{n}-{seed}"
            for minute in range(int(rng.integers(1, 5))):
                yield Watch(event_id=f"w{name}-{minute}", ts=ts, minute=minute, **who)
            if rng.random() < 0.5:
                yield Rating(event_id=f"r{name}", ts=ts, rating=float(rng.integers(1, 6)), scale=5, **who)
            yield Click(event_id=f"c{name}", ts=ts, **who)


def add(home: Home, *batches: Iterator[AnyEvent] | list[AnyEvent]) -> None:
    with LocalLog(home.log) as log:
        for batch in batches:
            log.append_all(batch)


def end_of(home: Home, number: int) -> None:
    """Put the home's clock to the last moment of a week."""
    ts = START + (number + 1) * 7 * DAY - 1
    add(home, [Click(event_id=f"end{number}", ts=ts, user_id="clock", movie_id="m0")])


def registered(home: Home, version: int, ts: int) -> None:
    facts = {"version": version, "model": "EASE", "release": f"r{version}", "snapshot": f"s{version}", "commit": "c"}
    Ledger.to_write(home.ledger, home.keys).append("registered", facts, actor="ada", ts=ts)


def promoted(home: Home, version: int, ts: int, alias: str = "champion") -> None:
    body = {"version": version, "release": f"r{version}", "alias": alias, "rule": "as a test has it", "from": None}
    Ledger.to_write(home.ledger, home.keys).append("promotion", body, actor="ada", ts=ts)


def champion(home: Home, week: int) -> None:
    """Version 1 was trained on what came before a week, and is in charge since."""
    registered(home, 1, START + week * 7 * DAY)
    promoted(home, 1, START + week * 7 * DAY)


@pytest.fixture
def live(home: Home) -> Home:
    """Two weeks of history, then a champion and its first two weeks; the second one is over."""
    add(home, catalogue(), week(0), week(1), week(2), week(3))
    champion(home, 2)
    end_of(home, 3)
    return home


MOVED = (0.1, 0.3, 0.5, 0.1)


def test_a_movement_is_found_answered_once_and_then_what_it_led_to_is_the_measure(live: Home) -> None:
    quiet = drift(live, SETTINGS)
    assert (quiet.verdict, quiet.rate) == ("quiet", 1.0)
    assert quiet.reference.startswith("the first days of version 1 in charge")
    _kept_as_the_ledger_says(live, quiet)

    add(live, week(4, MOVED))
    end_of(live, 4)
    once = drift(live, SETTINGS)
    assert once.verdict == "quiet"
    assert "Horror rose from" in once.sentences[1]
    assert drift(live, SETTINGS).verdict == "quiet", "looking twice at one window is one run"
    assert unanswered_movement(lines(live)) is None

    add(live, week(5, MOVED))
    end_of(live, 5)
    moved = drift(live, SETTINGS)
    assert (moved.verdict, moved.decision.verdict) == ("moved", "fail")
    asked = unanswered_movement(lines(live))
    assert asked is not None
    assert asked.seq == moved.entry_seq

    registered(live, 2, START + 6 * 7 * DAY)
    assert unanswered_movement(lines(live)) is None
    soon = drift(live, SETTINGS)
    assert (soon.verdict, soon.sentences[0]) == ("cannot say", "the window after the last movement is not over yet")

    add(live, week(6, MOVED))
    end_of(live, 6)
    after = drift(live, SETTINGS)
    assert after.verdict == "quiet"
    assert after.reference.startswith("the traffic of the last movement")
    assert unanswered_movement(lines(live)) is None


def _kept_as_the_ledger_says(home: Home, made: DriftReport) -> None:
    entry = next(e for e in lines(home, "report") if e.seq == made.entry_seq)
    names = set(entry.body["files"])
    assert {"index.html", "drift.json", "evidently.html", "evidently.json", "genre.png"} <= names
    for name, digest in entry.body["files"].items():
        assert hashlib.sha256((made.folder / name).read_bytes()).hexdigest() == digest
    decisions = Ledger.to_read(home.ledger, home.keys).decisions(made.decision.subject)
    assert decisions["audience"] == made.decision
    page = made.html.read_text()
    assert 'src="genre.png"' in page
    assert 'href="evidently.html"' in page
    assert json.loads((made.folder / "drift.json").read_text())["verdict"] == "quiet"
    assert sum(len(plot.png) for plot in made.plots) < 150_000


def test_before_the_champion_has_lived_a_window_the_training_history_is_the_measure(home: Home) -> None:
    add(home, catalogue(), week(0), week(1), week(2))
    champion(home, 2)
    end_of(home, 2)
    made = drift(home, SETTINGS)
    assert made.verdict == "quiet"
    assert made.reference.startswith("the end of the history that the champion was trained on (2023-11-22")


def test_a_history_of_another_kind_is_no_measure(home: Home) -> None:
    only_ratings = [e for n in (0, 1) for e in week(n) if isinstance(e, Rating)]
    add(home, catalogue(), only_ratings, week(2, MOVED))
    champion(home, 2)
    end_of(home, 2)
    made = drift(home, SETTINGS)
    assert made.verdict == "cannot say"
    assert "traffic of another kind" in made.sentences[0]


def test_an_experiment_that_is_old_enough_has_its_own_measure(live: Home) -> None:
    add(live, week(4, MOVED), week(5, MOVED))
    promoted(live, 2, START + 4 * 7 * DAY, "challenger")
    end_of(live, 5)
    made = drift(live, SETTINGS)
    assert made.reference.startswith("the first days of the experiment with version 2")
    assert made.verdict == "quiet"


def test_an_empty_window_cannot_say(live: Home) -> None:
    made = drift(live, replace_clock(SETTINGS))
    assert made.verdict == "cannot say"
    assert "0 viewers are in the current window; 50 are asked" in made.sentences[0]
    assert made.html.exists()
    body = lines(live, "report")[-1].body
    assert (body["differs"], body["verdict"]) == (None, "cannot say")


def replace_clock(settings: Settings) -> Settings:
    return settings.model_copy(update={"clock": "wall"})


def test_without_a_champion_or_any_data_it_says_so(home: Home) -> None:
    with pytest.raises(ReportError, match="holds no data yet"):
        drift(home, SETTINGS)
    add(home, catalogue(), week(0))
    made = drift(home, SETTINGS)
    assert (made.verdict, made.plots) == ("cannot say", ())
    assert "no version is in charge yet" in made.sentences[0]


def test_drf_04_a_new_genre_and_one_that_is_gone_are_named(live: Home) -> None:
    add(live, catalogue(("Drama", "Interactive"), first=500), week(4, (0.6, 0.4), first=500))
    end_of(live, 4)
    made = drift(live, SETTINGS)
    assert any("Interactive is new, with" in sentence for sentence in made.sentences)
    assert any("vanished" in sentence for sentence in made.sentences)


def test_drf_01_genres_that_are_gone_are_missing_data_and_the_rest_is_judged(live: Home) -> None:
    add(live, week(4, first=9000))  # movies that no catalogue names
    end_of(live, 4)
    made = drift(live, SETTINGS)
    assert made.verdict == "cannot say"
    assert "missing data: 100 % of the rows have no genre, 0 % in the reference" in made.sentences[0]
    assert next(f for f in made.told.found if f.name == "hour").p is not None
    assert (made.folder / "evidently.html").exists()


def test_what_we_recommended_is_shown_and_not_tested(live: Home) -> None:
    def slate(n: int, ts: int, movie: str, rung: str) -> Impression:
        return Impression(
            event_id=f"i{n}", ts=ts, wall_ts=ts, user_id=f"u{n}", arm="champion", release="r1", rung=rung,  # type: ignore[arg-type]
            items=(movie,), propensities=(1.0,), k=1, latency_ms=1.0,
        )  # fmt: skip

    then, now = START + 15 * DAY, START + 22 * DAY
    add(live, [slate(n, then, "m0", "model") for n in range(100)])
    add(live, [slate(100 + n, now, "m1", "popularity") for n in range(50)])
    made = drift(live, SETTINGS)
    assert made.verdict == "quiet"
    assert made.told.ours[0] == {
        "slates": 100,
        "different movies": 1,
        "rung model": 1,
        "arm champion": 1,
        "genre Drama": 1,
    }
    assert made.told.ours[1] | {"slates": 50, "rung popularity": 1.0, "genre Comedy": 1.0} == made.told.ours[1]
    (came,) = made.told.rates
    assert (came.arm, came.rung, came.slates, came.viewers) == ("champion", "popularity", 50, 50)
    assert json.loads((made.folder / "drift.json").read_text())["rates"] == [came._asdict()]
    assert "champion, popularity" in made.html.read_text()


def test_rows_are_whole_viewers_and_a_row_is_a_viewer_and_a_movie(home: Home) -> None:
    who = {"user_id": "ada", "movie_id": "m1"}
    add(
        home,
        [Movie(event_id="x", movie_id="m1", title="X", genres=("War", "Drama"))],
        [Watch(event_id=f"w{n}", ts=START + n, minute=n % 3, **who) for n in range(9)],
        [Rating(event_id=f"r{n}", ts=START + 100 - n, rating=n, scale=5, **who) for n in range(1, 4)],
        [Click(event_id="c", ts=START - 5, user_id="bob", movie_id="m1")],
        [Click(event_id="d", ts=START - 5, user_id="bob", movie_id="m2")],
        [Click(event_id="e", ts=START - 4, user_id="eve", movie_id="m2")],
        [Click(event_id="late", ts=START + DAY, user_id="bob", movie_id="m1")],
    )
    seen = window(archived(home), genres(archived(home)), Span(START, START + DAY), 1.0)
    assert seen.viewers.tolist() == ["ada"]
    assert (seen.times.tolist(), seen.minutes.tolist(), seen.ratings.tolist()) == ([START], [3.0], [0.2])
    assert seen.genres.tolist() == [[True, True]]
    assert len(seen) == 1


def archived(home: Home) -> FolderStore:
    store = FolderStore(home.history)
    with LocalLog(home.log) as log:
        archive(log, store)
    return store


def test_a_large_log_is_sampled_by_whole_viewers(home: Home) -> None:
    add(home, catalogue(), *(week(n, viewers=1500) for n in (1, 2)))
    store, spans = archived(home), [Span(START + n * 7 * DAY, START + (n + 1) * 7 * DAY) for n in (1, 2)]
    rate = rate_for(store, spans, 2000)
    assert 0.1 < rate < 0.4
    known = genres(store)
    sampled, whole = window(store, known, spans[0], rate), window(store, known, spans[0], 1.0)
    assert sorted(sampled.viewers) == sorted(user for user in whole.viewers.tolist() if drawn_by(user) < rate)
    rows = dict(zip(whole.viewers.tolist(), np.bincount(whole.users).tolist(), strict=True))
    assert dict(zip(sampled.viewers.tolist(), np.bincount(sampled.users).tolist(), strict=True)).items() <= rows.items()
    assert sum(len(window(store, known, span, rate)) for span in spans) < 2400


def test_old_reports_are_pruned_one_by_one(live: Home) -> None:
    for name, days in (("2020-01-01-old", 100), ("2023-01-01-new", 10)):
        folder = live.reports / "drift" / name
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - days * 86_400,) * 2)
    done = prune(live, SETTINGS)
    assert [r.name for r in done.removed if r.kind == "report"] == ["2020-01-01-old"]
    assert (live.reports / "drift" / "2023-01-01-new").exists()


@pytest.mark.server
def test_the_verb_in_a_process_of_its_own(live: Home) -> None:
    few = {"GREENLIGHT_DRIFT__MAX_ROWS": "300"}
    done = subprocess.run(
        [sys.executable, "greenlight.py", "report", "drift", "--mail", "--json"],
        env=live.environment(**few),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["verdict"] in ("quiet", "cannot say")
    assert 0 < told["rate"] < 1
    assert Path(told["html"]).exists()
    assert told["mail"]
    assert lines(live, "report")[-1].seq == told["entry_seq"]

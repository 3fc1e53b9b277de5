"""Outcomes of a real home: what is in the log, in the archive or in both is read, and read once."""

from pathlib import Path

import pytest

from conf.home import Home
from conf.settings import Settings
from events.archive import GROUP, archive
from events.event import EVENTS, IMPRESSIONS, Click, Impression
from events.local_log import LocalLog
from events.store import history_store
from pipelines.outcomes import outcomes, rates

DAY = 86_400_000
T = 20_000 * DAY
SETTINGS = Settings()


def shown(request_id: str, user: str, at: int) -> Impression:
    return Impression(
        event_id=request_id, ts=T + at, wall_ts=T, user_id=user, arm="champion", release="d", rung="model",
        items=("m",), propensities=(1.0,), k=1, latency_ms=1.0,
    )  # fmt: skip


def clicked(event_id: str, user: str, at: int) -> Click:
    return Click(event_id=event_id, ts=T + at, user_id=user, movie_id="m")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").open()


def clicks(home: Home, since: int = 0, until: int = 9 * DAY) -> dict[str, float]:
    found = outcomes(home, SETTINGS, since_ms=T + since, until_ms=T + until, metric="clicks")
    return dict(zip(found.users.tolist(), found.mean.tolist(), strict=True))


def test_a_home_without_anything_has_none(home: Home) -> None:
    assert clicks(home) == {}


def test_log_and_archive_are_one(home: Home) -> None:
    with LocalLog(home.log) as log:
        log.append(IMPRESSIONS, [shown("p", "u", 0), shown("q", "v", DAY)])
        archive(log, history_store(home, SETTINGS.storage))
        log.append(EVENTS, [clicked("c", "u", 5), clicked("d", "v", DAY + 5)])
        assert clicks(home) == {"u": 1, "v": 1}
        log.append(EVENTS, [clicked("late", "u", 4)])
        log.append(IMPRESSIONS, [shown("r", "v", 2 * DAY)])
        assert clicks(home) == {"u": 1, "v": 0.5}
        assert log.lag(EVENTS, GROUP) == 0


def test_what_was_dropped_from_the_log_counts_too(home: Home) -> None:
    with LocalLog(home.log) as log:
        log.append(IMPRESSIONS, [shown("p", "u", 0)])
        log.append(EVENTS, [clicked("c", "u", 5)])
        archive(log, history_store(home, SETTINGS.storage))
    home.log.unlink()
    assert clicks(home) == {"u": 1}


def test_only_slates_and_events_of_the_period_count(home: Home) -> None:
    with LocalLog(home.log) as log:
        log.append(IMPRESSIONS, [shown(f"q{n}", f"u{n}", n * 100) for n in range(4)])
        log.append(EVENTS, [clicked(f"c{n}", f"u{n}", n * 100 + 99) for n in range(4)])
    assert clicks(home, since=100, until=299) == {"u1": 1, "u2": 1}
    assert clicks(home, since=101, until=298) == {"u2": 0}
    assert clicks(home, since=100, until=100) == {"u1": 0}
    assert clicks(home, since=101, until=100) == {}
    assert len(clicks(home, since=-T, until=10**18)) == 4


def test_rates_of_a_period(home: Home) -> None:
    with LocalLog(home.log) as log:
        log.append(IMPRESSIONS, [shown("p", "u", 0), shown("q", "v", 0), shown("r", "v", DAY)])
        log.append(EVENTS, [clicked("c", "u", 5)])
    (one,) = rates(home, SETTINGS, since_ms=T, until_ms=T + 5)
    assert one == ("champion", "model", 2, 2, 0.5, 0.0, 0.0)

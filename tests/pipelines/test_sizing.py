"""How long an A/B must be, from the slates of a home."""

import pytest

from conf.home import Home
from conf.sections.experiment import Experiment
from conf.settings import Settings
from events.event import AnyEvent, Impression, Rating
from events.local_log import LocalLog
from monitoring.experiment import users_for
from pipelines.sizing import SizingError, size

SETTINGS = Settings(experiment=Experiment(effect=0.2))
DAY_MS, START = 86_400_000, 1_700_000_000_000
VIEWERS, DAYS = 1000, 10


def slate(viewer: int, arm: str = "champion") -> Impression:
    ts = START + viewer * DAYS * DAY_MS // VIEWERS
    return Impression(
        event_id=f"s{viewer}-{arm}", ts=ts, wall_ts=ts, user_id=f"u{viewer}", arm=arm, release="r", rung="model",
        items=("x",), propensities=(1.0,), k=10, latency_ms=1.0,
    )  # fmt: skip


def rating(viewer: int, stars: float) -> Rating:
    ts = START + viewer * DAYS * DAY_MS // VIEWERS + 1000
    return Rating(event_id=f"r{viewer}", ts=ts, user_id=f"u{viewer}", movie_id="x", rating=stars, scale=5)


def home_of(root: Home, *events: AnyEvent) -> Home:
    root.open()
    with LocalLog(root.log) as log:
        log.append_all(events)
    return root


def test_it_is_as_long_as_the_viewers_and_their_variance_ask_for(home: Home) -> None:
    half = [rating(viewer, 5.0 if viewer % 2 else 1.0) for viewer in range(VIEWERS)]
    found = size(home_of(home, *map(slate, range(VIEWERS)), *half), SETTINGS, days=DAYS)
    assert (found.viewers, found.mean) == (VIEWERS, 0.5)
    each = users_for(0.99, 0.1, found.sd)
    assert found.days == pytest.approx(2 * each / VIEWERS * DAYS)
    assert f"takes {found.days:.3g} days" in found.sentence
    halved = SETTINGS.model_copy(update={"experiment": Experiment(effect=0.1)})
    assert size(home, halved, days=DAYS).days == pytest.approx(4 * found.days, rel=0.05)


def test_where_nothing_is_known_it_says_so(home: Home) -> None:
    served = [slate(viewer) for viewer in range(VIEWERS)]
    with pytest.raises(SizingError, match="1,000 viewers were served by the champion"):
        size(home_of(home, *served, *(rating(viewer, 1.0) for viewer in range(VIEWERS))), SETTINGS, days=DAYS)
    with pytest.raises(SizingError, match=r"no A/B can be sized: \S+ viewers"):
        size(home, SETTINGS, days=0.001)

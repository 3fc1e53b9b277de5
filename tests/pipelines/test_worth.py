"""By the simulator's truth: is a ranker that learned from slates worth more than one that could not?"""

from pathlib import Path

import numpy as np
import pytest

from conf.home import Home
from conf.sections.audience import AudienceConf
from conf.settings import Settings
from events.event import AnyEvent, Impression
from events.local_log import LocalLog
from events.sources.audience import Audience, Visit
from models.base import Recommender
from models.interactions import Interactions, histories_of, live_counts
from models.ranker import Ranker
from pipelines.snapshot import cut

SETTINGS = Settings()
BEFORE, SERVED = 45, 10  # days without slates, and with them
WORLD = AudienceConf(viewers=1200, movies=600)


def slates(model: Recommender, past: Interactions, viewers: list[str], now_ms: int) -> list[list[str]]:
    """The slates of a morning, best first."""
    code = {name: number for number, name in enumerate(past.user_ids.tolist())}
    histories = histories_of(past, np.array([code.get(viewer, -1) for viewer in viewers]), now_ms)
    made = model.slates(histories, live_counts(past, model.half_lives_days, now_ms), now_ms, 10)
    return [past.catalogue.ids[row[row >= 0]].tolist() for row in made.items]


def impression(visit: Visit, items: list[str]) -> Impression:
    return Impression(
        event_id=f"{visit.user_id}-{visit.ts}", ts=visit.ts, wall_ts=visit.ts, user_id=visit.user_id, arm="champion",
        release="r", rung="model", items=tuple(items), propensities=(1.0,) * len(items), k=10, latency_ms=1.0,
    )  # fmt: skip


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.long)])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Audience, Ranker, Path]:
    """An audience, the ranker that served it for some days, and the home in which all of that is."""
    home = Home(tmp_path_factory.mktemp("world")).open()
    audience = Audience.fresh(WORLD, request.param)
    with LocalLog(home.log) as log:
        log.append_all([*audience.movies, *audience.simulate(BEFORE)])
        served = audience.after(BEFORE)
        model = Ranker().fit(cut(home, SETTINGS).interactions)
        for day in range(SERVED):
            visits, past = served.visits(day), cut(home, SETTINGS).interactions
            made = slates(model, past, [visit.user_id for visit in visits], past.end_ms)
            events: list[AnyEvent] = list(served.organic(day))
            for visit, items in zip(visits, made, strict=True):
                events.append(impression(visit, items))
                events += served.react(visit.user_id, items, visit.ts, events[-1].event_id)
            log.append_all(sorted(events, key=lambda event: event.ts))
    return served, model, home.root


def test_one_that_learned_from_slates_is_worth_more(world: tuple[Audience, Ranker, Path]) -> None:
    served, old, root = world
    past = cut(Home(root), SETTINGS).interactions
    new = Ranker().fit(past)
    assert new.weights != old.weights
    visits = served.visits(SERVED)
    viewers = [visit.user_id for visit in visits]

    def worth(model: Recommender) -> np.ndarray:
        made = slates(model, past, viewers, past.end_ms)
        return np.array([served.value(v.user_id, slate, v.ts) for v, slate in zip(visits, made, strict=True)])

    before, after = worth(old), worth(new)
    assert (after - before).mean() > 0.2 * before.mean()
    assert (after - before).mean() > 5 * (after - before).std() / len(before) ** 0.5

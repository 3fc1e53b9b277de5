"""`why` of slates that are in the journal, in the log or only in the archive."""

import pytest

from conf.home import Home
from conf.sections.storage import Storage
from events.archive import archive
from events.event import IMPRESSIONS, Impression
from events.local_log import LocalLog
from events.store import history_store
from pipelines.why import UnknownRequest, explain


@pytest.mark.parametrize("explored", [True, False])
def test_it_says_whether_a_slate_was_explored(home: Home, explored: bool) -> None:
    slate = Impression(
        event_id="q", ts=1, wall_ts=1, user_id="u", arm="champion", release="d", rung="model", items=("m", "n"),
        propensities=(0.01, 0.99), k=2, latency_ms=1.0, explored=explored,
    )  # fmt: skip
    with LocalLog(home.log) as log:
        log.append(IMPRESSIONS, [slate])
        found = explain(home, Storage(), "q")
        archive(log, history_store(home, Storage()))
    home.log.unlink()
    assert found == explain(home, Storage(), "q")
    assert (found.explored, found.items, found.rung) == (explored, ("m", "n"), "model")
    with pytest.raises(UnknownRequest):
        explain(home, Storage(), "another")

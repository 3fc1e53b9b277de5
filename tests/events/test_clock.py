"""The home's now: the wall's, or that of the newest viewer event."""

import time

from conf.home import Home
from conf.settings import Settings
from events.clock import now_ms
from events.event import Account
from events.local_log import LocalLog


def test_the_event_clock_is_the_newest_viewer_event(home: Home) -> None:
    settings = Settings(clock="event")
    assert now_ms(home, settings) == 0
    assert not home.log.exists()
    with LocalLog(home.log) as log:
        log.append_all([Account(event_id=f"a{n}", ts=ts, user_id="u") for n, ts in enumerate((1000, 3000, 2000))])
    assert now_ms(home, settings) == 3000


def test_the_wall_clock_is_the_time(home: Home) -> None:
    before = time.time_ns() // 1_000_000
    assert before <= now_ms(home, Settings(clock="wall")) <= time.time_ns() // 1_000_000

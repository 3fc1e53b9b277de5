"""When lag is an alarm: tables of looks, ten seconds apart. Limits: more than 1,000 for 60 s, or over 300 s old."""

import math

import pytest

from conf.sections.kafka import Lag
from monitoring.lag import Behind, Watched, look

LOOK_S = 10.0


def alarms(looks: list[tuple[int, float | None]], conf: Lag | None = None, every_s: float = LOOK_S) -> str:
    """A letter for each look: `A` where there is an alarm after it."""
    watched, found = Watched(), ""
    for number, (messages, seconds) in enumerate(looks):
        behind = Behind("archive", messages, seconds)
        watched = look(watched, behind, every_s if number else 0.0, conf or Lag())
        found += "A" if watched.alarm else "."
    return found


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        pytest.param([(1001, 5)] * 8, "......AA", id="too much for a minute: it is 60 s at the seventh look"),
        pytest.param([(1000, 5)] * 8, "........", id="just the limit is none"),
        pytest.param([(10**9, 5)], ".", id="one look is none, however much waits"),
        pytest.param([(1001, 5)] * 6 + [(1000, 5)] + [(1001, 5)] * 6, ".............", id="the minute begins anew"),
        pytest.param([(5, 301)] * 3, ".AA", id="too old, at the second look"),
        pytest.param([(5, 300)] * 3, "...", id="just old enough"),
        pytest.param([(5, 301), (5, 1), (5, 301)], "...", id="old for one look: the wall clock jumped"),
        pytest.param([(5, math.nan)] * 2, ".A", id="an age that is no number"),
        pytest.param([(5, math.inf)] * 2, ".A", id="nor one without end"),
        pytest.param([(5, None)] * 3, "...", id="an age that is not known"),
        pytest.param([(5000, None)] * 7, "......A", id="but much is much"),
        pytest.param([(0, 0.0)] * 3, "...", id="nothing waits"),
    ],
)
def test_an_alarm_begins(looks: list[tuple[int, float | None]], expected: str) -> None:
    assert alarms(looks) == expected


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        pytest.param([(1000, 5), (501, 5), (500, 5)], "AA.", id="much is over at half of the limit"),
        pytest.param([(400, 151), (400, 150)], "A.", id="old is over at half of the limit"),
        pytest.param([(900, 5), (1100, 5), (900, 5)], "AAA", id="swinging about the limit is one alarm"),
        pytest.param([(0, 0.0), (2000, 5)], "..", id="and the next one needs its minute"),
        pytest.param([(400, math.nan)], "A", id="what is no number is no calm"),
    ],
)
def test_an_alarm_ends(after: list[tuple[int, float | None]], expected: str) -> None:
    assert alarms([(2000, 200)] * 7 + after)[7:] == expected


def test_the_limits_are_the_settings() -> None:
    assert alarms([(3, 1)] * 3, Lag(messages=2, for_s=20)) == "..A"
    assert alarms([(3, 1)] * 2, Lag(messages=2, for_s=0)) == "AA"
    assert alarms([(3, 2)] * 2, Lag(seconds=1)) == ".A"


def test_time_that_runs_backwards_counts_as_none() -> None:
    assert alarms([(2000, 1)] * 20, every_s=-10.0) == "." * 20

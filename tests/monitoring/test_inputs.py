"""Gate `inputs`, as tables of numbers."""

from dataclasses import replace

import pytest

from conf.home import Home
from conf.sections.gates import InputsGate
from conf.settings import Settings
from events.clock import now_ms
from events.event import Account, Rating
from events.local_log import LocalLog
from monitoring.gates.inputs import SCHEMA, InputsEvidence, judge
from pipelines.snapshot import cut

CONF = InputsGate()
NAN = float("nan")
DAY = 86_400_000
NOW = 1_700_000_000_000

GOOD = InputsEvidence(
    snapshot="s",
    schema=SCHEMA,
    interactions=5000,
    viewers=500,
    items=300,
    lowest=0.1,
    highest=1.0,
    not_finite_share=0.0,
    missing_share=0.01,
    duplicate_share=0.0,
    unreadable_share=0.0,
    start_ms=NOW - 300 * DAY,
    newest_ms=NOW,
    now_ms=NOW,
    latest_ms=NOW + 300_000,
)


def test_good_data_passes() -> None:
    decision = judge(GOOD, CONF)
    assert (decision.gate, decision.verdict, decision.subject) == ("inputs", "pass", "s")
    assert decision.evidence == {"snapshot": "s"}
    assert decision.valid_until_ms is None
    assert len(decision.checks) == 13


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": {**SCHEMA, "time": "double"}}, "columns differ: time is double"),
        ({"schema": {}}, "user is missing"),
        ({"interactions": 999}, "the number of interactions is 999"),
        ({"viewers": 1}, "the number of viewers is 1; at least 50"),
        ({"items": 1}, "the number of items is 1; at least 50"),
        ({"interactions": NAN}, "not a finite number"),
        ({"lowest": -0.1}, "the lowest strength is -0.1"),
        ({"highest": 2.0}, "the highest strength is 2"),
        ({"highest": NAN}, "not a finite number"),
        ({"not_finite_share": 0.001}, "strengths without a number"),
        ({"missing_share": 0.21}, "movies without title or genre is 0.21"),
        ({"duplicate_share": 0.51}, "repeated interactions is 0.51"),
        ({"duplicate_share": NAN}, "not a finite number"),
        ({"unreadable_share": 0.06}, "unreadable lines is 0.06"),
        ({"start_ms": NOW / 1000}, "first_time 1700000000 ms is not between 1990 and now: another unit"),
        ({"newest_ms": NOW + 400_000}, "newest_time"),
        ({"newest_ms": NAN}, "newest_time nan"),
        ({"now_ms": NOW + 15 * DAY}, "age of the newest interaction in days is 15; at most 14"),
    ],
)
def test_each_fault_is_named(change: dict, reason: str) -> None:
    decision = judge(replace(GOOD, **change), CONF)
    assert decision.verdict == "fail"
    assert reason in decision.reason


def test_without_any_catalogue_it_passes_and_says_that_slates_carry_ids_only() -> None:
    bare = judge(replace(GOOD, missing_share=1.0, no_catalogue=True), CONF)
    assert bare.verdict == "pass"
    assert "ids only" in next(check["reason"] for check in bare.checks if check["name"] == "missing")


def test_a_home_with_the_sites_lines_alone_is_fit(home: Home) -> None:
    made = (
        Rating(event_id=f"{u}-{m}", ts=NOW + 1000 * u + m, user_id=f"u{u}", movie_id=f"m{m}", rating=4, scale=5)
        for u in range(50)
        for m in range(u % 7, 60, 2)
    )
    with LocalLog(home.log) as log:
        log.append_all(made)
    snapshot = cut(home, Settings())
    decision = judge(InputsEvidence.of(snapshot.id, snapshot.statistics, now_ms(home, Settings())), CONF)
    assert (decision.verdict, decision.reason) == ("pass", "all 13 checks passed")


def test_limits_are_settings() -> None:
    tiny = InputsGate(min_interactions=1, min_viewers=1, min_items=1)
    assert judge(replace(GOOD, interactions=1, viewers=1, items=1), tiny).verdict == "pass"


def test_a_snapshot_of_one_viewer_is_refused_with_its_numbers(home: Home) -> None:
    one = Rating(event_id="e", ts=NOW, user_id="u", movie_id="m", rating=4, scale=5)
    with LocalLog(home.log) as log:
        log.append_all([one, Account(event_id="a", ts=NOW + 20 * DAY, user_id="v")])
    snapshot = cut(home, Settings())
    decision = judge(InputsEvidence.of(snapshot.id, snapshot.statistics, now_ms(home, Settings())), CONF)
    assert decision.verdict == "fail"
    for part in ("viewers is 1", "items is 1", "interactions is 1", "in days is 20"):
        assert part in decision.reason

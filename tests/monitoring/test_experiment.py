"""Experiments: false positives under looking daily, coverage, power, the sample ratio, verdicts, hostile names."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from monitoring import experiment
from monitoring.experiment import (
    Guardrail,
    NotPerUser,
    PerUser,
    Plan,
    PlanError,
    compare,
    days_for,
    half_width,
    look,
    plain,
    sample_ratio_p,
    users_for,
)

PLAN = Plan("a test", guardrails=(Guardrail("served", 0.02),), min_users=100, effect=0.2)
DAYS = 20


def days_of(rng: np.random.Generator, kind: str, viewers: int, lift: float = 0.0) -> Iterator[tuple]:
    """Each day, the viewers' means so far in both arms. Tastes are skewed. kind: `new` (each viewer comes once),
    `returning` (all come every day, so the means move while nobody is added), `mixed`."""
    challenger = rng.random(viewers) < 0.5
    taste = rng.gamma(0.5, 0.2, viewers) * np.where(challenger, 1 + lift, 1)
    first = {"new": rng.integers(0, DAYS, viewers), "returning": np.zeros(viewers)}.get(
        kind, rng.geometric(0.15, viewers) - 1
    )
    slates, likes = np.zeros(viewers), np.zeros(viewers)
    for day in range(DAYS):
        here = first == day if kind == "new" else first <= day
        today = np.where(here, 1 + rng.poisson(2, viewers), 0)
        slates += today
        likes += rng.poisson(taste * today)
        mean, seen = likes / np.maximum(slates, 1), slates > 0
        yield mean[seen & ~challenger], mean[seen & challenger]


def declared(kind: str, tests: int, viewers: int, effect: float, lift: float = 0.0) -> tuple[int, int]:
    """How many of the tests, looked at daily, ever left the truth outside their bounds; ever would have promoted."""
    rng, wrong, promoted = np.random.default_rng(7), 0, 0
    for _ in range(tests):
        looks = [compare(a, b, level=0.95, effect=effect) for a, b in days_of(rng, kind, viewers, lift) if len(a) > 50]
        wrong += any(not (found.low <= lift * 0.1 <= found.high) for found in looks)
        promoted += any(found.low > 0 for found in looks)
    return wrong, promoted


@pytest.mark.parametrize("kind", ["new", "returning", "mixed"])
def test_exp_03_looking_daily_at_a_a_tests_finds_nothing(kind: str) -> None:
    """500 tests, 20 looks each. Of the nominal 5 %, 34 would be within two standard deviations; it is far fewer."""
    wrong, promoted = declared(kind, 500, 800, effect=0.3)
    assert wrong <= 25
    assert promoted <= 13


@pytest.mark.long
@pytest.mark.parametrize("effect", [0.05, 0.2, 0.5, 2.0])
@pytest.mark.parametrize("kind", ["new", "returning", "mixed"])
def test_a_a_at_length(kind: str, effect: float) -> None:
    wrong, promoted = declared(kind, 2000, 2000, effect)
    assert wrong <= 100
    assert promoted <= 50


def test_looking_daily_with_a_plain_interval_would_promote_what_is_equal() -> None:
    """What the sequence is for: this is the same data."""
    rng, wrong = np.random.default_rng(7), 0
    for _ in range(200):
        wrong += any(
            abs(b.mean() - a.mean()) > 1.96 * math.sqrt(a.var() / len(a) + b.var() / len(b))
            for a, b in days_of(rng, "new", 800)
        )
    assert wrong > 30  # 15 %, at a nominal 5 %


def test_the_truth_stays_within_the_bounds_at_every_look() -> None:
    wrong, promoted = declared("mixed", 200, 2000, effect=0.5, lift=0.6)
    assert wrong <= 10
    assert promoted > 150


@pytest.mark.parametrize(("effect", "sd"), [(0.1, 0.3), (0.05, 0.3), (2.0, 9.0)])
def test_the_size_for_99_per_cent_power_has_it(effect: float, sd: float) -> None:
    rng, size = np.random.default_rng(1), users_for(0.99, effect, sd)
    found = [
        compare(rng.normal(10 * effect, sd, size), rng.normal(11 * effect, sd, size), level=0.95, effect=0.1).low > 0
        for _ in range(1000)
    ]
    assert sum(found) >= 980  # 3 standard deviations below 990
    assert users_for(0.8, effect, sd) < size < users_for(0.99, effect, sd, level=0.99)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_the_days_for_99_per_cent_power_have_it(share: float) -> None:
    rng, plan = np.random.default_rng(3), Plan("size", effect=0.2, share=share)
    days = days_for(plan, rng.poisson(0.5, 3000) + rng.normal(0, 0.5, 3000), 6)
    arms = round(3000 / 6 * days * (1 - share)), round(3000 / 6 * days * share)

    def draws(mean: float, count: int) -> np.ndarray:
        return rng.poisson(mean, count) + rng.normal(0, 0.5, count)

    found = [compare(draws(0.5, arms[0]), draws(0.6, arms[1]), level=0.95, effect=0.2).low > 0 for _ in range(400)]
    assert sum(found) >= 388  # 99 %, less 4 standard deviations


def test_the_sequence_is_tightest_where_it_was_tuned() -> None:
    """Against the formula of theorem 2.2, written out."""
    alpha, sd, planned = 0.05, 1.0, 5000
    rho2 = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / planned

    def theorem(t: int) -> float:
        return sd * math.sqrt(2 * (t * rho2 + 1) / (t**2 * rho2) * math.log(math.sqrt(t * rho2 + 1) / alpha))

    tuned = theorem(planned)
    for t in (50, 500, 5000, 500_000):
        assert half_width(sd / math.sqrt(t), tuned, 0.95) == pytest.approx(theorem(t))
    others = [half_width(sd / math.sqrt(planned), tuned * factor, 0.95) for factor in (0.2, 0.5, 2, 5)]
    assert all(tuned < other for other in others)
    assert half_width(0.0, 0.0, 0.95) == 0
    assert half_width(1.0, 0.0, 0.95) == math.inf


# The sample ratio -----------------------------------------------------------------------------------------------------


def test_exp_01_a_lost_arm_alarms_and_nothing_is_won() -> None:
    assert sample_ratio_p((5000, 4600), 0.5) < 0.01
    rng = np.random.default_rng(0)
    found = look(PLAN, arm(rng, "a", 5000, 0.10), arm(rng, "b", 4600, 0.14), days=10)
    assert found.verdict == "invalid"
    assert "5,000 and 4,600 viewers" in found.reason
    assert found.difference.low > 0  # it would have won


def test_the_sample_ratio_rarely_alarms_however_often_one_looks() -> None:
    rng, alarms = np.random.default_rng(2), 0
    for _ in range(500):
        counts = np.cumsum(rng.random(3000) < 0.5)
        alarms += any(
            sample_ratio_p((int(n - counts[n - 1]), int(counts[n - 1])), 0.5) < 0.01 for n in range(50, 3000, 50)
        )
    assert alarms <= 10  # 1 % are 5
    assert sample_ratio_p((0, 0), 0.5) == 1
    assert sample_ratio_p((900, 100), 0.1) > 0.5
    assert sample_ratio_p((10**9, 0), 0.5) == 0


# Verdicts -------------------------------------------------------------------------------------------------------------


def arm(rng: np.random.Generator, name: str, viewers: int, likes: float, served: float = 1.0) -> PerUser:
    means = {"likes": rng.binomial(10, likes, viewers) / 10, "served": rng.binomial(20, served, viewers) / 20}
    return PerUser(tuple(f"{name}{n}" for n in range(viewers)), means)


@pytest.mark.parametrize(
    ("viewers", "likes", "served", "days", "verdict", "words"),
    [
        (2000, 0.14, 1.0, 10, "promote", "likes per slate are better by +0.0"),
        (2000, 0.14, 1.0, 3, None, "not final: day 3.0 of at most 28, at least 7 days; about 4.0 days left"),
        (90, 0.14, 1.0, 10, None, "90 of at least 100 viewers in the smaller arm"),
        (90, 0.14, 1.0, 28, "cannot say", "90 viewers in the smaller arm; 100 are asked, and the 28 days are over"),
        (2000, 0.06, 1.0, 10, "keep", "not better by 0"),
        (2000, 0.14, 0.8, 10, "keep", "served got worse by more than was declared"),
        (2000, 0.10, 1.0, 10, None, "not final: day 10.0 of at most 28"),
        (2000, 0.10, 1.0, 28, "keep", "were not shown to be better by 0"),
        (2000, 0.10, 1.0, 99, "keep", "the 28 days are over"),
        (2000, 0.14, 0.98, 28, "keep", "it was not shown that served did not get worse"),
    ],
)
def test_each_way_to_end(
    viewers: int, likes: float, served: float, days: float, verdict: str | None, words: str
) -> None:
    rng = np.random.default_rng(4)
    found = look(PLAN, arm(rng, "a", viewers, 0.10), arm(rng, "b", viewers, likes, served), days=days)
    assert (found.verdict, words in found.reason) == (verdict, True), found.reason
    assert (found.days_left is None) == (verdict is not None)


def test_a_margin_has_to_be_passed() -> None:
    rng = np.random.default_rng(4)
    a, b = arm(rng, "a", 2000, 0.10), arm(rng, "b", 2000, 0.14)
    assert look(replace(PLAN, margin=0.02), a, b, days=10).verdict == "promote"
    assert look(replace(PLAN, margin=0.04), a, b, days=10).verdict is None
    assert look(replace(PLAN, margin=0.08), a, b, days=10).verdict == "keep"


def test_nobody_and_nothing_liked_are_no_verdict() -> None:
    nobody = PerUser((), {"likes": np.zeros(0), "served": np.zeros(0)})
    assert look(PLAN, nobody, nobody, days=0).verdict is None
    assert look(PLAN, nobody, nobody, days=28).verdict == "cannot say"
    rng = np.random.default_rng(0)
    still = look(PLAN, arm(rng, "a", 500, 0.0), arm(rng, "b", 500, 0.0), days=10)
    assert still.verdict is None
    assert (
        json.loads(json.dumps(look(PLAN, nobody, nobody, days=1).body(), allow_nan=False))["difference"]["low"] is None
    )


def test_a_bot_with_a_tenth_of_the_traffic_is_one_viewer() -> None:
    """It likes all it is shown, and is shown a tenth of all slates: as a viewer it moves a mean by 1 / viewers."""
    rng = np.random.default_rng(5)
    a, b = arm(rng, "a", 1000, 0.10), arm(rng, "b", 1000, 0.10)
    likes = np.append(b.means["likes"], 20.0)
    bot = PerUser((*b.users, "bot"), {"likes": likes, "served": np.append(b.means["served"], 1.0)})
    assert look(PLAN, a, bot, days=10).verdict is None
    events = np.append(np.repeat(b.means["likes"], 3), np.full(330, 20.0))  # what slates instead of viewers would say
    assert compare(np.repeat(a.means["likes"], 3), events, level=0.95, effect=0.2).low > 0


def test_events_are_no_viewers() -> None:
    with pytest.raises(NotPerUser, match="1 viewers come more than once: give each viewer's mean"):
        PerUser(("ada", "bob", "ada"), {"likes": np.ones(3)})
    with pytest.raises(TypeError, match="one each is asked"):
        PerUser(("ada", "bob"), {"likes": np.ones(3)})
    with pytest.raises(NotPerUser, match="finite"):
        PerUser(("ada", "bob"), {"likes": np.array([1, np.nan])})


# What is declared -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("ok\r\nBcc: a@example.test", "ok Bcc: a@example.test"),
        ("\x1b[31mred\x1b[0m", "[31mred [0m"),
        ("a\u202eb\u2028c\u0000d\ue000e", "a b c d e"),
        ("  été   d'or ", "été d'or"),
        ("x" * 500, "x" * 79 + "…"),
        ("\ud800", ""),
        ("\n\n", ""),
    ],
)
def test_a_name_is_one_harmless_line(typed: str, kept: str) -> None:
    assert Plan(typed).name == plain(typed) == kept
    Plan(typed).digest().encode()


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"metric": "revenue"}, "metric 'revenue': name one of likes, clicks, watch_minutes"),
        ({"margin": math.nan}, "margin nan"),
        ({"level": 0.05}, "level 0.05"),
        ({"level": 1.0}, "level 1"),
        ({"effect": 0.0}, "effect 0.0"),
        ({"max_days": 3.0}, "min_days 7.0 and max_days 3.0"),
        ({"max_days": math.inf}, "max_days inf"),
        ({"max_days": 1e305}, "max_days 1e+305"),
        ({"window_hours": 1e300}, "window_hours 1e+300"),
        ({"effect": 1e308}, "effect 1e+308"),
        ({"margin": -1e308}, "margin -1e+308"),
        ({"min_users": 9}, "min_users 9: 10 or more"),
        ({"guardrails": (Guardrail("served", 0.1), Guardrail("served", 0.2))}, "guardrails served and served"),
        ({"share": 1.0}, "share 1.0"),
        ({"guardrails": (Guardrail("money", 0.1),)}, "guardrail 'money'"),
        ({"guardrails": (Guardrail("served", 1.5),)}, "guardrail served 1.5"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(part: dict, words: str) -> None:
    with pytest.raises(PlanError, match="cannot be declared") as told:
        replace(PLAN, **part)
    assert words in str(told.value)


@pytest.mark.parametrize("mean", [0.0, 0.1, 1 / 3, 123_456.789])
def test_arms_in_which_all_are_alike_do_not_differ_by_how_a_computer_rounds(mean: float) -> None:
    for users in ((150, 151), (200, 333), (417, 330), (1000, 777)):
        found = compare(*(np.full(n, mean) for n in users), level=0.9, effect=0.2)
        assert found.low <= 0 <= found.high


def test_a_guardrail_as_it_is_typed() -> None:
    assert Guardrail.typed("served=0.02") == Guardrail("served", 0.02)
    for wrong in ("served", "served=", "=x", "served=a\nb", ""):
        with pytest.raises(PlanError, match="write NAME=LOSS"):
            Guardrail.typed(wrong)


def test_a_plan_comes_back_from_the_ledger_with_the_same_digest() -> None:
    body = json.loads(json.dumps(experiment.asdict(PLAN)))
    assert Plan.of(body) == PLAN
    assert Plan.of(body).digest() == PLAN.digest() != replace(PLAN, margin=0.01).digest()

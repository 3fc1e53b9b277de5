"""Checks and how they fold: tables of numbers. NaN never passes."""

import math

import pytest

from monitoring.gates.verdict import Check, cannot_say, decide, failed, fold, passed

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("observed", "at_most", "verdict"),
    [
        (0.0, 1.0, "pass"),
        (1.0, 1.0, "pass"),
        (1.0000001, 1.0, "fail"),
        (-5.0, 0.0, "pass"),
        (NAN, 1.0, "fail"),
        (INF, 1.0, "fail"),
        (-INF, 1.0, "fail"),  # no measurement gives this
        (0.0, NAN, "fail"),
    ],
)
def test_at_most(observed: float, at_most: float, verdict: str) -> None:
    assert decide("size", observed, at_most=at_most, what="the size").verdict == verdict


@pytest.mark.parametrize(
    ("observed", "at_least", "verdict"),
    [
        (1.0, 1.0, "pass"),
        (2.0, 1.0, "pass"),
        (0.9999999, 1.0, "fail"),
        (0.0, 0.0, "pass"),
        (NAN, -1e9, "fail"),
        (INF, 0.0, "fail"),
        (-INF, 0.0, "fail"),
        (0.0, NAN, "fail"),
    ],
)
def test_at_least(observed: float, at_least: float, verdict: str) -> None:
    assert decide("size", observed, at_least=at_least, what="the size").verdict == verdict


def test_a_check_without_a_limit_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError, match="at_most or at_least"):
        decide("size", 1.0, what="the size")


def test_the_reason_holds_the_value_and_the_limit() -> None:
    check = decide("size", 3.0, at_most=2.0, what="the size")
    assert (check.observed, check.limit) == (3.0, 2.0)
    assert check.reason == "the size is 3; at most 2 is asked"


def test_nan_is_named_and_not_recorded_as_a_number() -> None:
    check = decide("size", NAN, at_most=2.0, what="the size")
    assert check.observed is None
    assert "not a finite number" in check.reason


P, F, C = passed("p", "fine"), failed("f", "broken"), cannot_say("c", "too few")


@pytest.mark.parametrize(
    ("checks", "verdict", "reason"),
    [
        ([], "cannot say", "no check was made"),
        ([P], "pass", "all 1 checks passed"),
        ([P, P], "pass", "all 2 checks passed"),
        ([P, C], "cannot say", "too few"),
        ([C, F, P], "fail", "broken"),
        ([F, failed("g", "also broken")], "fail", "broken; also broken"),
    ],
)
def test_fold(checks: list[Check], verdict: str, reason: str) -> None:
    decision = fold("gate", checks, subject="s", evidence={})
    assert (decision.verdict, decision.reason) == (verdict, reason)
    assert [c["name"] for c in decision.checks] == [c.name for c in checks]


def test_a_nan_that_slips_into_a_check_is_not_recorded_as_a_number() -> None:
    bad = Check("x", "fail", NAN, 1.0, "odd")
    assert fold("gate", [bad], subject="s", evidence={}).observed is None

"""The online gate: each verdict becomes a decision; numbers that do not hold never pass."""

import math
from dataclasses import replace

import pytest

from monitoring.experiment import Bounds, Guarded, Guardrail, Look, Plan
from monitoring.gates.online import VALID_MS, OnlineEvidence, judge

PLAN = Plan("a test", guardrails=(Guardrail("served", 0.02),))
GUARD = Guarded("served", 0.02, 1.0, 1.0, Bounds(0.02, 0.01, 0.03))
LOOK = Look(9.0, (500, 510), (0.1, 0.12), Bounds(0.02, 0.01, 0.03), 0.8, (GUARD,), None, "promote", "better")
WON = OnlineEvidence("cccc", "aaaa", "eeee", PLAN, "promote", "better", 1000, LOOK)


@pytest.mark.parametrize(
    ("verdict", "said"), [("promote", "pass"), ("keep", "fail"), ("invalid", "fail"), ("cannot say", "cannot say")]
)
def test_each_verdict(verdict: str, said: str) -> None:
    decision = judge(replace(WON, verdict=verdict, reason="why so"))  # type: ignore[arg-type]
    assert (decision.verdict, decision.reason, decision.subject) == (said, "why so", "cccc")
    assert decision.evidence == {"champion": "aaaa", "experiment": "eeee", "verdict": verdict}
    assert decision.valid_until_ms == 1000 + VALID_MS
    assert judge(replace(WON, verdict="cannot say", look=None)).verdict == "cannot say"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"difference": Bounds(0.02, math.nan, 0.03)}, "not a finite number"),
        ({"difference": Bounds(0.02, math.inf, 0.03)}, "not a finite number"),
        ({"difference": Bounds(0.02, -0.01, 0.03)}, "difference in likes is -0.01"),
        ({"difference": Bounds(0.0, 0.0, 0.0)}, "difference in likes is 0"),
        ({"ratio_p": 0.001}, "p of the sample ratio is 0.001"),
        ({"ratio_p": math.nan}, "not a finite number"),
        ({"users": (500, 3)}, "the viewers of the smaller arm is 3"),
        ({"days": 2.0}, "its length in days is 2"),
        (
            {"guards": (replace(GUARD, bounds=Bounds(0, -0.1, 0.1)),)},
            "served beyond the declared loss, lowest, is -0.1",
        ),
        ({"guards": (replace(GUARD, bounds=Bounds(0, math.nan, 0.1)),)}, "not a finite number"),
    ],
)
def test_numbers_that_do_not_hold_never_pass(change: dict, words: str) -> None:
    decision = judge(replace(WON, look=replace(LOOK, **change)))
    assert decision.verdict == "fail"
    assert words in decision.reason


def test_what_was_not_measured_cannot_pass() -> None:
    assert judge(replace(WON, look=None)).verdict == "cannot say"

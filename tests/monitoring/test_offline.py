"""The offline gate: tables of numbers."""

import math
from dataclasses import replace

import pytest

from conf.sections.gates import OfflineGate
from models.ranking import Interval
from monitoring.gates import offline
from monitoring.gates.offline import Disguise, OfflineEvidence, OnTest, Reference, SliceQuality

CONF = OfflineGate()
NAN = math.nan


def about(mean: float, half: float = 0.01) -> Interval:
    return Interval(mean, mean - half, mean + half)


GOOD = OfflineEvidence(
    subject="digest",
    evidence={"snapshot": "s", "popularity": "p", "run": "r"},
    baseline=False,
    viewers=1000,
    quality=0.20,
    over_random=about(0.19),
    reference=Reference("popularity", 0.19, about(0.012)),
    slices=(SliceQuality("new", 300, 0.10, 0.10), SliceQuality("heavy", 300, 0.3, 0.25)),
    disguise=Disguise(0.20, about(0.0, 0.005)),
    test=OnTest(0.19, 0.18, 0.19, Disguise(0.19, about(0.0, 0.005))),
)
POPULARITY = OfflineEvidence("digest", {}, baseline=True, viewers=1000, quality=0.19, over_random=about(0.18))


def verdict(**changes: object) -> tuple[str, str]:
    decision = offline.judge(replace(GOOD, **changes), CONF)  # type: ignore[arg-type]
    return decision.verdict, decision.reason


def test_a_good_candidate_passes_every_check() -> None:
    decision = offline.judge(GOOD, CONF)
    assert decision.verdict == "pass", decision.reason
    assert (decision.gate, decision.subject, decision.evidence) == ("offline", "digest", GOOD.evidence)
    assert len(decision.checks) == 11


@pytest.mark.parametrize(
    ("viewers", "expected"), [(0, "cannot say"), (99, "cannot say"), (100, "pass"), (10_000, "pass")]
)
def test_enough_viewers(viewers: int, expected: str) -> None:
    said, reason = verdict(viewers=viewers)
    assert said == expected
    assert expected == "pass" or f"{viewers} viewers had something to find; 100 are asked" in reason


@pytest.mark.parametrize(("faults", "expected"), [(0, "pass"), (1, "fail"), (10**9, "fail")])
def test_non_finite_scores(faults: int, expected: str) -> None:
    assert verdict(non_finite=faults)[0] == expected


@pytest.mark.parametrize(
    ("low", "expected"), [(0.0001, "pass"), (0.0, "fail"), (-0.1, "fail"), (NAN, "fail"), (-math.inf, "fail")]
)
def test_above_random_by_its_lower_bound(low: float, expected: str) -> None:
    said, reason = verdict(over_random=Interval(0.1, low, 0.2))
    assert said == expected
    assert expected == "pass" or "no better than a random order" in reason


@pytest.mark.parametrize(
    ("low", "quality", "expected"),
    [
        (0.01, 0.2, "pass"),
        (0.0, 0.2, "pass"),
        (-0.004, 0.2, "pass"),  # the margin is 2 % of the reference's quality
        (-0.0041, 0.2, "fail"),
        (-0.0041, 0.3, "pass"),
        (NAN, 0.2, "fail"),
        (0.01, NAN, "fail"),
    ],
)
def test_not_worse_by_its_lower_bound(low: float, quality: float, expected: str) -> None:
    assert verdict(reference=Reference("champion", quality, Interval(0.0, low, 0.1)))[0] == expected


def test_without_a_reference_it_cannot_say() -> None:
    assert verdict(reference=None) == ("cannot say", "there is nothing to compare with")
    said, reason = verdict(reference=Reference("champion version 3", NAN, None, "its release is damaged"))
    assert (said, reason) == ("cannot say", "champion version 3 could not be evaluated: its release is damaged")


@pytest.mark.parametrize(
    ("viewers", "quality", "popularity", "expected"),
    [
        (300, 0.081, 0.1, "pass"),
        (300, 0.079, 0.1, "fail"),
        (49, 0.0, 0.1, "pass"),  # too thin to judge
        (50, 0.0, 0.1, "fail"),
        (300, 0.0, 0.0, "pass"),  # popularity finds nothing there either
        (300, NAN, 0.1, "fail"),
    ],
)
def test_slices(viewers: int, quality: float, popularity: float, expected: str) -> None:
    sliced = (SliceQuality("heavy", 300, 0.3, 0.2), SliceQuality("light", viewers, quality, popularity))
    said, reason = verdict(slices=sliced)
    assert said == expected
    assert expected == "pass" or "light viewers" in reason


@pytest.mark.parametrize(
    ("low", "expected"),
    [(-0.05, "pass"), (0.0, "pass"), (0.0094, "pass"), (0.0101, "fail"), (0.2, "fail"), (NAN, "fail")],
)
def test_a_loss_in_disguise_is_a_leak(low: float, expected: str) -> None:
    """Limit: 5 % of the plain quality 0.20, by the lower bound."""
    said, reason = verdict(disguise=Disguise(0.1, Interval(low + 0.02, low, low + 0.04)))
    assert said == expected
    assert expected == "pass" or reason.startswith("leak: ")
    tested = replace(GOOD.test or OnTest(0, 0, 0), disguise=Disguise(0.1, Interval(low + 0.02, low, low + 0.04)))
    assert verdict(test=tested)[0] == expected


def test_a_model_that_cannot_answer_in_disguise_knows_identities() -> None:
    said, reason = verdict(disguise=Disguise(NAN, None, "KeyError: '1234'"))
    assert said == "fail"
    assert reason == "leak: with viewers and movies renamed the model cannot answer, so it knows them: KeyError: '1234'"
    assert verdict(disguise=None)[0] == "cannot say"


@pytest.mark.parametrize(("quality", "expected"), [(0.89, "pass"), (0.91, "fail"), (1.0, "fail")])
def test_nobody_finds_nearly_everything(quality: float, expected: str) -> None:
    said, reason = verdict(quality=quality, test=OnTest(quality, 0.19, 0.19))
    assert said == expected
    assert expected == "pass" or reason.startswith("leak: ")


@pytest.mark.parametrize(
    ("test", "popularity", "popularity_before", "expected"),
    [
        (0.20, 0.19, 0.19, "pass"),
        (0.29, 0.19, 0.19, "pass"),
        (0.31, 0.19, 0.19, "fail"),  # 1.5 times better on test, popularity the same
        (0.31, 0.30, 0.19, "pass"),  # everything was easier there
        (0.12, 0.19, 0.19, "fail"),  # validation was known
        (0.12, 0.12, 0.19, "pass"),
        (0.0, 0.19, 0.19, "cannot say"),
        (0.2, 0.0, 0.19, "cannot say"),
        (NAN, 0.19, 0.19, "fail"),
    ],
)
def test_test_against_validation(test: float, popularity: float, popularity_before: float, expected: str) -> None:
    assert verdict(test=OnTest(test, popularity, popularity_before))[0] == expected


def test_the_leaked_window_is_named() -> None:
    assert "the test window seems to have been known" in verdict(test=OnTest(0.4, 0.19, 0.19))[1]
    assert "the validation window seems to have been known" in verdict(test=OnTest(0.1, 0.19, 0.19))[1]


def test_only_the_chosen_one_may_pass() -> None:
    assert verdict(test=None, chosen_instead="ranker") == (
        "cannot say",
        "ranker was chosen on validation, so only it met the test window",
    )
    assert verdict(test=None)[0] == "cannot say"
    assert offline.screen(replace(GOOD, test=None), CONF).verdict == "pass"


def test_a_fault_is_the_reason_and_nothing_else_is_asked() -> None:
    decision = offline.judge(replace(GOOD, fault="ValueError: score must return a float array"), CONF)
    assert decision.reason == "the model could not be evaluated: ValueError: score must return a float array"
    assert [check["name"] for check in decision.checks] == ["answered"]
    said, reason = verdict(test=OnTest(NAN, 0.1, 0.1, fault="it hung"))
    assert (said, reason) == ("fail", "the model could not be evaluated on the test window: it hung")


def test_popularity_itself_only_has_to_beat_a_random_order() -> None:
    assert offline.judge(POPULARITY, CONF).verdict == "pass"
    assert offline.judge(replace(POPULARITY, over_random=about(0.0)), CONF).verdict == "fail"
    worse = Reference("champion", 0.25, about(-0.06))
    assert offline.judge(replace(POPULARITY, reference=worse), CONF).verdict == "fail"


def test_nothing_measured_never_passes() -> None:
    assert offline.judge(OfflineEvidence("digest", {}, baseline=False), CONF).verdict == "fail"
    assert offline.judge(OfflineEvidence("digest", {}, baseline=True), CONF).verdict == "cannot say"

"""The infra gate: tables of numbers, and faults in words."""

import math
from dataclasses import replace

import pytest

from conf.sections.gates import InfraGate
from monitoring.gates import infra
from monitoring.gates.infra import InfraEvidence, Probe

CONF = InfraGate()
GOOD = Probe(requests=50, median_ms=2.0, tail_ms=9.0, popularity_ms=0.2, memory_mb=100.0)
NAN = math.nan


def verdict(**changes: object) -> tuple[str, str]:
    decision = infra.judge(InfraEvidence("digest", {}, replace(GOOD, **changes)), CONF)  # type: ignore[arg-type]
    return decision.verdict, decision.reason


def test_a_sound_release_passes() -> None:
    decision = infra.judge(InfraEvidence("digest", {"run": "r"}, GOOD), CONF)
    assert (decision.verdict, decision.gate, decision.subject) == ("pass", "infra", "digest")
    assert len(decision.checks) == 14


@pytest.mark.parametrize(
    ("median_ms", "popularity_ms", "expected"),
    [
        (10.0, 0.2, "pass"),  # 50 times
        (10.1, 0.2, "fail"),
        (1000.0, 20.0, "pass"),  # a slow machine is not a slow model
        (NAN, 0.2, "fail"),
        (1.0, NAN, "fail"),
        (1.0, 0.0, "fail"),
        (math.inf, 0.2, "fail"),
    ],
)
def test_time_is_a_ratio_to_popularity(median_ms: float, popularity_ms: float, expected: str) -> None:
    assert verdict(median_ms=median_ms, popularity_ms=popularity_ms)[0] == expected


@pytest.mark.parametrize(
    ("tail_ms", "popularity_ms", "expected"),
    [(50.0, 0.2, "pass"), (100.0, 0.2, "fail"), (100.0, 1.0, "pass"), (101.0, 1.0, "fail"), (NAN, 0.2, "fail")],
)
def test_one_slow_slate_in_ten_is_too_many(tail_ms: float, popularity_ms: float, expected: str) -> None:
    said, reason = verdict(tail_ms=tail_ms, popularity_ms=popularity_ms)
    assert said == expected
    assert said == "pass" or "95 of 100 slates" in reason


@pytest.mark.parametrize(("mb", "expected"), [(0.0, "pass"), (1024.0, "pass"), (1025.0, "fail"), (NAN, "fail")])
def test_memory(mb: float, expected: str) -> None:
    assert verdict(memory_mb=mb)[0] == expected


@pytest.mark.parametrize(("requests", "expected"), [(0, "cannot say"), (1, "cannot say"), (2, "pass")])
def test_too_few_requests_cannot_say(requests: int, expected: str) -> None:
    assert verdict(requests=requests)[0] == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unlike": "20 of 20 known viewers got another slate"}, "got another slate than before the model was saved"),
        ({"non_finite": 1}, "1 of its scores are NaN or infinite"),
        (
            {"faults": ("the model failed on an empty history: ZeroDivisionError: division by zero",)},
            "an empty history",
        ),
        ({"short": "a known viewer got 7 movies of 20"}, "got 7 movies of 20"),
        ({"seen": "a known viewer got a movie seen before, or one twice"}, "seen before"),
        ({"unstable": "a known viewer"}, "a known viewer was answered differently the second time"),
        ({"batch_dependent": "an empty history"}, "an empty history was answered differently alone and in a batch"),
        ({"altered": "a known viewer"}, "changed the history"),
    ],
)
def test_each_fault_fails_and_is_named(changes: dict[str, object], words: str) -> None:
    said, reason = verdict(**changes)
    assert said == "fail"
    assert words in reason


def test_all_faults_are_named_at_once() -> None:
    said, reason = verdict(non_finite=3, unstable="a known viewer", memory_mb=9999.0)
    assert said == "fail"
    assert all(words in reason for words in ("NaN or infinite", "second time", "growth of memory"))


def test_what_cannot_be_loaded_fails_with_the_reason() -> None:
    decision = infra.judge(InfraEvidence("digest", {}, fault="the release cannot be loaded: KeyError: 'x'"), CONF)
    assert (decision.verdict, decision.reason) == ("fail", "the release cannot be loaded: KeyError: 'x'")
    assert infra.judge(InfraEvidence("digest", {}), CONF).verdict == "fail"


def test_another_process_must_agree() -> None:
    differs = InfraEvidence("digest", {}, GOOD, elsewhere="3 of 50 golden requests were answered differently")
    decision = infra.judge(differs, CONF)
    assert decision.verdict == "fail"
    assert decision.reason == "in a second process 3 of 50 golden requests were answered differently"

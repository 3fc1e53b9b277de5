"""How gates put their verdicts: checks that pass, fail or cannot say, folded into one frozen Decision."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mlflow_server.ledger import Decision, Verdict, finite


@dataclass(frozen=True)
class Check:
    """One question of a gate with its answer; `reason` is one plain sentence with the values in it."""

    name: str
    verdict: Verdict
    observed: float | None
    limit: float | None
    reason: str


def decide(
    name: str, observed: float, *, at_most: float | None = None, at_least: float | None = None, what: str
) -> Check:
    """Compare a number with its limit. NaN cannot pass. `what` names the number in words, with its unit."""
    limit = at_most if at_most is not None else at_least
    if limit is None:
        raise TypeError("decide needs at_most or at_least")
    if not math.isfinite(observed):
        return Check(name, "fail", None, limit, f"{what} is not a finite number ({observed})")
    holds = observed <= limit if at_most is not None else observed >= limit
    word = "at most" if at_most is not None else "at least"
    return Check(
        name,
        "pass" if holds else "fail",
        float(observed),
        limit,
        f"{what} is {observed:.4g}; {word} {limit:.4g} is asked",
    )


def none_non_finite(name: str, count: int) -> Check:
    """No score is NaN or infinite."""
    if count:
        return Check(name, "fail", float(count), 0.0, f"{count:,} of its scores are NaN or infinite")
    return Check(name, "pass", 0.0, 0.0, "no score is NaN or infinite")


def cannot_say(name: str, reason: str) -> Check:
    return Check(name, "cannot say", None, None, reason)


def failed(name: str, reason: str) -> Check:
    return Check(name, "fail", None, None, reason)


def passed(name: str, reason: str) -> Check:
    return Check(name, "pass", None, None, reason)


def fold(
    gate: str, checks: Sequence[Check], *, subject: str, evidence: dict[str, str], valid_until_ms: int | None = None
) -> Decision:
    """One decision from all checks: the first failure decides, then the first `cannot say`; none at all cannot say."""
    order = {"fail": 0, "cannot say": 1, "pass": 2}
    ranked = sorted(checks or [cannot_say(gate, "no check was made")], key=lambda check: order[check.verdict])
    worst = ranked[0]
    bad = [check.reason for check in ranked if check.verdict == worst.verdict and check.verdict != "pass"]
    reason = "; ".join(bad) or f"all {len(checks)} checks passed"
    return Decision(
        gate=gate,
        verdict=worst.verdict,
        subject=subject,
        observed=finite(worst.observed),
        limit=worst.limit,
        reason=reason,
        evidence=evidence,
        checks=tuple(asdict(check) for check in checks),
        valid_until_ms=valid_until_ms,
    )

"""The online gate: did the challenger win its A/B, by the plan that was declared before its first slate?

The statistics are in `monitoring.experiment`; this gate turns their verdict into a Decision that the alias gate asks
for: against whom it was won, in which experiment, and until when it counts.
"""

from dataclasses import dataclass, replace

from mlflow_server.ledger import Decision
from monitoring.experiment import RATIO_LEVEL, Look, Plan, Verdict
from monitoring.gates.verdict import Check, cannot_say, decide, failed, fold, passed

GATE = "online"
VALID_MS = 14 * 86_400_000  # after the experiment's end, on the home's clock


@dataclass(frozen=True)
class OnlineEvidence:
    """How one experiment ended. look: its last one; None where nothing could be measured."""

    subject: str  # digest of the challenger's release
    champion: str  # digest of the release it was compared with
    experiment: str  # hash of the ledger entry that declared it
    plan: Plan
    verdict: Verdict
    reason: str
    ended_ms: int  # the home's clock
    look: Look | None = None


def judge(e: OnlineEvidence) -> Decision:
    """`promote` passes, `keep` and `invalid` fail; whatever it says, numbers that do not hold never pass."""
    if e.look is None or e.verdict == "cannot say":
        checks = [cannot_say("evidence", e.reason)]
    else:
        checks = [*measured(e.look, e.plan), ended(e)]
    ids = {"champion": e.champion, "experiment": e.experiment, "verdict": e.verdict}
    decision = fold(GATE, checks, subject=e.subject, evidence=ids, valid_until_ms=e.ended_ms + VALID_MS)
    contradicted = e.verdict == "promote" and decision.verdict != "pass"
    return decision if contradicted else replace(decision, reason=e.reason)


def measured(look: Look, plan: Plan) -> list[Check]:
    """The numbers against what was declared."""
    low = look.difference.low
    better = decide("better", low, at_least=plan.margin, what=f"the lower bound of the difference in {plan.metric}")
    if low == plan.margin:  # above it is asked
        better = replace(better, verdict="fail")
    return [
        better,
        decide("sample_ratio", look.ratio_p, at_least=RATIO_LEVEL, what="p of the sample ratio"),
        decide("users", min(look.users), at_least=plan.min_users, what="the viewers of the smaller arm"),
        decide("days", look.days, at_least=plan.min_days, what="its length in days"),
        *(
            decide(f"guardrail {g.name}", g.bounds.low, at_least=0, what=f"{g.name} beyond the declared loss, lowest,")
            for g in look.guards
        ),
    ]


def ended(e: OnlineEvidence) -> Check:
    return passed("verdict", e.reason) if e.verdict == "promote" else failed("verdict", e.reason)

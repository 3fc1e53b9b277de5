"""The infra gate: will the release run? Judged on what a fresh process saw when it loaded the release and asked it.

The golden requests are fixed by a hash: known viewers, a viewer never seen, an empty history, a history of one movie,
a movie newer than the model, a moment later than the snapshot.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from conf.sections.gates import InfraGate
from mlflow_server.ledger import Decision
from monitoring.gates.verdict import Check, cannot_say, decide, failed, fold, none_non_finite, passed

GATE = "infra"


@dataclass(frozen=True)
class Probe:
    """What one fresh process saw. `faults`: what went wrong, a sentence for each kind of golden request."""

    requests: int = 0
    faults: tuple[str, ...] = ()
    non_finite: int = 0  # NaN or +inf scores in all answers
    short: str = ""  # the first slate that was not full, in words
    seen: str = ""  # the first slate that held a movie its viewer had seen, in words
    unstable: str = ""  # the first request that was answered differently the second time
    batch_dependent: str = ""  # the first request that was answered differently in company
    unlike: str = ""  # how many viewers are answered otherwise than by the fitted model, in words
    altered: str = ""  # the first request whose history the model changed
    median_ms: float = math.nan  # of one slate
    tail_ms: float = math.nan  # that 95 of 100 slates kept within
    popularity_ms: float = math.nan
    memory_mb: float = math.nan  # growth of the process while it loaded and answered


@dataclass(frozen=True)
class InfraEvidence:
    subject: str  # digest of the release
    evidence: dict[str, str]
    probe: Probe | None = None
    fault: str = ""  # why there is none: the release could not be built or loaded, or the process hung or died
    elsewhere: str = ""  # how the answers of a second process differ, or why it gave none


def judge(evidence: InfraEvidence, conf: InfraGate) -> Decision:
    """Every check, folded into one decision."""
    checks = [loads(evidence, conf)]
    if evidence.probe is not None:
        checks += [check(evidence.probe, conf) for check in QUESTIONS]
        checks.append(same_elsewhere(evidence))
    return fold(GATE, checks, subject=evidence.subject, evidence=evidence.evidence)


def loads(evidence: InfraEvidence, conf: InfraGate) -> Check:
    if evidence.probe is None:
        return failed("loads", evidence.fault or "no fresh process loaded the release")
    return passed("loads", "a fresh process loaded the release")


def enough_requests(probe: Probe, conf: InfraGate) -> Check:
    if probe.requests < min(conf.golden_requests, 2):
        return cannot_say("enough_requests", f"{probe.requests} golden requests were made")
    return passed("enough_requests", f"{probe.requests} golden requests were made")


def answers(probe: Probe, conf: InfraGate) -> Check:
    if probe.faults:
        return failed("answers", "; ".join(probe.faults))
    return passed("answers", f"all {probe.requests} golden requests were answered")


def finite(probe: Probe, conf: InfraGate) -> Check:
    return none_non_finite("finite", probe.non_finite)


def full(probe: Probe, conf: InfraGate) -> Check:
    return failed("full", probe.short) if probe.short else passed("full", "every slate was full")


def unseen(probe: Probe, conf: InfraGate) -> Check:
    return failed("unseen", probe.seen) if probe.seen else passed("unseen", "no slate held a movie seen before")


def deterministic(probe: Probe, conf: InfraGate) -> Check:
    if probe.unstable:
        return failed("deterministic", f"{probe.unstable} was answered differently the second time")
    return passed("deterministic", "the second pass gave the same answers")


def independent(probe: Probe, conf: InfraGate) -> Check:
    """A viewer's slate does not depend on who else is in the batch."""
    if probe.batch_dependent:
        return failed("independent", f"{probe.batch_dependent} was answered differently alone and in a batch")
    return passed("independent", "alone and in a batch the answers are the same")


def as_fitted(probe: Probe, conf: InfraGate) -> Check:
    """What was loaded is what was fitted and evaluated."""
    if probe.unlike:
        reason = f"{probe.unlike} than before the model was saved: save and load lose what it learned"
        return failed("as_fitted", reason)
    return passed("as_fitted", "loaded, it makes the slates that it made before it was saved")


def harmless(probe: Probe, conf: InfraGate) -> Check:
    if probe.altered:
        return failed("harmless", f"the model changed the history or the counts it was given for {probe.altered}")
    return passed("harmless", "the model left its input as it was")


def fast(probe: Probe, conf: InfraGate) -> Check:
    ratio = probe.median_ms / probe.popularity_ms if probe.popularity_ms > 0 else math.nan
    what = (
        f"the median time of a slate ({probe.median_ms:.3g} ms) over popularity's in the same process "
        f"({probe.popularity_ms:.3g} ms)"
    )
    return decide("fast", ratio, at_most=conf.time_ratio, what=what)


def steady(probe: Probe, conf: InfraGate) -> Check:
    """The slow slates are not far slower than the others. Stalls of a busy machine are shorter than `tail_ms`."""
    limit = max(conf.tail_ms, 2 * conf.time_ratio * probe.popularity_ms)
    return decide("steady", probe.tail_ms, at_most=limit, what="the time in ms that 95 of 100 slates keep within")


def small(probe: Probe, conf: InfraGate) -> Check:
    return decide("small", probe.memory_mb, at_most=conf.memory_mb, what="the growth of memory in MB")


def same_elsewhere(evidence: InfraEvidence) -> Check:
    """Another process gives the same answers: nothing depends on hash seeds, time or process ids."""
    if evidence.elsewhere:
        return failed("same_elsewhere", f"in a second process {evidence.elsewhere}")
    return passed("same_elsewhere", "a second process gave the same answers")


Question = Callable[[Probe, InfraGate], Check]
QUESTIONS: tuple[Question, ...] = (
    enough_requests,
    answers,
    finite,
    full,
    unseen,
    deterministic,
    independent,
    as_fitted,
    harmless,
    fast,
    steady,
    small,
)

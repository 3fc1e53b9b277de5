"""Gate `audience`: has the audience moved? `pass` is quiet, `fail` is moved.

One run that finds a difference is no movement: two of the last three runs against the same reference have to. A run
that cannot say is no run. Missing data keeps a quiet verdict from being given: what is not there cannot be quiet.
"""

from dataclasses import dataclass

from conf.sections.jobs import Drift
from mlflow_server.ledger import Decision
from monitoring.drift import Found, in_words, percent
from monitoring.gates.verdict import Check, cannot_say, fold, passed

GATE = "audience"
RUNS, NEEDED = 3, 2  # a movement is found by two of the last three runs
VALID_MS = 86_400_000  # a day on the home's clock


@dataclass(frozen=True)
class AudienceEvidence:
    """What the verdict rests on.

    subject: id of the sampled window; evidence: ids of what it was compared with; viewers: sampled, in the reference
    and the current window; earlier: whether each earlier run against this reference found a difference, oldest first.
    """

    subject: str
    now_ms: int  # the home's clock
    viewers: tuple[int, int]
    found: tuple[Found, ...]
    earlier: tuple[bool, ...] = ()
    evidence: dict[str, str] | None = None
    no_reference: str = ""  # why there is nothing to compare with


def differs(evidence: AudienceEvidence, conf: Drift) -> bool | None:
    """Whether this run found a difference; None where it cannot say and is no run."""
    if evidence.no_reference or min(evidence.viewers) < conf.min_viewers or all(f.p is None for f in evidence.found):
        return None
    return any(found.moved for found in evidence.found)


def judge(evidence: AudienceEvidence, conf: Drift) -> Decision:
    """The verdict on one sampled window; it stands for a day."""
    checks = [_compared(evidence, conf)]
    if (here := differs(evidence, conf)) is not None:
        checks += [_runs(here, evidence), *(_column(found, conf) for found in evidence.found)]
    return fold(
        GATE,
        checks,
        subject=evidence.subject,
        evidence=evidence.evidence or {},
        valid_until_ms=evidence.now_ms + VALID_MS,
    )


def _compared(evidence: AudienceEvidence, conf: Drift) -> Check:
    name = "compared"
    if evidence.no_reference:
        return cannot_say(name, evidence.no_reference)
    for count, where in zip(evidence.viewers, ("reference", "current window"), strict=True):
        if count < conf.min_viewers:
            return cannot_say(name, f"{count:,} viewers are in the {where}; {conf.min_viewers:,} are asked")
    if all(found.p is None for found in evidence.found):
        return cannot_say(name, "no column has data in both windows")
    return passed(name, f"{evidence.viewers[1]:,} viewers compared with {evidence.viewers[0]:,}")


def _runs(here: bool, evidence: AudienceEvidence) -> Check:
    runs = (*evidence.earlier, here)[-RUNS:]
    count = sum(runs)
    reason = f"{count} of the last {len(runs)} runs found a difference; {NEEDED} of {RUNS} are a movement"
    moved = [found.name for found in evidence.found if found.moved]
    if here:
        reason += f" (now in {', '.join(moved)})"
    return Check("runs", "fail" if count >= NEEDED else "pass", float(count), float(NEEDED - 1), reason)


def _column(found: Found, conf: Drift) -> Check:
    """One column cannot move the verdict to `fail`: the runs do. Lost data keeps it from `pass`."""
    if found.lost:
        return cannot_say(found.name, f"missing data: {in_words(found)}")
    if found.missing[1] > max(conf.max_missing_share, 2 * found.missing[0]):
        before, after = (percent(share) for share in found.missing)
        share = f"{after} of the rows have no {found.name}, {before} in the reference"
        return cannot_say(found.name, f"missing data: {share}")
    return passed(found.name, in_words(found))

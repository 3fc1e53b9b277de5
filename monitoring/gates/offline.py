"""The offline gate: a screen on past viewers before any present one meets the model.

It compares numbers that others measured. A model is judged on the validation window, plain and in disguise (the same
history with viewers, movies and titles renamed and the calendar moved): an honest model does as well in both. The one
that was chosen there also meets the test window; there its quality must be plausible against validation, where
popularity's own change from one window to the other is the yardstick.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from conf.sections.gates import OfflineGate
from mlflow_server.ledger import Decision
from models.ranking import Interval
from monitoring.gates.verdict import Check, cannot_say, decide, failed, fold, none_non_finite, passed

GATE = "offline"


@dataclass(frozen=True)
class Reference:
    """What a candidate may not be worse than: the champion, or popularity while there is none."""

    name: str
    quality: float
    difference: Interval | None  # candidate - reference, paired over viewers; None where it could not be measured
    fault: str = ""  # why not


@dataclass(frozen=True)
class Disguise:
    """How the candidate did on the renamed history."""

    quality: float
    loss: Interval | None  # plain - disguised, paired over viewers; None where the model could not answer
    fault: str = ""  # why not


@dataclass(frozen=True)
class SliceQuality:
    name: str
    viewers: int
    quality: float
    popularity: float


@dataclass(frozen=True)
class OnTest:
    """Quality of the chosen candidate where nobody has looked before; `fault` where it could not be measured."""

    quality: float
    popularity: float
    popularity_on_validation: float
    disguise: Disguise | None = None
    fault: str = ""


@dataclass(frozen=True)
class OfflineEvidence:
    """Quality is NDCG@10 over the full catalogue. Popularity itself (`baseline`) only has to beat a random order."""

    subject: str  # digest of the release
    evidence: dict[str, str]  # ids of the snapshot, the champion, the run
    baseline: bool
    viewers: int = 0
    quality: float = math.nan
    over_random: Interval | None = None  # candidate - expected quality of a random order, over viewers
    non_finite: int = 0
    reference: Reference | None = None
    slices: tuple[SliceQuality, ...] = ()
    disguise: Disguise | None = None
    test: OnTest | None = None  # None: another candidate was chosen
    chosen_instead: str = ""  # its name
    fault: str = ""  # what stopped the evaluation; nothing else is known then


def judge(evidence: OfflineEvidence, conf: OfflineGate) -> Decision:
    """Every check that applies, folded into one decision."""
    return _ask(evidence, conf, BASELINE if evidence.baseline else (*SCREEN, *TEST))


def screen(evidence: OfflineEvidence, conf: OfflineGate) -> Decision:
    """The checks on validation alone: who passes them may be chosen to meet the test window."""
    return _ask(evidence, conf, BASELINE if evidence.baseline else SCREEN)


def _ask(evidence: OfflineEvidence, conf: OfflineGate, questions: "tuple[Question, ...]") -> Decision:
    checks = [answered(evidence, conf)]
    if not evidence.fault:
        checks += [made for question in questions if (made := question(evidence, conf)) is not None]
    return fold(GATE, checks, subject=evidence.subject, evidence=evidence.evidence)


def answered(evidence: OfflineEvidence, conf: OfflineGate) -> Check:
    if evidence.fault:
        return failed("answered", f"the model could not be evaluated: {evidence.fault}")
    return passed("answered", "the model answered for every viewer of the window")


def enough_viewers(evidence: OfflineEvidence, conf: OfflineGate) -> Check:
    if evidence.viewers < conf.min_test_viewers:
        return cannot_say(
            "enough_viewers", f"{evidence.viewers} viewers had something to find; {conf.min_test_viewers} are asked"
        )
    return passed("enough_viewers", f"{evidence.viewers} viewers had something to find")


def finite_scores(evidence: OfflineEvidence, conf: OfflineGate) -> Check:
    """One NaN is too many: it hides what the model would have said."""
    return none_non_finite("finite_scores", evidence.non_finite)


def above_random(evidence: OfflineEvidence, conf: OfflineGate) -> Check:
    """The lower bound of the advantage over a random order is above zero."""
    if evidence.over_random is None:
        return cannot_say("above_random", "the advantage over a random order was not measured")
    low = evidence.over_random.low
    if low > 0:
        return Check("above_random", "pass", low, 0.0, f"NDCG@10 {evidence.quality:.4f} is above a random order's")
    return Check(
        "above_random",
        "fail",
        low if math.isfinite(low) else None,
        0.0,
        f"NDCG@10 {evidence.quality:.4f} is no better than a random order (lower bound of the difference {low:+.4f})",
    )


def not_worse(evidence: OfflineEvidence, conf: OfflineGate) -> Check | None:
    """The lower bound of the difference to the reference is within the margin, a share of the reference's quality."""
    reference = evidence.reference
    if reference is None:
        return None if evidence.baseline else cannot_say("not_worse", "there is nothing to compare with")
    if reference.difference is None:
        return cannot_say("not_worse", f"{reference.name} could not be evaluated: {reference.fault}")
    return decide(
        "not_worse",
        reference.difference.low,
        at_least=-conf.margin * reference.quality,
        what=f"the lower bound of the difference to {reference.name} (NDCG@10 {evidence.quality:.4f} against "
        f"{reference.quality:.4f})",
    )


def slices_hold(evidence: OfflineEvidence, conf: OfflineGate) -> Check | None:
    """No slice of viewers loses more than its limit against popularity. Thin slices are not judged."""
    judged = [s for s in evidence.slices if s.viewers >= conf.min_slice_viewers and s.popularity > 0]
    if not judged:
        return None
    losses = {s.name: (s.popularity - s.quality) / s.popularity for s in judged}
    worst = max(losses, key=lambda name: losses[name] if math.isfinite(losses[name]) else math.inf)
    return decide(
        "slices_hold",
        losses[worst],
        at_most=conf.max_slice_loss,
        what=f"the loss of {worst} viewers against popularity, as a share,",
    )


def honest(evidence: OfflineEvidence, conf: OfflineGate) -> Check:
    """Renaming viewers and movies may not cost quality: what is lost was knowledge from elsewhere."""
    if evidence.disguise is None:
        return cannot_say("honest", "the model was not evaluated in disguise")
    return _unmasked("honest", evidence.quality, evidence.disguise, conf, "validation")


def plausible(evidence: OfflineEvidence, conf: OfflineGate) -> Check:
    """No model finds nearly everything people will like next."""
    check = decide("plausible", evidence.quality, at_most=conf.max_plausible, what="NDCG@10 on validation")
    return check if check.verdict == "pass" else failed("plausible", f"leak: {check.reason}")


def met_test(evidence: OfflineEvidence, conf: OfflineGate) -> Check:
    """Only the candidate that was chosen on validation meets the test window; no other may be promoted on this."""
    if evidence.test is None and evidence.chosen_instead:
        return cannot_say(
            "met_test", f"{evidence.chosen_instead} was chosen on validation, so only it met the test window"
        )
    if evidence.test is None:
        return cannot_say("met_test", "the model was not chosen on validation, so it did not meet the test window")
    if evidence.test.fault:
        return failed("met_test", f"the model could not be evaluated on the test window: {evidence.test.fault}")
    return passed("met_test", f"NDCG@10 on the test window is {evidence.test.quality:.4f}")


def plausible_test(evidence: OfflineEvidence, conf: OfflineGate) -> Check | None:
    """From validation to test a model may change about as popularity does; a jump either way is a leak of one."""
    test = evidence.test
    if test is None or test.fault:
        return None
    if min(evidence.quality, test.quality, test.popularity, test.popularity_on_validation) <= 0:
        return cannot_say("plausible_test", "quality is zero in one of the windows: there is no ratio to compare")
    ratio = (test.quality / evidence.quality) / (test.popularity / test.popularity_on_validation)
    jump = max(ratio, 1 / ratio)
    check = decide("plausible_test", jump, at_most=conf.max_test_over_validation, what="the jump between the windows")
    if check.verdict == "pass":
        return check
    better, worse = ("test", "validation") if ratio > 1 else ("validation", "test")
    reason = (
        f"leak: NDCG@10 is {evidence.quality:.4f} on validation and {test.quality:.4f} on test, {jump:.1f} times off "
        f"popularity's own change ({conf.max_test_over_validation:g} is allowed): the {better} window seems to have "
        f"been known, the {worse} window not"
    )
    return Check("plausible_test", "fail", check.observed, check.limit, reason)


def honest_on_test(evidence: OfflineEvidence, conf: OfflineGate) -> Check | None:
    test = evidence.test
    if test is None or test.fault or test.disguise is None:
        return None
    return _unmasked("honest_on_test", test.quality, test.disguise, conf, "test")


def _unmasked(name: str, quality: float, disguise: Disguise, conf: OfflineGate, window: str) -> Check:
    if disguise.loss is None:
        return failed(
            name, f"leak: with viewers and movies renamed the model cannot answer, so it knows them: {disguise.fault}"
        )
    lost = disguise.loss.low / quality if quality > 0 else disguise.loss.low
    check = decide(name, lost, at_most=conf.max_disguise_loss, what="the share of quality lost in disguise")
    if check.verdict == "pass":
        return check
    reason = (
        f"leak: NDCG@10 on {window} falls from {quality:.4f} to {disguise.quality:.4f} when viewers and movies are "
        "renamed: the model knows them from elsewhere than the history it was given"
    )
    return Check(name, "fail", check.observed, check.limit, reason)


Question = Callable[[OfflineEvidence, OfflineGate], Check | None]
BASELINE: tuple[Question, ...] = (enough_viewers, finite_scores, above_random, not_worse)
SCREEN: tuple[Question, ...] = (
    enough_viewers,
    finite_scores,
    honest,
    plausible,
    above_random,
    not_worse,
    slices_hold,
)
TEST: tuple[Question, ...] = (met_test, plausible_test, honest_on_test)

"""From what candidates showed to the evidence of the offline gate, and the choice of who meets the test window."""

import math
from collections.abc import Iterable, Sequence

from models.ranking import Interval, bootstrap
from monitoring.gates import infra, offline
from monitoring.gates.offline import OfflineEvidence, Reference, SliceQuality
from pipelines.attempt import METRIC, Attempt, Work, meet_test
from pipelines.evaluate import SLICES, Evaluation

NO_NUMBER = Interval(math.nan, math.nan, math.nan)


def reference(work: Work, yardstick: Attempt, champion: tuple[str, str, Evaluation | str] | None) -> "Against":
    """What candidates are compared with: the champion (name, digest, evaluation or why none), or popularity."""
    if champion is None:
        digest = yardstick.release.digest if yardstick.release else ""
        return Against("popularity", {"popularity": digest}, yardstick.evaluation)
    name, digest, found = champion
    if isinstance(found, str):
        return Against(name, {"champion": digest}, None, found)
    return Against(name, {"champion": digest}, found)


class Against:
    """The reference of a training: the name, the ids that go into each decision's evidence, how it did."""

    def __init__(self, name: str, ids: dict[str, str], evaluation: Evaluation | None, fault: str = "") -> None:
        self.name, self.ids, self.evaluation, self.fault = name, ids, evaluation, fault

    @property
    def is_champion(self) -> bool:
        return "champion" in self.ids

    def compared(self, work: Work, made: Evaluation) -> Reference:
        if self.evaluation is None:
            return Reference(self.name, math.nan, None, self.fault)
        return Reference(self.name, self.evaluation.mean(METRIC), work.difference(made, self.evaluation))


def evidence(
    work: Work, made: Attempt, yardstick: Attempt, against: Against, run: str, chosen: str = ""
) -> OfflineEvidence:
    """Everything the offline gate asks about one candidate; `chosen` names the candidate that met the test window."""
    baseline = made is yardstick
    known = OfflineEvidence(
        subject=made.release.digest if made.release else f"run {run}",
        evidence={"snapshot": work.snapshot, "run": run, **against.ids},
        baseline=baseline,
        fault=made.fault or ("" if made.evaluation else "it was not evaluated"),
    )
    if made.evaluation is None or yardstick.evaluation is None:
        return known
    found = made.evaluation
    return OfflineEvidence(
        subject=known.subject,
        evidence=known.evidence,
        baseline=baseline,
        viewers=len(found.per_viewer(METRIC)[0]),
        quality=found.mean(METRIC),
        over_random=_over_random(work, found),
        non_finite=found.non_finite,
        reference=None if baseline and not against.is_champion else against.compared(work, found),
        slices=() if baseline else tuple(_slices(found, yardstick.evaluation)),
        disguise=made.disguise,
        test=made.on_test,
        chosen_instead=chosen,
    )


def choose(
    work: Work, attempts: Sequence[Attempt], yardstick: Attempt, against: Against, runs: Sequence[str]
) -> Attempt | None:
    """The best candidate on validation that passes there and will run; it alone meets the test window.

    One that the test window unmasks as a leak is out, and the next best is chosen.
    """
    able = [
        (made, run)
        for made, run in zip(attempts, runs, strict=True)
        if made is not yardstick and made.evaluation and _may_be_chosen(work, made, yardstick, against, run)
    ]
    able.sort(key=lambda pair: pair[0].evaluation.mean(METRIC) if pair[0].evaluation else 0.0, reverse=True)
    for made, run in able:
        work.report(f"{made.model} is the best on validation of those that may be chosen: it meets the test window")
        meet_test(work, made, yardstick)
        if offline.judge(evidence(work, made, yardstick, against, run), work.settings.offline).verdict != "fail":
            return made
    return None


def _may_be_chosen(work: Work, made: Attempt, yardstick: Attempt, against: Against, run: str) -> bool:
    screened = offline.screen(evidence(work, made, yardstick, against, run), work.settings.offline)
    return (
        screened.verdict == "pass"
        and made.infra is not None
        and infra.judge(made.infra, work.settings.infra).verdict == "pass"
    )


def _over_random(work: Work, found: Evaluation) -> Interval:
    conf = work.settings.evaluate
    excess = found.per_viewer(METRIC)[1] - found.per_viewer(METRIC, by_chance=True)[1]
    return bootstrap(excess, conf.level, conf.bootstrap, work.seed)


def _slices(found: Evaluation, popularity: Evaluation) -> Iterable[SliceQuality]:
    for name in SLICES:
        viewers = len(found.per_viewer(METRIC, (name,))[0])
        yield SliceQuality(name, viewers, found.mean(METRIC, (name,)), popularity.mean(METRIC, (name,)))

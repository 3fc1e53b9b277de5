"""What a training tells of its candidates: metrics, tags and sentences for the registry's pages."""

import math
from collections.abc import Sequence

from mlflow_server.shown import ranged, signed
from models.ranking import Interval
from pipelines.attempt import METRIC, Attempt, Work
from pipelines.evaluate import SLICES
from pipelines.trained import Trained


def metrics(work: Work, made: Attempt) -> dict[str, float | Interval]:
    """What a run shows: quality on validation with intervals, slices, other qualities, and where the time went."""
    found: dict[str, float | Interval] = {f"seconds_{part}": s for part, s in made.seconds.items()}
    if made.evaluation is None:
        return found
    conf, summary = work.settings.evaluate, made.evaluation.summary()
    for metric in summary["metrics"]:
        found[metric.replace("@", "_at_")] = made.evaluation.interval(metric, conf)
    for name in SLICES:
        found[f"ndcg_at_10_{name}_viewers"] = summary["slices"][name]["ndcg@10"]
    for name in ("coverage@10", "novelty", "popularity_share", "non_finite", "viewers_per_second"):
        found[name.replace("@", "_at_")] = math.nan if summary[name] is None else summary[name]
    if made.disguise:
        found["ndcg_at_10_in_disguise"] = made.disguise.quality
    return found


def advantage(work: Work, made: Attempt, yardstick: Attempt) -> Interval | None:
    if made is yardstick or made.evaluation is None or yardstick.evaluation is None:
        return None
    return work.difference(made.evaluation, yardstick.evaluation)


def comparisons(work: Work, made: Attempt, yardstick: Attempt) -> dict[str, float | Interval]:
    """What is known once popularity and the test window are: the advantage, and quality on test."""
    found: dict[str, float | Interval] = {}
    if (ahead := advantage(work, made, yardstick)) is not None:
        found["advantage"] = ahead
    if made.test is not None and yardstick.test is not None:
        found["test_ndcg_at_10"] = made.test.interval(METRIC, work.settings.evaluate)
        if made is not yardstick:
            found["test_advantage"] = work.difference(made.test, yardstick.test)
    return found


def diverged(made: Attempt) -> str:
    faults = made.evaluation.non_finite if made.evaluation else 0
    return f"diverged: {faults:,} of its scores are NaN or infinite" if faults else ""


def measured(made: Attempt) -> dict[str, float]:
    probe = made.infra.probe if made.infra else None
    return {k: getattr(probe, k) for k in ("median_ms", "popularity_ms", "memory_mb")} if probe else {}


def tags(one: Trained) -> dict[str, str]:
    first = one.refused[1].split("; ")[0] if one.refused else ""
    verdict = f"refused by {one.refused[0]}: {first}" if one.refused else one.state
    gates = {f"gate.{gate}": decision.verdict for gate, decision in one.decisions.items()}
    return {
        **gates,
        "model": one.name,
        "verdict": verdict,
        "ndcg_at_10": ranged(one.quality),
        "advantage": signed(one.advantage),
    }


def words(one: Trained, rule: str) -> str:
    """One candidate in words, for its run and its version; `rule` put the champion in charge."""
    name = f"version {one.version} ({one.name})" if one.version else one.name
    if one.failed:
        return f"{name} failed: {one.failed}"
    quality = f"NDCG@10 {ranged(one.quality)} on validation"
    ahead = f", {signed(one.advantage)} against popularity" if one.advantage else ""
    ends = {
        "champion": f"It became champion. {_capital(rule)}.",
        "challenger": "It became challenger: promote it when the A/B test says so.",
        "passed": "Its gates passed.",
        "refused": f"Do not promote it. Refused by gate {one.refused[0]}: {one.refused[1]}." if one.refused else "",
    }
    return f"{name}: {quality}{ahead}. {ends[one.state]}"


def sentence(winner: Trained | None, alias: str, rule: str, incumbent: int | None, trained: Sequence[Trained]) -> str:
    """The one sentence that names the version to promote, or who is in charge, and why."""
    if winner and alias == "champion":
        return f"Version {winner.version} ({winner.name}) is champion. {_capital(rule)}."
    if winner:
        return f"Version {winner.version} ({winner.name}) is challenger to champion version {incumbent}: it {rule}."
    if incumbent is not None:
        return f"Version {incumbent} stays champion: {rule}."
    refusals = "; ".join(f"{t.name} by {t.refused[0]}: {t.refused[1]}" for t in trained if t.refused)
    return f"Nobody passed, so there is no champion: {refusals or 'no gate passed'}."


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]

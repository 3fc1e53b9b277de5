"""The letter about an experiment that ended: the decision first, then what became of it, the sequence, the numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from events.clock import when
from mlflow_server.ledger import Entry
from monitoring import sequence
from monitoring.experiment import Plan
from monitoring.letter import Letter, Plot, Section

HEADS = {
    "promote": "won its A/B",
    "keep": "did not win its A/B",
    "invalid": "its A/B is invalid",
    "cannot say": "its A/B cannot say",
}


def letter(
    plan: Plan, verdict: Mapping[str, Any], champion: int, became: str, looks: Sequence[sequence.LookBody]
) -> Letter:
    """verdict: the body of its line in the ledger; champion: the version it met; became: what followed, a sentence.

    looks: those that were kept, oldest first. Without any there is neither picture nor table.
    """
    said, version = verdict["verdict"], verdict["version"]
    summary = f"Version {version} against version {champion}: {said}, since {verdict['reason']}."
    seen = verdict["look"] or (looks[-1] if looks else None)
    picture = Plot("sequence", sequence.picture(plan, looks, summary), _alt(plan, looks)) if looks else None
    sections = [
        Section("What became of it", (became,)),
        Section("Day by day", plot=picture),
        Section("The numbers", rows=_numbers(plan, seen) if seen else ()),
        Section("Guardrails", rows=_guards(seen) if seen else ()),
        Section("What was declared", _declared(plan)),
        Section("Next", ("greenlight experiment status", "greenlight ledger")),
    ]
    kept = tuple(section for section in sections if section.lines or section.rows or section.plot)
    return Letter(f"{said}: version {version} {HEADS[said]}", summary, kept)


def became(later: Sequence[Entry], verdict: Mapping[str, Any]) -> str:
    """What followed a verdict, as a sentence. later: the ledger's entries after it; verdict: its body."""
    about = [e for e in later if e.body.get("release") == verdict["release"] and e.kind in ("promotion", "withdrawal")]
    version, until = verdict["version"], verdict["decision"]["valid_until_ms"]
    if about and about[0].kind == "promotion":
        return f"Version {version} is champion: {about[0].body['rule']}."
    if about:
        return f"Version {version} is challenger no more: {about[0].body['rule']}."
    if verdict["decision"]["verdict"] == "pass":
        return f"It waits for you until {when(until)}: greenlight promote {version}."
    return f"Version {version} was challenger no more when this was found."


def _alt(plan: Plan, looks: Sequence[sequence.LookBody]) -> str:
    last = looks[-1]["difference"]
    low, high = (_number(last[side], "no bound") for side in ("low", "high"))
    return f"The difference in {plan.metric} per slate, day by day; at last {last['estimate']:+.4g} ({low} to {high})"


def _numbers(plan: Plan, seen: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Champion and challenger side by side, then their difference."""
    low, high = (_number(seen["difference"][side], "no bound") for side in ("low", "high"))
    return (
        ("", "champion", "challenger"),
        ("viewers", *(f"{count:,}" for count in seen["users"])),
        (f"{plan.metric} per slate", *(f"{mean:.4g}" for mean in seen["means"])),
        ("difference", "", f"{seen['difference']['estimate']:+.4g}"),
        (f"its bounds ({plan.level:.0%})", low, high),
        ("sample ratio, p", "", f"{seen['ratio_p']:.2g}"),
    )


def _guards(seen: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Nothing where nothing was guarded."""
    rows = []
    for guard in seen["guards"]:
        means = (f"{guard[arm]:.4g}" for arm in ("champion", "challenger"))
        rows.append((guard["name"], guard["state"], f"{guard['loss']:.0%}", *means))
    return (("", "state", "allowed loss", "champion", "challenger"), *rows) if rows else ()


def _declared(plan: Plan) -> tuple[str, ...]:
    return (
        f"{plan.name}: {plan.metric} per slate, to be better by more than {plan.margin:g}.",
        f"From {plan.min_days:g} to {plan.max_days:g} days, at least {plan.min_users:,} viewers in each arm.",
        "The bounds hold at every look, so looking costs nothing.",
    )


def _number(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:+.4g}"

"""What people read in MLflow: the table of all versions, the page of a decision, the picture of the candidates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow_server.ledger import Decision
from models.ranking import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"champion": "#1a7f37", "challenger": "#0969da", "failed": "#8c959f", "refused": "#cf222e"}


@dataclass(frozen=True)
class Standing:
    """How one candidate stands: a row of the page and a line of the picture. NDCG@10 on the validation window."""

    model: str
    version: int | None  # None where it failed before there was a release
    quality: Interval | None
    advantage: Interval | None  # over popularity as deployed; None for popularity itself
    state: str  # champion, challenger, passed, refused, failed
    reason: str = ""


def ranged(value: Interval | None) -> str:
    return f"{value.mean:.4f} [{value.low:.4f}, {value.high:.4f}]" if value else "-"


def signed(value: Interval | None) -> str:
    return f"{value.mean:+.4f} [{value.low:+.4f}, {value.high:+.4f}]" if value else "-"


def model_page(sentences: str, versions: Mapping[int, Mapping[str, str]], aliases: Mapping[str, int]) -> str:
    """The page of the registered model: the sentences that matter, then all versions, newest first, by their tags."""
    named = {version: alias for alias, version in aliases.items()}
    rows = "".join(_row(version, versions[version], named.get(version, "")) for version in sorted(versions)[::-1])
    head = "| version | model | NDCG@10 [interval] | advantage over popularity | gates | state |\n"
    return f"{sentences}\n\n{head}|---|---|---|---|---|---|\n{rows}"


def _row(version: int, tags: Mapping[str, str], alias: str) -> str:
    gates = ", ".join(
        f"{name.removeprefix('gate.')} {verdict}" for name, verdict in sorted(tags.items()) if "gate." in name
    )
    state = f"**{alias}**" if alias else tags.get("verdict", "")
    cells = (tags.get("model", ""), tags.get("ndcg_at_10", "-"), tags.get("advantage", "-"), gates or "-", state)
    return f"| {version} | {' | '.join(cells)} |\n"


def decision_page(decision: Decision) -> str:
    checks = "".join(f"| {c['name']} | {c['verdict']} | {c['reason']} |\n" for c in decision.checks)
    ids = "".join(f"- {name}: `{value}`\n" for name, value in decision.evidence.items())
    return (
        f"# Gate {decision.gate}: {decision.verdict}\n\n{decision.reason}\n\nSubject: `{decision.subject}`\n\n"
        f"| check | verdict | why |\n|---|---|---|\n{checks}\nEvidence:\n\n{ids}"
    )


def comparison(standings: Sequence[Standing]) -> "Figure":
    """NDCG@10 of each candidate with its interval, against popularity as deployed; who is in charge is marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    shown = [(s, s.quality) for s in standings if s.quality]
    figure = Figure(figsize=(9, 1.4 + 0.55 * max(len(shown), 1)), layout="constrained")
    axes = figure.subplots()
    for row, (standing, quality) in enumerate(shown):
        colour = COLOURS.get(standing.state, "#57606a")
        error = [[quality.mean - quality.low], [quality.high - quality.mean]]
        axes.errorbar(quality.mean, row, xerr=error, fmt="o", color=colour, capsize=4, markersize=7)
        advantage = f"  {signed(standing.advantage)}" if standing.advantage else ""
        axes.annotate(
            f"{standing.state}{advantage}",
            (quality.high, row),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colour,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
        if standing.model == "popularity":
            axes.axvline(quality.mean, linestyle="--", linewidth=1, color="#57606a", label="popularity as deployed")
            axes.legend(loc="upper right", fontsize=8)
    names = [s.model + (f" (version {s.version})" if s.version else "") for s, _ in shown]
    axes.set_yticks(range(len(shown)), names)
    axes.set_ylim(len(shown) - 0.5, -0.8)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.6 * (high - low))  # room for the words
    axes.set_xlabel("NDCG@10 on validation, day by day as deployed, with its interval over viewers")
    axes.set_title("Candidates against popularity as deployed")
    return figure

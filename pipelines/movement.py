"""What the traffic of today is compared with, and what became of earlier runs: all of it read from the ledger.

Like is compared with like: a window of the same length, sampled the same way, which is, the newest that is over,

    movement     once a movement was answered by a retraining: the traffic in which it was found
    champion     the first window of the champion's life
    experiment   while one runs: its own first window
    history      before any of these is over: the end of what the champion was trained on
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from conf.home import Home
from mlflow_server.in_charge import standing
from mlflow_server.ledger import Entry
from monitoring.gates.audience import RUNS
from pipelines.traffic import Span

HOUR_MS = 3_600_000
REPORT, DRIFT = "report", "drift"  # kind of the ledger's entry, and which report it is


@dataclass(frozen=True)
class Reference:
    """kind: as above; words: for people. A reference whose span is not over, or ends after the window began, waits."""

    kind: str
    span: Span
    words: str

    @property
    def id(self) -> str:
        return f"{self.kind} {self.span.since_ms}"


def drift_reports(entries: Sequence[Entry]) -> list[Entry]:
    """The entries of drift reports, oldest first."""
    return [entry for entry in entries if entry.kind == REPORT and entry.body.get("report") == DRIFT]


def unanswered_movement(entries: Sequence[Entry]) -> Entry | None:
    """The entry of the newest report that found a movement, if no version was trained since: what `retrain` answers.

    A movement is answered once: by the first version that is registered after the report.
    """
    movement = _movement(entries)
    return None if movement is None or _answered(entries, movement) else movement


def reference_for(home: Home, entries: Sequence[Entry], current: Span) -> Reference | str:
    """What to compare with; or, in words, why there is nothing yet."""
    found = [*_experiment(entries, current), *_lived(entries, current), *_history(home, entries, current)]
    if not found:
        return "no version is in charge yet, so there is nothing to compare with: greenlight train"
    for reference in found:
        if reference.span.until_ms <= current.since_ms:
            return reference
        if reference.kind == "movement":  # what came before it moved: no older reference will do
            return "the window after the last movement is not over yet"
    return "the training history has no whole window before this one"


def earlier_runs(entries: Sequence[Entry], reference: Reference, until_ms: int, apart_hours: float) -> tuple[bool, ...]:
    """Whether each earlier run against this reference found a difference, oldest first; at most those that count.

    Of runs whose windows end closer together than `apart_hours` the newest counts: the same look, taken again.
    """
    runs: list[bool] = []
    after = until_ms - round(apart_hours * HOUR_MS)
    for entry in reversed(drift_reports(entries)):
        body = entry.body
        if body["reference"]["id"] != reference.id or body["differs"] is None:
            continue
        if body["window"]["until_ms"] <= after and len(runs) < RUNS - 1:
            runs.append(body["differs"])
            after = body["window"]["until_ms"] - round(apart_hours * HOUR_MS)
    return tuple(reversed(runs))


def _movement(entries: Sequence[Entry]) -> Entry | None:
    return next((e for e in reversed(drift_reports(entries)) if e.body["verdict"] == "moved"), None)


def _answered(entries: Sequence[Entry], movement: Entry) -> bool:
    return any(entry.kind == "registered" and entry.seq > movement.seq for entry in entries)


def _experiment(entries: Sequence[Entry], current: Span) -> list[Reference]:
    challenger = standing(entries).get("challenger")
    if challenger is None:
        return []
    span = _from(challenger.ts, current)
    words = f"the first days of the experiment with version {challenger.body['version']}"
    return [Reference("experiment", span, words)] if span.until_ms <= current.since_ms else []


def _lived(entries: Sequence[Entry], current: Span) -> list[Reference]:
    """The champion's first window and the last answered movement, the newer one first."""
    found = []
    if champion := standing(entries).get("champion"):
        words = f"the first days of version {champion.body['version']} in charge"
        found.append(Reference("champion", _from(champion.ts, current), words))
    answered = [e for e in drift_reports(entries) if e.body["verdict"] == "moved" and _answered(entries, e)]
    if answered:
        window = answered[-1].body["window"]
        span = Span(window["since_ms"], window["until_ms"])
        found.append(Reference("movement", span, "the traffic of the last movement, which a retraining answered"))
    return sorted(found, key=lambda reference: -reference.span.since_ms)


def _history(home: Home, entries: Sequence[Entry], current: Span) -> list[Reference]:
    champion = standing(entries).get("champion")
    if champion is None:
        return []
    made = [e for e in entries if e.kind == "registered" and e.body["release"] == champion.body["release"]]
    end = min(_end_of_history(home, made[-1]) if made else champion.ts, current.since_ms)
    span = Span(end - (current.until_ms - current.since_ms), end)
    return [Reference("history", span, "the end of the history that the champion was trained on")]


def _end_of_history(home: Home, made: Entry) -> int:
    """When the snapshot of a registered version ends; where it was removed, when the version was registered."""
    try:
        found = json.loads((home.snapshots / made.body["snapshot"] / "statistics.json").read_text())
        return int(found["end_ms"])
    except (OSError, ValueError, KeyError, TypeError):
        return made.ts


def _from(moment_ms: int, current: Span) -> Span:
    """The span of the window's length from a moment on."""
    return Span(moment_ms, moment_ms + current.until_ms - current.since_ms)

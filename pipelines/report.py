"""`greenlight report drift`: has the audience moved? Sampled traffic against like traffic, kept, signed, in words.

    log → archive → current window and reference (movement.py), sampled by hash of viewer (traffic.py)
        → columns, the test (monitoring/drift.py), gate `audience` → Evidently's own report beside it
        → reports/drift/<id>/ and two lines of the ledger: the decision, and the report with the digests of its files

    reports/drift/<id>/   index.html      what is mailed: verdict, what moved, tables, plots
                          evidently.html, evidently.json    Evidently's report, where both windows have data
                          drift.json      every number the verdict rests on
                          *.png           a plot for each column

Importing Evidently takes seconds and memory: the verb's process does it and ends.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from events.archive import catch_up
from events.clock import now_ms
from events.disk import sync
from events.reading import nothing_yet, reading_log
from events.store import Store, history_store, locked
from mlflow_server.ledger import Decision, Entry, Ledger
from monitoring import drift_plots, evidently_report
from monitoring.columns import Window, columns, other_kind
from monitoring.drift import Found, compare, in_words
from monitoring.gates import audience
from monitoring.gates.audience import AudienceEvidence, differs
from monitoring.letter import Plot
from monitoring.outcomes import Rates
from pipelines import outbox
from pipelines.batch_mode import batch_mode
from pipelines.drift_letter import Told, letter, web_page
from pipelines.movement import DRIFT, REPORT, Reference, earlier_runs, reference_for
from pipelines.outcomes import rates
from pipelines.traffic import DAY_MS, Genres, Span, genres, rate_for, slates, window

Verdict = Literal["quiet", "moved", "cannot say"]
WORDS: dict[str, Verdict] = {"pass": "quiet", "fail": "moved", "cannot say": "cannot say"}
ACTOR = "drift report"


class ReportError(PlainError):
    """There is nothing to report on; the message says what to do."""


@dataclass(frozen=True)
class DriftReport:
    """One run. sentences: the verdict's reason, then what moved, in words; users: sampled, in the current window;
    reference: what it was compared with, in words; html: the page that links the rest."""

    verdict: Verdict
    decision: Decision
    entry_seq: int
    sentences: tuple[str, ...]
    folder: Path
    html: Path
    plots: tuple[Plot, ...]
    rate: float
    users: int
    reference: str
    told: Told


@dataclass(frozen=True, eq=False)
class _Seen:
    """What was sampled; `before` is None where there is no reference."""

    now_ms: int
    span: Span
    reference: Reference | str
    rate: float
    genres: Genres
    after: Window
    before: Window | None
    ours: tuple[dict[str, float], dict[str, float]]  # what we recommended, in the reference and the current window
    rates: tuple[Rates, ...]  # what came of it in the current window

    @property
    def subject(self) -> str:
        """The day on which the window ends, and a hash of what was compared with what."""
        what = [asdict(self.span), self.rate, len(self.after), self.after.viewers.tolist(), _id(self.reference)]
        digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()
        return f"{_day(self.span.until_ms - 1)}-{digest[:16]}"


def drift(home: Home, settings: Settings, progress: Callable[[str], None] = lambda step: None) -> DriftReport:
    """Judge the traffic of the last `drift.window_days` and keep the report. ReportError where there is no data yet."""
    read = reading_log(home, settings)
    if not read.exists():
        raise ReportError(nothing_yet(home, settings))
    store = history_store(home, settings.storage)
    progress("bringing the archive up to date")
    catch_up(home, settings, store)
    ledger = Ledger.to_write(home.ledger, home.keys)
    entries = list(ledger.entries())
    progress("sampling traffic")
    seen = _sample(home, settings, store, entries)
    progress("comparing")
    found = _compared(seen, settings)
    evidence = _evidence(seen, found, entries, settings)
    decision = audience.judge(evidence, settings.drift)
    progress("making Evidently's report")
    return _kept(home, settings, seen, found, decision, differs(evidence, settings.drift), ledger)


def post(home: Home, settings: Settings, report: DriftReport) -> str:
    """Put the report into the outbox; the letter's id."""
    return outbox.post(home, settings, letter(report.told, report.plots, report.html))


def _sample(home: Home, settings: Settings, store: Store, entries: Sequence[Entry]) -> _Seen:
    now = now_ms(home, settings)
    span = Span(now + 1 - settings.drift.window_days * DAY_MS, now + 1)
    reference = reference_for(home, entries, span)
    spans = [span] if isinstance(reference, str) else [reference.span, span]
    rate, known = rate_for(store, spans, settings.drift.max_rows), genres(store)
    windows = [window(store, known, part, rate) for part in spans]
    before = windows[0] if len(windows) > 1 else None
    ours = [slates(store, known, part, rate) for part in spans]
    came = rates(home, settings, since_ms=span.since_ms, until_ms=span.until_ms - 1)
    return _Seen(now, span, reference, rate, known, windows[-1], before, (ours[0] if before else {}, ours[-1]), came)


def _compared(seen: _Seen, settings: Settings) -> tuple[Found, ...]:
    if seen.before is None:
        return ()
    conf = settings.drift
    asked = columns(seen.before, seen.after, seen.genres.names, conf.viewer_rows)
    seed = int(hashlib.sha256(seen.subject.encode()).hexdigest()[:8], 16)
    return compare(asked, level=conf.level, least_change=conf.least_change, deals=conf.deals, seed=seed)


def _evidence(seen: _Seen, found: tuple[Found, ...], entries: Sequence[Entry], settings: Settings) -> AudienceEvidence:
    nothing, earlier = "", tuple[bool, ...]()
    if isinstance(seen.reference, str) or seen.before is None:
        nothing = str(seen.reference)
    else:
        earlier = earlier_runs(entries, seen.reference, seen.span.until_ms, settings.drift.runs_apart_hours)
        if seen.reference.kind == "history":
            nothing = other_kind(seen.before, seen.after)
    return AudienceEvidence(
        subject=seen.subject,
        now_ms=seen.now_ms,
        viewers=(0 if seen.before is None else len(seen.before.viewers), len(seen.after.viewers)),
        found=found,
        earlier=earlier,
        evidence={"reference": _id(seen.reference), "rate": f"{seen.rate:g}"},
        no_reference=nothing,
    )


def _kept(
    home: Home,
    settings: Settings,
    seen: _Seen,
    found: tuple[Found, ...],
    decision: Decision,
    difference: bool | None,
    ledger: Ledger,
) -> DriftReport:
    """Write the folder whole, then the ledger: a report that the ledger names is there."""
    folder = home.reports / DRIFT / decision.subject
    told = _told(seen, found, decision, settings, batch_mode(home, settings))
    plots = drift_plots.plots(found)
    with locked(home.reports / DRIFT):
        files = _write(folder, seen, found, told, plots)
        made = ledger.record(decision, actor=ACTOR, ts=seen.now_ms)
        body = {
            "report": DRIFT,
            "verdict": told.verdict,
            "differs": difference,
            "decision": made.seq,
            "subject": decision.subject,
            "window": asdict(seen.span),
            "reference": {"id": _id(seen.reference), "words": told.reference},
            "rate": seen.rate,
            "viewers": len(seen.after.viewers),
            "sentences": list(told.sentences),
            "folder": str(folder.relative_to(home.root)),
            "files": files,
        }
        entry = ledger.append(REPORT, body, actor=ACTOR, ts=seen.now_ms)
    return DriftReport(
        verdict=WORDS[decision.verdict],
        decision=decision,
        entry_seq=entry.seq,
        sentences=told.sentences,
        folder=folder,
        html=folder / "index.html",
        plots=plots,
        rate=seen.rate,
        users=len(seen.after.viewers),
        reference=told.reference,
        told=told,
    )


def _told(seen: _Seen, found: tuple[Found, ...], decision: Decision, settings: Settings, note: str) -> Told:
    reference = seen.reference
    words = reference if isinstance(reference, str) else f"{reference.words} ({_days(reference.span)})"
    moved = [in_words(column) for column in found if column.moved]
    return Told(
        verdict=WORDS[decision.verdict],
        day=_day(seen.span.until_ms - 1),
        sentences=(_verdict(decision), *moved, *([note] if note else [])),
        found=found,
        window=_days(seen.span),
        reference=words,
        rate=seen.rate,
        viewers=(0 if seen.before is None else len(seen.before.viewers), len(seen.after.viewers)),
        ours=seen.ours,
        rates=seen.rates,
        level=settings.drift.level,
        least_change=settings.drift.least_change,
    )


def _verdict(decision: Decision) -> str:
    """The reason; of a quiet run, what the comparison and the earlier runs came to."""
    if decision.verdict != "pass":
        return decision.reason
    reasons = {check["name"]: check["reason"] for check in decision.checks}
    return f"{reasons['compared']}: {reasons['runs']}"


def _write(folder: Path, seen: _Seen, found: tuple[Found, ...], told: Told, plots: tuple[Plot, ...]) -> dict[str, str]:
    """Everything into a folder aside, then in its place; SHA-256 by file name."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for plot in plots:
        (part / plot.name).write_bytes(plot.png)
    numbers = asdict(told) | {"found": [asdict(column) for column in found]}
    numbers["rates"] = [of_rung._asdict() for of_rung in told.rates]
    (part / "drift.json").write_text(json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False))
    why = "there is nothing to compare with"
    if seen.before is not None:
        why = evidently_report.save(seen.before, seen.after, seen.genres.names, part)
    (part / "index.html").write_text(web_page(letter(told, plots), "" if why else "evidently.html", why))
    digests = {}
    for file in sorted(part.iterdir()):
        sync(file)
        digests[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(part, folder)
    sync(folder.parent)
    return digests


def _id(reference: Reference | str) -> str:
    return "none" if isinstance(reference, str) else reference.id


def _day(moment_ms: int) -> str:
    return f"{datetime.fromtimestamp(max(0, moment_ms) / 1000, UTC):%Y-%m-%d}"


def _days(span: Span) -> str:
    return f"{_day(span.since_ms)} to {_day(span.until_ms - 1)}"


def as_json(report: DriftReport) -> dict[str, Any]:
    """A report as plain values, without its pictures."""
    return {
        "verdict": report.verdict,
        "sentences": report.sentences,
        "decision": asdict(report.decision),
        "entry_seq": report.entry_seq,
        "folder": str(report.folder),
        "html": str(report.html),
        "rate": report.rate,
        "users": report.users,
        "reference": report.reference,
        "plots": [plot.name for plot in report.plots],
    }

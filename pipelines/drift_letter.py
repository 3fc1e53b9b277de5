"""A drift report in words: the letter that is mailed, and the same as a page in the report's folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from monitoring.drift import Found, percent
from monitoring.letter import Letter, Plot, Section, harmless
from monitoring.letter_html import page
from monitoring.outcomes import Rates

HEADS = {"moved": "The audience has moved", "quiet": "The audience is quiet", "cannot say": "Drift: cannot say"}
NEXT = {
    "moved": "Retraining answers a movement once: greenlight retrain --if-due.",
    "quiet": "Nothing has to be done.",
    "cannot say": "For retraining this counts as quiet. The next run looks again.",
}


@dataclass(frozen=True)
class Told:
    """What a report says. window, reference: in words, with their days; ours: what we recommended, then and now.

    rates: what came of the slates of the window, by arm and rung; of all viewers, not of a sample.
    """

    verdict: str
    day: str
    sentences: tuple[str, ...]  # the first one is the verdict's reason
    found: tuple[Found, ...]
    window: str
    reference: str
    rate: float
    viewers: tuple[int, int]
    ours: tuple[dict[str, float], dict[str, float]]
    rates: tuple[Rates, ...]
    level: float
    least_change: float


def letter(told: Told, plots: Sequence[Plot], link: Path | None = None) -> Letter:
    """The decision first; what moved, in words and pictures; every column's numbers; what we recommended."""
    names = [column.name for column in told.found if column.moved]
    moved = f": {', '.join(names)}" if names and told.verdict == "moved" else ""
    pictures = [(plot.alt.partition(":")[0], plot) for plot in plots]
    ours = _ours(told)
    sections = [
        Section("What moved" if names else "What was found", (*told.sentences[1:], NEXT[told.verdict])),
        *(Section(name, plot=plot) for name, plot in pictures if name in names),
        Section("Every column", rows=_columns(told)),
        Section("How it was compared", _method(told)),
        Section("What we ourselves recommended", ("Shown beside it, never tested as audience.",) if ours else (), ours),
        Section("What came of it", rows=_rates(told)),
        *(Section(f"{name}: quiet", plot=plot) for name, plot in pictures if name not in names),
    ]
    kept = tuple(section for section in sections if section.lines or section.rows or section.plot)
    subject = f"{HEADS[told.verdict]}{moved} ({told.day})"
    return Letter(subject, f"{_capital(told.sentences[0])}.", kept, link.as_uri() if link else "")


def web_page(words: Letter, evidently: str, why: str) -> str:
    """The letter as a page whose pictures lie beside it. evidently: file name of Evidently's page, or `why` none is."""
    plots = {section.plot.name: section.plot.name for section in words.sections if section.plot}
    made = page(harmless(words), plots).replace('src="cid:', 'src="')
    link = f'<a href="{evidently}">Evidently\'s full report</a>'
    note = f"<p>{link if evidently else escape(f'Evidently made no report: {why}.')}</p>"
    return made.replace("</div></body>", f"{note}</div></body>")


def _columns(told: Told) -> tuple[tuple[str, ...], ...]:
    if not told.found:
        return ()
    rows = [("column", "verdict", "change", "p", "missing")]
    for found in told.found:
        verdict = "moved" if found.moved else ("lost" if found.lost else "no data") if found.why else "quiet"
        p = "" if found.p is None else f"{found.p:.2g}"
        missing = "" if found.missing[1] < 0.01 else percent(found.missing[1])
        rows.append((found.name, verdict, "" if found.why else percent(found.change), p, missing))
    whole = not any(row[-1] for row in rows[1:])
    return tuple(row[:-1] if whole else row for row in rows)


def _method(told: Told) -> tuple[str, ...]:
    return (
        f"Current window: {told.window}, {told.viewers[1]:,} viewers.",
        f"Compared with: {told.reference}, {told.viewers[0]:,} viewers.",
        f"Sampled by hash of viewer at a rate of {percent(told.rate)}; whole viewers were dealt out anew, and Holm "
        f"holds a level of {percent(told.level)} over all columns. A change below {percent(told.least_change)} counts "
        "for nothing, however certain it is. Two of the last three runs make a movement.",
    )


def _ours(told: Told) -> tuple[tuple[str, ...], ...]:
    before, now = told.ours
    if not now.get("slates") and not before.get("slates"):
        return ()
    names = list(dict.fromkeys([*before, *now]))
    return (("", "then", "now"), *((name, _number(before.get(name)), _number(now.get(name))) for name in names))


def _rates(told: Told) -> tuple[tuple[str, ...], ...]:
    """Per slate: the share that was clicked, minutes watched, movies liked."""
    if not told.rates:
        return ()
    rows = [("arm, rung", "slates", "clicked", "minutes", "likes")]
    for r in told.rates:
        rows.append((f"{r.arm}, {r.rung}", f"{r.slates:,}", percent(r.ctr), f"{r.watch_minutes:.2f}", f"{r.likes:.3f}"))
    return tuple(rows)


def _number(value: float | None) -> str:
    if value is None:
        return "—"
    return f"{value:,}" if isinstance(value, int) else percent(value)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

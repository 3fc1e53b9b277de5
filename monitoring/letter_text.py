"""A letter as plain text: everything that the HTML says, tables included, for who reads mail in a terminal."""

import textwrap
from collections.abc import Iterator
from unicodedata import east_asian_width

from monitoring.letter import Letter, Section

WIDTH = 76  # columns, as mail is quoted
GAP = "  "


def text(letter: Letter) -> str:
    """letter: as `letter.harmless` gives it."""
    link = f"The full report: {letter.link}" if letter.link else ""
    blocks = [_wrapped(line) for line in (letter.subject, letter.summary, link) if line]
    return "\n\n".join([*blocks, *(block for section in letter.sections for block in _blocks(section))]) + "\n"


def _blocks(section: Section) -> Iterator[str]:
    if section.heading:
        yield f"{section.heading}\n{'-' * min(WIDTH, _columns(section.heading))}"
    yield from map(_wrapped, section.lines)
    if section.rows:
        yield "\n".join(_table(section.rows))
    if section.plot:
        yield _wrapped(f"[plot: {section.plot.alt or section.plot.name}]")


def _table(rows: tuple[tuple[str, ...], ...]) -> Iterator[str]:
    """In columns where these fit, else each row as lines of `name: value`."""
    widths = [max(map(_columns, column)) for column in zip(*rows, strict=True)]
    if sum(widths) + len(GAP) * (len(widths) - 1) <= WIDTH:
        for row in rows:
            cells = (cell + " " * (width - _columns(cell)) for cell, width in zip(row, widths, strict=True))
            yield GAP.join(cells).rstrip()
        return
    names, *body = rows
    for row in body or [names]:
        pairs = [f"{name}: {value}" if name and body else value for name, value in zip(names, row, strict=True)]
        yield from (f"{'- ' if place == 0 else '  '}{pair}" for place, pair in enumerate(pairs))


def _wrapped(paragraph: str) -> str:
    return textwrap.fill(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False)


def _columns(words: str) -> int:
    """How wide it stands in a terminal: wide characters take two columns."""
    return sum(2 if east_asian_width(c) in "WF" else 1 for c in words)

"""What a letter says, and how it is made harmless: its texts may come from a log, a file's name, a person.

Cleaned: what breaks out of its line, hides or disguises itself (control characters, direction overrides, halves of
characters), and what looks like a secret. Shortened: whatever is longer than anybody reads on a phone.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

SUBJECT, HEADING, PARAGRAPH, CELL, LINK = 150, 200, 2000, 300, 1000  # characters that are kept
COLUMNS = 40
ITEMS = 500  # lines, rows and headings that are kept
NO_SUBJECT = "A letter without a subject"
CUT = "This letter was cut because it was too long: the rest is in the full report."
HIDDEN = "********"
KEPT_FORMATS = "\u200c\u200d"  # joiners, which Persian and emoji are written with
SECRETS = tuple(  # what follows, or is, a secret; group 1 is left standing
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"()\bgl_[a-z]{2,12}_[0-9a-z_]{10,}",  # our own keys: serving/keys.py
        r"(://)[^/\s@]+(?=@)",  # login and password in an address
        r"((?:(?:api|access|private|signing)[ _-]?key|token|passw(?:or)?d|secret)"
        r"(?:[\"']?\s*[=:]\s*|%3d|%3a)[\"']?)[^\s&\"',;]+",
        r"(\b(?:bearer|basic)\s+)[0-9a-z+/=._~-]{8,}",
        r"()\bA(?:KI|SI)A[0-9A-Z]{16}\b",
    )
)


@dataclass(frozen=True)
class Plot:
    """A picture. alt: what it shows, in words, for who does not see it."""

    name: str
    png: bytes
    alt: str


@dataclass(frozen=True)
class Section:
    """lines: sentences, a paragraph each. rows: a table whose first row names its columns."""

    heading: str
    lines: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    plot: Plot | None = None


@dataclass(frozen=True)
class Letter:
    """subject: the decision first. link: of the full report, where there is one."""

    subject: str
    summary: str
    sections: tuple[Section, ...] = ()
    link: str = ""


def harmless(letter: Letter, secrets: Sequence[str] = ()) -> Letter:
    """The same letter, cleaned and shortened. secrets: what must not stand in it, literally."""

    def plain(text: str, most: int) -> str:
        return shortened(hidden(one_line(hidden_literally(text, secrets)[: 2 * most])), most)

    letter = letter if items(letter) <= ITEMS else cut(letter, ITEMS)
    return Letter(
        plain(letter.subject, SUBJECT) or NO_SUBJECT,
        plain(letter.summary, PARAGRAPH),
        tuple(_harmless_section(section, plain) for section in letter.sections),
        plain(letter.link, LINK),
    )


def cut(letter: Letter, most: int) -> Letter:
    """The letter with no more than so many lines, rows and headings, and a sentence that says so."""
    kept, left = [], most
    for section in letter.sections:
        if left <= 0:
            break
        lines = section.lines[: left - 1]
        rows = section.rows[: left - 1 - len(lines)]
        left -= 1 + len(lines) + len(rows)
        kept.append(replace(section, lines=lines, rows=rows))
    return replace(letter, sections=(*kept, Section("Cut", (CUT,))))


def items(letter: Letter) -> int:
    """How many lines, rows and headings it has."""
    return sum(1 + len(section.lines) + len(section.rows) for section in letter.sections)


def characters(letter: Letter) -> int:
    """How long its sections are."""
    cells = (cell for section in letter.sections for row in section.rows for cell in row)
    lines = (line for section in letter.sections for line in (section.heading, *section.lines))
    return sum(map(len, cells)) + sum(map(len, lines))


def one_line(text: str) -> str:
    """Without line breaks, control characters, direction overrides and lone surrogates."""
    return " ".join("".join(map(_seen, text)).split())


def hidden_literally(text: str, secrets: Sequence[str]) -> str:
    for secret in filter(None, secrets):
        text = text.replace(secret, HIDDEN)
    return text


def hidden(text: str) -> str:
    """Without what looks like a secret."""
    for pattern in SECRETS:
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return text


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


@cache
def _seen(character: str) -> str:
    kind = unicodedata.category(character)
    if kind in ("Cc", "Cs"):  # control characters, halves of characters
        return " " if kind == "Cc" else "?"
    return "" if kind == "Cf" and character not in KEPT_FORMATS else character


def _harmless_section(section: Section, plain: Callable[[str, int], str]) -> Section:
    """Every row as long as the longest, so that tables need no case for ragged ones."""
    rows = [tuple(plain(cell, CELL) for cell in row[:COLUMNS]) for row in section.rows]
    width = max((len(row) for row in rows), default=0)
    plot = section.plot
    return Section(
        plain(section.heading, HEADING),
        tuple(filter(None, (plain(line, PARAGRAPH) for line in section.lines))),
        tuple(row + ("",) * (width - len(row)) for row in rows if row),
        plot and replace(plot, name=plain(plot.name, HEADING), alt=plain(plot.alt, CELL)),
    )

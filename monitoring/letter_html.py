"""A letter as HTML that mail programs show: one fluid column, 16 px, light and dark, nothing fetched from outside.

Colours stand in the style sheet only: a program that drops it shows its own, readable in both modes. Plots are drawn on
white and stay so. A table that is wider than the phone scrolls by itself, so that the letter does not.
"""

import re
from collections.abc import Iterator, Mapping
from html import escape

from monitoring.letter import Letter, Section

WHOLE = re.compile(r"\b(\d{4}-\d\d-\d\d|[\d.,]{1,8} %)")  # what no line ends within
LONG_WORD = 24  # characters; a longer one is broken, so that an id does not push its table off the screen
NUMBER = re.compile(r"[+−-]?[\d.,]+( ?%|[a-zµ]{1,2})?|[+−-]?\d+(\.\d+)?e[+-]?\d+|NaN|—|-")
STYLE = """
:root { color-scheme: light dark; }
body { margin: 0; background: #ffffff; color: #1b2126; -webkit-text-size-adjust: 100%;
  font: 16px/1.5 -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
.letter { max-width: 640px; margin: 0 auto; padding: 20px 16px 32px; overflow-wrap: anywhere; }
h1 { font-size: 22px; line-height: 1.3; margin: 0 0 10px; }
h2 { font-size: 18px; line-height: 1.3; margin: 30px 0 8px; padding-top: 14px; border-top: 1px solid #d5dbe1; }
p { margin: 0 0 12px; }
a { color: #0b5cad; }
.from { color: #5b6670; margin: 0 0 14px; }
.wide { overflow-x: auto; margin: 0 0 14px; }
table { border-collapse: collapse; width: 100%; overflow-wrap: normal; }
th, td { text-align: left; vertical-align: top; padding: 7px 14px 7px 0; border-bottom: 1px solid #d5dbe1; }
th { font-weight: 600; vertical-align: bottom; border-bottom-color: #8b96a1; }
th:last-child, td:last-child { padding-right: 0; }
.whole { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
.long { overflow-wrap: anywhere; min-width: 8em; }
@media (prefers-color-scheme: dark) {
  body { background: #14181c; color: #e4e8ec; }
  a { color: #7fb8f5; }
  .from { color: #9aa5b0; }
  h2, th, td { border-color: #39424b; }
  th { border-bottom-color: #6c7883; }
}
""".strip()


def page(letter: Letter, pictures: Mapping[str, str]) -> str:
    """letter: as `letter.harmless` gives it; pictures: Content-ID by plot name, of those plots that travel with it."""
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(letter.subject)}</title>",
            f"<style>{STYLE}</style></head>",
            '<body><div class="letter">',
            *_body(letter, pictures),
            "</div></body></html>\n",
        )
    )


def _body(letter: Letter, pictures: Mapping[str, str]) -> Iterator[str]:
    yield '<p class="from">Greenlight</p>'
    yield f'<h1 dir="auto">{_prose(letter.subject)}</h1>'
    yield from _paragraphs(letter.summary)
    if letter.link:
        yield f"<p>{_link(letter.link)}</p>"
    for section in letter.sections:
        yield from _section(section, pictures)


def _section(section: Section, pictures: Mapping[str, str]) -> Iterator[str]:
    if section.heading:
        yield f'<h2 dir="auto">{escape(section.heading)}</h2>'
    yield from _paragraphs(*section.lines)
    if section.rows:
        yield from _table(section.rows)
    plot = section.plot
    if plot and plot.name in pictures:
        source, alt = escape(f"cid:{pictures[plot.name]}"), escape(plot.alt or plot.name)
        size = "display: block; width: 100%; max-width: 100%; height: auto; background: #ffffff"
        yield f'<p><img src="{source}" alt="{alt}" style="{size}"></p>'


def _table(rows: tuple[tuple[str, ...], ...]) -> Iterator[str]:
    names, *body = rows
    numeric = [_is_numeric([row[place] for row in body]) for place in range(len(names))]
    yield '<div class="wide"><table>'
    for tag, row in (("th", names), *(("td", row) for row in body)):
        cells = (f"<{tag}{_kind(cell, right)}>{escape(cell)}</{tag}>" for cell, right in zip(row, numeric, strict=True))
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</table></div>"


def _is_numeric(cells: list[str]) -> bool:
    filled = [cell for cell in cells if cell]
    return bool(filled) and all(NUMBER.fullmatch(cell) for cell in filled)


def _kind(cell: str, numeric: bool) -> str:
    if any(len(word) > LONG_WORD for word in cell.split()):
        return ' class="long"'
    return ' class="number"' if numeric else ""


def _paragraphs(*lines: str) -> Iterator[str]:
    yield from (f'<p dir="auto">{_prose(line)}</p>' for line in lines if line)


def _prose(text: str) -> str:
    return WHOLE.sub(r'<span class="whole">\1</span>', escape(text))


def _link(link: str) -> str:
    """A link to the web or to a file of this machine; anything else is shown, since it could be a script."""
    if re.match(r"https?://|file:///", link, re.IGNORECASE):
        return f'<a href="{escape(link)}">The full report</a>'
    return f"The full report: {escape(link)}"

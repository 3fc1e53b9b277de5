"""A letter becomes a mail that reads on a phone: the decision first, static HTML, plots inline, all of it as text too.

    multipart/alternative
        text/plain                    everything, tables included
        multipart/related
            text/html                 no script, nothing fetched from outside
            image/png …               the plots, by Content-ID (RFC 2392)

`compose` makes a mail of every letter, whatever stands in it. One that would be too large loses colours and size of its
largest plots, then these plots, then the end of its text, and says so.
"""

import io
import secrets
from dataclasses import replace
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from conf.sections.mail import Mail
from monitoring.letter import Letter, Plot, Section, characters, cut, harmless, items
from monitoring.letter_html import page
from monitoring.letter_text import text

__all__ = ["LIMIT", "Letter", "Plot", "Section", "compose", "mail_id", "stamped"]

POLICY = SMTP.clone(cte_type="7bit", max_line_length=998)  # what every mail server takes
FOLDED = POLICY.clone(max_line_length=78)  # for encoded words, which RFC 2047 wants short; it leaves ASCII ugly
LIMIT = 200_000  # bytes of a whole mail; many programs cut a longer one or hide its end
TEXT = 40_000  # characters of a letter's sections
PER_PLOT = 1500  # bytes that a plot costs beside its pixels: headers, the image's tag, its name
BASE64 = 78 / 57  # characters, line breaks included, for a byte
WIDTH, COLOURS = 1100, 48  # a plot that was shrunk: pixels for a column of 550, and colours
PNG = b"\x89PNG\r\n\x1a\n"


def compose(letter: Letter, conf: Mail, stamp: str = "") -> EmailMessage:
    """The mail, ready to be sent, under `LIMIT` bytes. Its Message-ID stays what it is, however often it is sent.

    stamp: its id, of letters, digits and hyphens, for one that must not be there twice; a new one where none is given.
    """
    stamp = stamp or stamped(datetime.now(UTC), secrets.token_hex(4))
    letter, bare = _short(_numbered(harmless(letter, (conf.smtp.password,))), conf, stamp)
    plots = _fitting([s.plot for s in letter.sections if s.plot], LIMIT - bare)
    return _message(_with_plots(letter, plots), plots, conf, stamp)


def stamped(moment: datetime, mark: str) -> str:
    """An id: they sort as they came."""
    return f"{moment:%Y%m%d-%H%M%S-%f}-{mark}"


def mail_id(message: EmailMessage) -> str:
    """By which a mail is known in the outbox: what stands before the @ in its Message-ID."""
    return str(message["Message-ID"]).strip("<> ").split("@")[0]


def _message(letter: Letter, plots: dict[str, bytes], conf: Mail, stamp: str) -> EmailMessage:
    """plots: PNG by plot name."""
    domain = conf.sender.rpartition("@")[2]
    cids = {name: f"plot{place}.{stamp}@{domain}" for place, name in enumerate(plots)}
    message = EmailMessage(policy=POLICY if letter.subject.isascii() else FOLDED)
    message["From"] = Address("Greenlight", addr_spec=conf.sender)
    message["To"] = [Address(addr_spec=to) for to in conf.to]
    message["Subject"] = letter.subject.replace("=?", "= ?")  # it would be taken for an encoded word, and decoded
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = f"<{stamp}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no holiday notice answers it
    message.set_content(text(letter))
    message.make_alternative()
    message.attach(_html(letter, plots, cids))
    return message


def _html(letter: Letter, plots: dict[str, bytes], cids: dict[str, str]) -> EmailMessage:
    part = EmailMessage(policy=POLICY)
    part.set_content(page(letter, cids), subtype="html")
    for place, (name, png) in enumerate(plots.items()):
        part.add_related(png, "image", "png", cid=f"<{cids[name]}>", disposition="inline", filename=f"plot{place}.png")
    del part["MIME-Version"]  # it is a part, not a mail
    return part


def _short(letter: Letter, conf: Mail, stamp: str) -> tuple[Letter, int]:
    """As much of the letter as leaves half of the room to its plots, and its bytes without any."""
    most, bare = items(letter), 0
    while True:
        if characters(letter) <= TEXT:
            bare = len(_message(_with_plots(letter, {}), {}, conf, stamp).as_bytes())
            if bare <= LIMIT // 2:
                return letter, bare
        most //= 2
        letter = cut(letter, most)


def _numbered(letter: Letter) -> Letter:
    """Plots get names that are theirs alone."""
    named = [
        replace(s, plot=replace(s.plot, name=f"{place}", alt=s.plot.alt or s.plot.name)) if s.plot else s
        for place, s in enumerate(letter.sections)
    ]
    return replace(letter, sections=tuple(named))


def _with_plots(letter: Letter, plots: dict[str, bytes]) -> Letter:
    """The letter with a sentence in place of each plot that does not travel with it."""
    return replace(letter, sections=tuple(_without(s) if _missing(s, plots) else s for s in letter.sections))


def _missing(section: Section, plots: dict[str, bytes]) -> bool:
    return section.plot is not None and section.plot.name not in plots


def _without(section: Section) -> Section:
    what = f"The plot “{section.plot.alt}” " if section.plot and section.plot.alt else "A plot "
    return replace(section, plot=None, lines=(*section.lines, f"{what}is in the full report: it was left out here."))


def _fitting(plots: list[Plot], room: int) -> dict[str, bytes]:
    """Those that fit into so many bytes, by name: the largest are shrunk first, then left out."""
    kept = {plot.name: plot.png for plot in plots if plot.png.startswith(PNG)}
    for name in sorted(kept, key=lambda name: -len(kept[name])):
        if _cost(kept) <= room:
            break
        kept[name] = _shrunk(kept[name])
    while _cost(kept) > room:
        del kept[max(kept, key=lambda name: len(kept[name]))]
    return kept


def _cost(plots: dict[str, bytes]) -> float:
    return sum(len(png) * BASE64 + PER_PLOT for png in plots.values())


def _shrunk(png: bytes) -> bytes:
    """The same plot with fewer pixels and colours; as it is, where that makes it no smaller or it cannot be read."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as opened:
            picture = Image.alpha_composite(Image.new("RGBA", opened.size, "white"), opened.convert("RGBA"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return png
    picture.thumbnail((WIDTH, 4 * WIDTH))
    out = io.BytesIO()
    picture.convert("RGB").quantize(COLOURS).save(out, "PNG", optimize=True)
    return min(png, out.getvalue(), key=len)

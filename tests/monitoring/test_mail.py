"""A mail of any letter: one subject line, nobody added, nothing fetched, small, complete as text, without secrets."""

import io
import re
from email import message_from_bytes, policy
from email.message import EmailMessage
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from conf.sections.mail import Mail, Smtp
from monitoring.mail import LIMIT, Letter, Plot, Section, compose, mail_id

TO = ("lead@example.org", "team@example.org")
CONF = Mail(to=TO, sender="greenlight@example.org")


def sent(letter: Letter, conf: Mail = CONF) -> EmailMessage:
    """As it arrives: written, read again, and without a defect."""
    content = compose(letter, conf).as_bytes()
    assert len(content) < LIMIT
    assert all(len(line) <= 998 for line in content.split(b"\r\n"))
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert content.isascii()  # so it needs no 8BITMIME and no SMTPUTF8
    found = message_from_bytes(content, policy=policy.default)
    assert not [defect for part in found.walk() for defect in part.defects]
    return found


def parts(message: EmailMessage) -> tuple[str, str, dict[str, bytes]]:
    """Text, HTML, and the pictures by Content-ID."""
    text, related = message.iter_parts()
    html, *pictures = related.iter_parts() if related.is_multipart() else [related]
    return text.get_content(), html.get_content(), {p["Content-ID"].strip("<>"): p.get_content() for p in pictures}


def plot(name: str, *, width: int = 600, noise: bool = False) -> Plot:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (width // 2, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels if noise else np.full_like(pixels, 200)).save(out, "PNG")
    return Plot(name, out.getvalue(), f"{name} in words")


REPORT = Letter(
    "moved: retrain now",
    "Viewers rate lower than in the champion's first weeks.",
    (
        Section("Rating pattern", ("Mean 3.1, was 3.6.",), (("column", "p"), ("rating", "0.0003")), plot("ratings")),
        Section("Watch time", ("As it was.",)),
    ),
    "https://mlflow.example.org/#/experiments/1?a=1&b=2",
)


def test_a_report_has_its_decision_its_text_and_its_plots() -> None:
    message = sent(REPORT)
    assert (message["Subject"], message["To"]) == ("moved: retrain now", "lead@example.org, team@example.org")
    assert message["From"].addresses[0].addr_spec == "greenlight@example.org"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"].datetime.tzinfo
    assert message["Message-ID"] == f"<{mail_id(message)}@example.org>"
    assert message.get_content_type() == "multipart/alternative"
    text, html, pictures = parts(message)
    for words in ("moved: retrain now", "Mean 3.1, was 3.6.", "rating", "0.0003", "As it was.", "ratings in words"):
        assert words in text
        assert words in html
    assert REPORT.link in text
    assert 'href="https://mlflow.example.org/#/experiments/1?a=1&amp;b=2"' in html
    (cid,) = pictures
    assert f'src="cid:{cid}"' in html
    assert pictures[cid].startswith(b"\x89PNG")


def test_two_mails_are_never_the_same_one() -> None:
    assert len({mail_id(compose(REPORT, CONF)) for _ in range(100)}) == 100


NASTY = [
    "ok\r\nBcc: a@example.test",  # MAI-01
    "ok\nContent-Type: text/html\n\n<b>hello",
    "=?utf-8?q?ok=0D=0ABcc:_a@example.test?=",  # decodes to the first
    "ok\x0bBcc: a@example.test\x85To: a@example.test\u2028Cc: a@example.test",
    "\u202emoc.live\u2066 \u200f",
    "\x00\x1b[31mred\x7f",
    "half of a pair \ud83d",
    "a" * 5000,
    "ü€😀" * 2000,
    "שלום" * 300,
    "",
    " \t\r\n",
    '"quoted" <a@example.test>, b@example.test; (comment',
    "<script>alert(1)</script><img src=http://example.test/x.png onerror=alert(1)>",
]


@pytest.mark.parametrize("words", NASTY, ids=lambda words: ascii(words[:20]))
def test_text_from_outside_stays_text(words: str) -> None:
    check_harmless(words)


@given(st.text(st.characters(codec=None), max_size=300))
@example("=?utf-8?b?")
@settings(max_examples=60, deadline=None)
def test_any_text_stays_text(words: str) -> None:
    check_harmless(words)


class Tags(HTMLParser):
    """Which elements and attributes a page has, and from where it fetches."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.fetched: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {tag, *(f"{tag} {name}" for name, _ in attrs)}
        self.fetched |= {str(value).partition(":")[0] for name, value in attrs if name == "src"}


def check_harmless(words: str) -> None:
    everywhere = Section(words, (words,), ((words, words), (words,)), Plot(words, plot("x").png, words))
    message = sent(Letter(words, words, (everywhere, everywhere), words))
    assert sorted(message.keys()) == sorted(
        ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"]
    )
    assert [a.addr_spec for a in message["To"].addresses] == list(TO)
    subject = str(message["Subject"])
    assert subject == subject.strip()
    assert subject.strip()
    assert len(subject) <= 300
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]", subject)
    text, html, pictures = parts(message)
    tags = Tags(html)
    known = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "div",
        "p",
        "h1",
        "h2",
        "table",
        "tr",
        "th",
        "td",
        "img",
        "a",
    }
    assert {name.split()[0] for name in tags.names} <= known
    assert not any(name.split()[-1].startswith("on") for name in tags.names)
    assert tags.fetched <= {"cid"}
    assert pictures
    assert "\u202e" not in text + html


def test_a_link_that_could_be_a_script_or_another_machines_file_is_not_clickable() -> None:
    for link in ("javascript:alert(1)", "/home/lead/report.html", "data:text/html,x", "file://host/share"):
        text, html, _ = parts(sent(Letter("moved", "", (), link)))
        assert "href" not in html
        assert link in text


@pytest.mark.parametrize(
    ("words", "secret"),
    [
        ("GET /recommend/1?api_key=GL-TEST-123 failed", "GL-TEST-123"),  # SEC-03
        ("GET /recommend/1%3Fapi_key%3DGL-TEST-123&k=1", "GL-TEST-123"),
        ("X-API-Key: GL-TEST-123", "GL-TEST-123"),
        ("AWS_SECRET_ACCESS_KEY=GL-TEST-123", "GL-TEST-123"),
        ("https://h/x?access_token=GL-TEST-123", "GL-TEST-123"),
        (f"key gl_local_0aB3dE6gH9_{'x' * 46} was refused", "x" * 46),
        ("redis://:Hunter2@h:6379/0 does not answer", "Hunter2"),
        ("Authorization: Bearer abcdef0123456789", "abcdef0123456789"),
        ("{'password': 'Hunter2'}", "Hunter2"),
        ("login failed with Correct Horse (535)", "Correct Horse"),
    ],
)
def test_no_secret_is_mailed(words: str, secret: str) -> None:
    conf = Mail(to=TO, smtp=Smtp(host="mail.example.org", login="greenlight", password="Correct Horse"))
    message = sent(Letter(words, words, (Section(words, (words,), ((words,),)),), words), conf)
    everything = "\n".join([str(message["Subject"]), *parts(message)[:2]])
    assert secret not in everything
    assert "********" in everything


@pytest.mark.parametrize(
    "words", ["monkey: banana", "the key: Drama fell", "3 tokens: none", "https://h/a?b=c@d", "a@b.org"]
)
def test_what_is_no_secret_is_left_alone(words: str) -> None:
    assert words in parts(sent(Letter("moved", words)))[0]


def test_plots_that_are_too_large_are_shrunk_then_left_out_largest_first() -> None:
    small = sent(Letter("moved", "", tuple(Section(f"s{n}", plot=plot(f"p{n}")) for n in range(6))))
    assert len(parts(small)[2]) == 6
    sections = (Section("noise", plot=plot("noise", width=1200, noise=True)), *REPORT.sections)
    text, html, pictures = parts(sent(Letter("moved", "", sections, REPORT.link)))
    assert len(pictures) == 1
    for words in (text, html):
        assert "The plot “noise in words” is in the full report" in " ".join(words.split())
        assert "ratings in words" in words
    drawn = plot("lines", width=3000)  # 3000 pixels for a phone
    stretched = Plot("lines", drawn.png + b"\0" * 250_000, "lines")
    _, _, pictures = parts(sent(Letter("moved", "", (Section("lines", plot=stretched),))))
    assert Image.open(io.BytesIO(next(iter(pictures.values())))).width <= 1200


def test_what_is_no_picture_is_left_out() -> None:
    broken = plot("x").png[:60] + b"\0" * 300_000
    for png in (b"", b"<svg/>", broken):
        text, _, pictures = parts(sent(Letter("moved", "", (Section("s", plot=Plot("x", png, "alt")),))))
        assert not pictures
        assert "alt" in text


@pytest.mark.parametrize("count", [300, 3000])
def test_a_letter_that_is_too_long_is_cut_and_says_so(count: int) -> None:
    rows = tuple(("😀&" * 50,) * 20 for _ in range(count))
    text, html, _ = parts(sent(Letter("moved", "&" * 100_000, (Section("first", ("kept",)), Section("s", (), rows)))))
    for words in (text, html):
        assert "kept" in words
        assert "cut because it was too long" in " ".join(words.split())


def test_tables_that_are_too_wide_for_columns_are_written_as_pairs() -> None:
    rows = (("column", "reason"), ("genre", "x " * 60), ("hour", "none"))
    text, _, _ = parts(sent(Letter("moved", "", (Section("s", (), rows),))))
    assert "- column: genre" in text
    assert "  reason: none" in text


def test_long_words_are_looked_through_once() -> None:
    """With time quadratic in their length this takes minutes, which are a job's."""
    words = Section("h", ("a" * 4000,) * 490)
    assert len(compose(Letter("s", "x", (words,)), Mail()).as_bytes()) < LIMIT

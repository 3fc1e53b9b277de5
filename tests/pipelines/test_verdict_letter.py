"""An experiment that ended is told to the lead by mail: once, whole, harmless, and whatever else happens."""

from email import message_from_bytes, policy
from email.message import EmailMessage

import numpy as np
import pytest

from conf.home import Home
from conf.sections.mail import Mail, Smtp
from conf.settings import Settings
from monitoring.experiment import Plan
from monitoring.mail import LIMIT
from pipelines.experiment import advance, stop
from tests import town
from tests.pipelines.test_experiment import PLAN, SETTINGS, T, begin, kinds, lived, look_now, place, run, tick

__all__ = ["place"]  # a fixture

pytestmark = pytest.mark.server
AWAY = Settings(
    clock="event", mail=Mail(via="smtp", to="lead@example.org", sender="g@example.org", smtp=Smtp(host="mail.example"))
)


def letters(home: Home) -> list[EmailMessage]:
    found = sorted(home.outbox.rglob("*.eml"))
    assert all(file.stat().st_size < LIMIT for file in found)
    return [message_from_bytes(file.read_bytes(), policy=policy.default) for file in found]


def text(letter: EmailMessage) -> str:
    body = letter.get_body(("plain",))
    assert body is not None
    return " ".join(body.get_content().split())


def test_a_victory_is_told_with_its_decision_first_and_its_sequence(place: Home) -> None:
    told = run(place, np.random.default_rng(1), challenger=0.6)
    (letter,) = letters(place)
    assert letter["Subject"] == "promote: version 3 won its A/B"
    assert told.sentence in text(letter)
    assert "Version 3 is champion: won its A/B: clicks per slate are better by" in text(letter)
    assert "served" in text(letter)
    (picture,) = [part for part in letter.walk() if part.get_content_type() == "image/png"]
    assert picture.get_content().startswith(b"\x89PNG")
    assert f"cid:{picture['Content-ID'].strip('<>')}" in letter.get_body(("html",)).get_content()  # type: ignore[union-attr]


def test_one_that_waits_for_the_lead_says_until_when_and_how(place: Home) -> None:
    run(place, np.random.default_rng(1), auto=False, challenger=0.6)
    (letter,) = letters(place)
    assert "It waits for you until " in text(letter)
    assert "UTC: greenlight promote 3." in text(letter)


def test_one_that_stays_says_so(place: Home) -> None:
    run(place, np.random.default_rng(1), challenger=0.1)
    (letter,) = letters(place)
    assert letter["Subject"] == "keep: version 3 did not win its A/B"
    assert "Version 3 is challenger no more: keep" in text(letter)


def test_one_that_nobody_looked_at_has_no_picture(place: Home) -> None:
    begin(place)
    stop(place, SETTINGS, actor="ada", reason="a\nlong story")
    (letter,) = letters(place)
    assert letter["Subject"] == "cannot say: version 3 its A/B cannot say"
    assert "stopped by ada: a long story" in text(letter)
    assert not [part for part in letter.walk() if part.get_content_maintype() == "image"]


def test_it_is_told_once_whoever_looks_and_wherever_it_was_killed(place: Home) -> None:
    """Each moment between the lines of an ending, and between the letter and the note that it is posted."""
    salt = begin(place).hash
    for day in range(3):
        lived(place, salt, day, np.random.default_rng(day), challenger=0.6)
    begun = len(town.lines(place))
    look_now(place)
    whole = place.ledger.read_bytes().splitlines(keepends=True)
    verdict = place.told.read_text()
    for cut in range(begun + 1, len(whole) + 1):  # from its verdict on
        for letter in place.outbox.rglob("*.eml") if cut < len(whole) else ():
            letter.unlink()
        place.told.unlink()
        place.ledger.write_bytes(b"".join(whole[:cut]))
        look_now(place)
        look_now(place)
        assert len(letters(place)) == 1
        assert place.told.read_text() == verdict
    assert kinds(place).count("verdict") == 1


def test_it_is_told_once_though_it_was_sent_meanwhile(place: Home) -> None:
    salt = begin(place).hash
    for day in range(3):
        lived(place, salt, day, np.random.default_rng(day), challenger=0.6)
    advance(place, AWAY, auto=True, actor="grace")
    (waits,) = (place.outbox / "waiting").glob("*.eml")
    waits.rename(place.outbox / waits.name)  # as when it is delivered
    place.told.unlink()
    advance(place, AWAY, auto=True, actor="grace")
    assert len(letters(place)) == 1


def test_each_verdict_has_its_letter(place: Home) -> None:
    for version in (3, 2, 3):
        begin(place, version)
        stop(place, SETTINGS, actor="ada")
    assert [letter["Subject"].split(":")[1][:11] for letter in letters(place)] == [
        f" version {version} "[:11] for version in (3, 2, 3)
    ]


def test_mai_01_a_hostile_name_adds_nobody_and_keeps_nothing_from_being_told(place: Home) -> None:
    plan = Plan(**{**PLAN.__dict__, "name": "ok\r\nBcc: a@example.test\r\n\r\n<script>alert(1)</script> $\\frac{1$"})
    salt = begin(place, plan=plan).hash
    lived(place, salt, 0, np.random.default_rng(0))
    look_now(place)
    stop(place, SETTINGS, actor="eve", reason="ok\r\nBcc: a@example.test\r\nSubject: promote " + "x" * 5000)
    (letter,) = letters(place)
    assert letter["Bcc"] is None
    assert letter["To"].addresses == Mail().to or [a.addr_spec for a in letter["To"].addresses] == [*Mail().to]
    assert letter["Subject"].startswith("cannot say: version 3")
    html = letter.get_body(("html",)).get_content()  # type: ignore[union-attr]
    assert "<script>" not in html


def test_an_outbox_that_cannot_be_written_ends_no_experiment_less(place: Home) -> None:
    place.outbox.parent.mkdir(exist_ok=True)
    place.outbox.write_text("in the way")
    told = run(place, np.random.default_rng(1), challenger=0.6)
    assert told.verdict == "promote"
    place.outbox.unlink()
    tick(place, T + 30 * 86_400_000)
    look_now(place)
    assert len(letters(place)) == 1

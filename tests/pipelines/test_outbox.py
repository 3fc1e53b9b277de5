"""Letters are kept until they are delivered, and delivered once."""

import logging
from email import message_from_bytes, policy

import pytest

from conf.home import Home
from conf.sections.mail import Mail, Smtp
from conf.settings import Settings
from monitoring.mail import Letter
from pipelines.carrier import Answer
from pipelines.mailing import Mailing, run
from pipelines.outbox import OutboxError, deliver, drop, letters, post, reopen, trouble
from pipelines.watch import Watch

AWAY = Settings(mail=Mail(via="smtp", smtp=Smtp(host="127.0.0.1", port=9)))
LETTER = Letter("moved: retrain now", "Viewers rate lower.")


def test_without_a_mail_server_the_folder_is_the_outbox(home: Home) -> None:
    name = post(home, Settings(), LETTER)
    (file,) = home.outbox.rglob("*")
    assert file == home.outbox / f"{name}.eml"
    message = message_from_bytes(file.read_bytes(), policy=policy.default)
    assert (message["Subject"], name in message["Message-ID"]) == ("moved: retrain now", True)


def test_a_letter_waits_though_there_is_no_mail_server(home: Home) -> None:
    names = {post(home, AWAY, LETTER) for _ in range(3)}
    assert {file.stem for file in (home.outbox / "waiting").iterdir()} == names


def test_what_waited_for_a_server_goes_to_the_folder_when_the_settings_say_so(home: Home) -> None:
    name = post(home, AWAY, LETTER)
    assert "127.0.0.1:9" in deliver(home, AWAY).trouble
    assert deliver(home, Settings()).waiting == 0
    assert [letter.id for letter in letters(home)] == [name]
    assert trouble(home) is None


def test_a_delivery_that_was_cut_off_is_finished_by_the_next(home: Home) -> None:
    """Cut off after each step: noted and not moved; the note moved and the letter not; the letter moved."""
    names = [post(home, AWAY, LETTER) for _ in range(3)]
    for letter in letters(home, "waiting"):
        letter.answered({"ml-lead@localhost": Answer("sent", "250 taken")})
    waiting = home.outbox / "waiting"
    (home.outbox / f"{names[1]}.json").write_bytes((waiting / f"{names[1]}.json").read_bytes())
    (home.outbox / f"{names[2]}.json").write_bytes((waiting / f"{names[2]}.json").read_bytes())
    (waiting / f"{names[2]}.eml").rename(home.outbox / f"{names[2]}.eml")
    done = deliver(home, AWAY)  # which reaches no server: nobody gets anything again
    assert (done.sent, done.waiting) == ((), 0)
    assert [letter.id for letter in letters(home)] == names
    assert not list(waiting.iterdir())


def test_a_letter_may_be_dropped_or_tried_again(home: Home) -> None:
    name, other = post(home, AWAY, LETTER), post(home, AWAY, LETTER)
    assert drop(home, name).id == name
    for letter in letters(home, "waiting"):
        letter.answered({"ml-lead@localhost": Answer("refused", "550 no such user")})
    (lost,) = deliver(home, AWAY).refused
    assert (lost.id, lost.recipient, lost.reason) == (other, "ml-lead@localhost", "550 no such user")
    assert reopen(home) == 1
    (letter,) = letters(home, "waiting")
    assert (letter.id, letter.open) == (other, ("ml-lead@localhost",))
    drop(home, other)
    assert [letter.id for letter in letters(home)] == [name, other]
    with pytest.raises(OutboxError, match="mail list"):
        drop(home, name)


def test_the_loop_says_a_trouble_once_and_that_it_is_over(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    post(home, AWAY, LETTER)
    loop, rounds = Mailing(home, AWAY), iter([False, False, True])

    def wait(seconds: float) -> bool:
        return next(rounds)

    run(loop, Watch(loop.home, loop.settings), wait)
    loop.settings = Settings()
    loop.step()
    told = [record.getMessage() for record in caplog.records if record.name == "greenlight.mailing"]
    assert ["letters wait" in line for line in told] == [True, False]
    assert "sent again" in told[1]

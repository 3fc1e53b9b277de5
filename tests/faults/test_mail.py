"""Letters and a mail server that fails in each phase: nothing is lost, nobody gets one twice, each loss is said."""

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from email import message_from_bytes
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from conf.home import Home
from conf.sections.mail import Mail, Smtp
from conf.settings import Settings
from models.shelf import load_file
from monitoring.mail import Letter
from pipelines.outbox import deliver, letters, post, trouble

TO = ("ann@example.org", "bob@example.org", "cyd@example.org")
LETTER = Letter("moved: retrain now", "Viewers rate lower.\n.\nA line with a dot alone is before this one.")
PATIENCE_S = 60.0
certificates = load_file(Path(__file__).with_name("certificates.py")).certificates


@pytest.fixture(scope="module")
def made() -> ModuleType:
    return load_file(Path(__file__).parent / "mail_server.py")


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificates(tmp_path_factory.mktemp("pems"), "localhost", "127.0.0.1")


@pytest.fixture
def serve(made: ModuleType) -> Iterator[Callable[..., Any]]:
    """Starts mail servers that end with the test."""
    with ExitStack() as stack:

        def start(*given: Any, **options: Any) -> Any:
            server: AbstractContextManager[Any] = made.mail_server(*given, **options)
            return stack.enter_context(server)

        yield start


@pytest.fixture
def server(serve: Callable[..., Any], pems: tuple[Path, Path]) -> tuple[Any, Settings]:
    """STARTTLS and a login; and the settings that reach it."""
    faults, port = serve(pems[1])
    return faults, reaching(port, pems[0])


def reaching(port: int, authority: Path | str = "", **more: Any) -> Settings:
    smtp = {"host": "localhost", "port": port, "authority": str(authority), "timeout_s": 20, "conversation_s": 60}
    smtp |= {"login": "greenlight", "password": "Correct Horse"} | more
    return Settings(mail=Mail(via="smtp", sender="greenlight@example.org", to=TO, smtp=Smtp(**smtp)))


def hurried(settings: Settings) -> Settings:
    smtp = settings.mail.smtp.model_copy(update={"timeout_s": 0.5, "conversation_s": 1.0})
    return settings.model_copy(update={"mail": settings.mail.model_copy(update={"smtp": smtp})})


def got(faults: Any) -> Counter[str]:
    """How many letters each recipient got."""
    return Counter(name for mailed in faults.mails for name in mailed.recipients)


def places(home: Home) -> dict[str, int]:
    found = {place: len(list((home.outbox / place).glob("*.eml"))) for place in ("", "waiting", "failed")}
    return {place or "delivered": count for place, count in found.items() if count}


def test_a_letter_goes_once_to_each_recipient_encrypted_and_logged_in(home: Home, server: tuple[Any, Settings]) -> None:
    faults, settings = server
    names = [post(home, settings, LETTER) for _ in range(3)]
    kept = (home.outbox / "waiting" / f"{names[0]}.eml").read_bytes()
    done = deliver(home, settings)
    assert (len(done.sent), done.refused, done.waiting, done.trouble) == (9, (), 0, "")
    assert got(faults) == Counter(dict.fromkeys(TO, 3))
    assert {mailed.sender for mailed in faults.mails} == {"greenlight@example.org"}
    assert faults.mails[0].content.strip() == kept.strip()
    assert faults.seen.count("AUTH") == 1  # one connection for all
    assert faults.seen.index("STARTTLS") < faults.seen.index("AUTH") < faults.seen.index("MAIL")
    assert places(home) == {"delivered": 3}
    assert deliver(home, settings).sent == ()
    assert got(faults) == Counter(dict.fromkeys(TO, 3))


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # it has TLS from the first byte
def test_implicit_tls_and_a_password_from_a_file(
    home: Home, serve: Callable[..., Any], pems: tuple[Path, Path], tmp_path: Path
) -> None:
    faults, port = serve(pems[1], implicit=True)
    (tmp_path / "password").write_text("Correct Horse\n")
    settings = reaching(port, pems[0], tls="implicit", password="", password_file=str(tmp_path / "password"))
    post(home, settings, LETTER)
    assert len(deliver(home, settings).sent) == 3
    assert "AUTH" in faults.seen


def test_in_clear_on_loopback_only_and_where_the_settings_say_so(home: Home, serve: Callable[..., Any]) -> None:
    faults, port = serve(None)
    settings = reaching(port)
    post(home, settings, LETTER)
    assert "does not encrypt" in deliver(home, settings).trouble  # the server offers no STARTTLS
    assert "MAIL" not in faults.seen
    assert len(deliver(home, reaching(port, tls="none", login="", password=""), at_once=True).sent) == 3


REFUSED, LATER = "refused", "waits"
PHASES = [  # what is wrong; what becomes of ann, bob and cyd; what is said
    ({"banner": "554 no service here"}, (LATER, LATER, LATER), "554 no service here"),
    ({"EHLO": "550 not you"}, (LATER, LATER, LATER), "550 not you"),
    ({"STARTTLS": "454 no TLS now"}, (LATER, LATER, LATER), "454 no TLS now"),
    ({"AUTH": "535 who are you"}, (LATER, LATER, LATER), "535 who are you"),
    ({"MAIL": "530 log in first"}, (LATER, LATER, LATER), "530 log in first"),
    ({"MAIL": "550 not from there"}, (REFUSED, REFUSED, REFUSED), "550 not from there"),
    ({"MAIL": "451 too busy"}, (LATER, LATER, LATER), ""),
    ({"RCPT bob@example.org": "550 no such user"}, ("sent", REFUSED, "sent"), "550 no such user"),
    ({"RCPT bob@example.org": "450 mailbox is full"}, ("sent", LATER, "sent"), ""),
    ({"RCPT ann@example.org": "450 full", "RCPT bob@example.org": "550 none"}, (LATER, REFUSED, "sent"), "550 none"),
    ({"RCPT": "550 nobody here"}, (REFUSED, REFUSED, REFUSED), "550 nobody here"),
    ({"RCPT cyd@example.org": "421 closing"}, (LATER, LATER, LATER), "421 closing"),
    ({"go": "554 no content"}, (REFUSED, REFUSED, REFUSED), "554 no content"),
    ({"go": "451 not now"}, (LATER, LATER, LATER), "451 not now"),
    ({"DATA": "552 too large"}, (REFUSED, REFUSED, REFUSED), "552 too large"),
    ({"DATA": "451 try again"}, (LATER, LATER, LATER), ""),
    ({"DATA": "cut"}, (LATER, LATER, LATER), "broke off"),
    ({"body": "cut"}, (LATER, LATER, LATER), "broke off"),
    ({"MAIL": "cut"}, (LATER, LATER, LATER), "broke off"),
    ({"banner": "hang"}, (LATER, LATER, LATER), "no answer in time"),
    ({"EHLO": "hang"}, (LATER, LATER, LATER), "no answer in time"),
    ({"DATA": "hang"}, (LATER, LATER, LATER), "no answer in time"),
    ({"EHLO": "drip"}, (LATER, LATER, LATER), "refuses the greeting"),
    ({"RCPT": "drip"}, (LATER, LATER, LATER), "broke off"),
]


@pytest.mark.parametrize(("wrong", "becomes", "says"), PHASES, ids=lambda value: str(value)[:60])
def test_each_phase_may_fail(
    home: Home, server: tuple[Any, Settings], wrong: dict[str, str], becomes: tuple[str, ...], says: str
) -> None:
    faults, settings = server
    faults.of = wrong
    post(home, settings, LETTER)
    done = deliver(home, hurried(settings) if {"hang", "drip"} & set(wrong.values()) else settings)
    refused = {lost.recipient: lost.reason for lost in done.refused}
    sent = {name for _, name in done.sent}
    waiting = {name for letter in letters(home, "waiting") for name in letter.open}
    assert tuple("sent" if n in sent else LATER if n in waiting else REFUSED for n in TO) == becomes
    if LATER not in becomes:
        assert set(refused) == {name for name, state in zip(TO, becomes, strict=True) if state == REFUSED}
    noted = {name: a.said for letter in letters(home, "waiting") for name, a in letter.answers.items()}
    assert says in f"{done.trouble} {refused} {noted}"
    faults.of, faults.mails = {}, [m for m in faults.mails if wrong != {"DATA": "cut"}]
    done = deliver(home, settings, at_once=True)  # the server is well again: everybody else gets it, once
    assert (done.waiting, done.trouble) == (0, "")
    assert got(faults) == Counter(name for name, state in zip(TO, becomes, strict=True) if state != REFUSED)
    assert places(home) == ({"failed": 1} if REFUSED in becomes else {"delivered": 1})
    assert {n for letter in letters(home, "failed") for n in letter.refused} == {
        name for name, state in zip(TO, becomes, strict=True) if state == REFUSED
    }


def test_a_server_that_is_away_or_another_one(
    home: Home, made: ModuleType, serve: Callable[..., Any], pems: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = reaching(made.free_port(), pems[0])
    post(home, settings, LETTER)
    assert "refused" in deliver(home, settings).trouble
    assert "cannot be reached" in deliver(home, reaching(1, host="nowhere.invalid"), at_once=True).trouble
    _, other = certificates(tmp_path, "mail.example.net")
    faults, port = serve(other)
    for authority in (pems[0], tmp_path / "authority.pem"):  # signed by a stranger; signed for another name
        said = deliver(home, reaching(port, authority), at_once=True).trouble
        assert "certificate is not trusted" in said
    assert "AUTH" not in faults.seen
    assert "no file of certificates" in deliver(home, reaching(port, tmp_path / "none.pem"), at_once=True).trouble
    lost = reaching(port, pems[0], password="", password_file=str(tmp_path / "none"))
    assert "password_file" in deliver(home, lost, at_once=True).trouble
    assert places(home) == {"waiting": 1}


def test_a_server_that_repeats_the_password_is_not_quoted(home: Home, server: tuple[Any, Settings]) -> None:
    faults, settings = server
    faults.of = {"AUTH": "535 no login greenlight with Correct Horse, AGdyZWVubGlnaHQAQ29ycmVjdCBIb3JzZQ=="}
    post(home, settings, LETTER)
    said = deliver(home, settings).trouble
    assert "535 no login" in said
    everything = said + "".join(file.read_text() for file in home.outbox.rglob("*.json"))
    assert "Horse" not in everything
    assert "AGdyZWVubGlnaHQAQ29ycmVjdCBIb3JzZQ" not in everything


def test_a_server_that_is_away_is_asked_ever_less_often(home: Home, server: tuple[Any, Settings]) -> None:
    faults, settings = server
    faults.of = {"banner": "421 later"}
    for _ in range(20):
        post(home, settings, LETTER)
    for _ in range(5):
        assert "421 later" in deliver(home, settings).trouble
    assert faults.seen.count("banner") == 1  # the next try is half a minute away, for all letters
    told = trouble(home)
    assert told is not None
    assert 20_000 < told["next_wall_ms"] - told["since_wall_ms"] < 40_000
    for _ in range(3):
        deliver(home, settings, at_once=True)
    again = trouble(home)
    assert again is not None
    assert (again["tries"], again["since_wall_ms"]) == (4, told["since_wall_ms"])
    faults.of = {}
    assert len(deliver(home, settings, at_once=True).sent) == 60
    assert trouble(home) is None


def test_a_letter_at_which_the_server_breaks_off_keeps_no_other_waiting(
    home: Home, server: tuple[Any, Settings]
) -> None:
    faults, settings = server
    post(home, settings, LETTER)
    faults.of = {"body": "cut"}
    deliver(home, settings)
    faults.of = {}
    later = post(home, settings, Letter("later", ""))
    faults.of = {}
    assert [name for name, _ in deliver(home, settings, at_once=True).sent][:3] == [later] * 3


def test_a_mailbox_that_is_full_for_days_is_given_up_in_the_end(home: Home, server: tuple[Any, Settings]) -> None:
    faults, settings = server
    faults.of = {"RCPT bob@example.org": "452 mailbox is full"}
    post(home, settings, LETTER)
    deliver(home, settings)
    (letter,) = letters(home, "waiting")
    letter.since_wall_ms -= 6 * 86_400_000
    letter.write()
    (lost,) = deliver(home, settings, at_once=True).refused
    assert (lost.recipient, lost.reason) == ("bob@example.org", "given up after 5 days: 452 mailbox is full")
    assert places(home) == {"failed": 1}


def test_cut_off_before_its_answer_a_letter_comes_again_under_the_same_name(
    home: Home, server: tuple[Any, Settings]
) -> None:
    faults, settings = server
    faults.of = {"DATA": "cut"}  # the server has taken it, and nobody hears so
    name = post(home, settings, LETTER)
    deliver(home, settings)
    faults.of = {}
    deliver(home, settings, at_once=True)
    ids = [message_from_bytes(mailed.content)["Message-ID"] for mailed in faults.mails]
    assert ids == [f"<{name}@example.org>"] * 2


def test_two_who_deliver_at_once_send_each_letter_once(home: Home, server: tuple[Any, Settings]) -> None:
    faults, settings = server
    for _ in range(10):
        post(home, settings, LETTER)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: deliver(home, settings), range(4)))
    assert sum(len(one.sent) for one in done) == 30
    assert got(faults) == Counter(dict.fromkeys(TO, 10))


def test_killed_between_two_letters_the_first_is_not_sent_again(home: Home, server: tuple[Any, Settings]) -> None:
    faults, settings = server
    first, second = (post(home, settings, LETTER) for _ in range(2))
    stop = threading.Event()

    def hang_at_the_second() -> None:
        while not faults.mails and not stop.is_set():
            time.sleep(0.001)
        faults.of = {"MAIL": "hang", "DATA": "hang"}

    watcher = threading.Thread(target=hang_at_the_second)
    watcher.start()
    command = [sys.executable, "-m", "pipelines.mailing"]
    with subprocess.Popen(command, env=home.environment_of(settings)) as process:
        until = time.monotonic() + PATIENCE_S
        while not (noted(home, first) and faults.seen.count("MAIL") == 2) and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    stop.set()
    watcher.join()
    faults.of = {}
    assert [name for name, _ in deliver(home, settings, at_once=True).sent] == [second] * 3
    ids = [message_from_bytes(mailed.content)["Message-ID"].split("@")[0] for mailed in faults.mails]
    assert ids == [f"<{first}", f"<{second}"]


def noted(home: Home, name: str) -> bool:
    return (home.outbox / f"{name}.eml").exists()


def test_a_note_that_is_damaged_and_a_file_that_is_no_letter_block_nobody(
    home: Home, server: tuple[Any, Settings]
) -> None:
    faults, settings = server
    faults.of = {"RCPT bob@example.org": "450 full"}
    post(home, settings, LETTER)
    deliver(home, settings)
    (note,) = (home.outbox / "waiting").glob("*.json")
    note.write_text("{")
    (home.outbox / "waiting" / "stray.eml").write_bytes(b"\xff\xfe no mail at all")
    (home.outbox / "waiting" / "worse.eml").write_bytes(b"To: <a\r\n b@@>, =?utf-8?q?=0a?= <x@\x00>\r\nFrom: ,\r\n\r\n")
    faults.of = {}
    name = post(home, settings, LETTER)
    done = deliver(home, settings, at_once=True)
    assert {sent for sent, _ in done.sent} == {name}
    assert done.waiting == 0
    reasons = " ".join(lost.reason for lost in done.refused)
    assert "note is damaged" in reasons
    assert "names nobody" in reasons
    assert places(home) == {"delivered": 1, "failed": 3}

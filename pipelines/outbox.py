"""Letters to those who answer for the recommender, kept on disk until they are delivered.

    outbox/<id>.eml                delivered; where settings.mail.via is `outbox`, this folder is all there is to it
    outbox/waiting/<id>.eml        posted, and to be sent to whoever has not got it yet
    outbox/failed/<id>.eml         refused for good to at least one recipient; the note beside it says to whom, and why
    outbox/trouble.json            since when, and why, nothing can be sent at all

A letter is whole and on disk when `post` returns, whatever the mail server does, and waits as long as the server is
down. Each recipient gets it once: who has it is on disk before the next letter begins, and only one process delivers.
What remains is SMTP's own gap: where the server takes a letter and we are killed, or the connection breaks, before its
answer is on disk, that letter is sent again, under the same Message-ID, by which mail programs know it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.errors import PlainError
from conf.home import Home
from conf.sections.mail import Mail
from conf.settings import Settings
from events.clock import wall_ms
from events.disk import sync, write_whole
from events.store import locked
from monitoring.mail import Letter, compose, mail_id
from pipelines.carrier import Carrier, Trouble, opened
from pipelines.kept import Kept, pause_s
from pipelines.loop import read_json, write_json

WAITING, FAILED = "waiting", "failed"
AT_ONCE = 20  # letters that a round sends, so that a loop that is asked to end is not killed within one


class OutboxError(PlainError):
    """There is no such letter."""


@dataclass(frozen=True)
class Refusal:
    """A recipient who does not get a letter."""

    id: str
    subject: str
    recipient: str
    reason: str


@dataclass(frozen=True)
class Delivered:
    """What one round did. sent: (id, recipient) each. waiting: letters. trouble: why nothing can be sent, or empty."""

    sent: tuple[tuple[str, str], ...] = ()
    refused: tuple[Refusal, ...] = ()
    waiting: int = 0
    trouble: str = ""

    @property
    def lines(self) -> list[str]:
        """For people."""
        return [
            *(f"sent     {name}  {recipient}" for name, recipient in self.sent),
            *(f"refused  {lost.id}  {lost.recipient}: {lost.reason}" for lost in self.refused),
            f"letters that wait: {self.waiting}{f'; {self.trouble}' if self.trouble else ''}",
        ]


def post(home: Home, settings: Settings, letter: Letter, *, stamp: str = "") -> str:
    """Keep a letter, durably; its id. Nothing is sent here. OSError where the disk is full or may not be written.

    stamp: the id, for what must be told once: a letter that is there under it, sent or not, is left as it is.
    """
    message = compose(letter, settings.mail, stamp)
    file = f"{mail_id(message)}.eml"
    place = home.outbox if settings.mail.via == "outbox" else home.outbox / WAITING
    _make(place)
    if not any((home.outbox / where / file).exists() for where in (WAITING, FAILED, "")):  # as a letter moves on
        write_whole(place / file, message.as_bytes())
    return mail_id(message)


def deliver(home: Home, settings: Settings, *, at_once: bool = False) -> Delivered:
    """Send what waits and is due; at_once: what is not due yet, too. A trouble is in the answer, not raised."""
    if not any(letters(home, WAITING)):
        _trouble(home).unlink(missing_ok=True)
        return Delivered()
    with locked(home.outbox):
        return _Round(home, settings.mail).run(at_once)


def letters(home: Home, place: str = "") -> Iterator[Kept]:
    """Those in a place (`waiting`, `failed`, or the delivered ones), oldest first. One that just left is left out."""
    for file in sorted((home.outbox / place).glob("*.eml")):
        try:
            yield Kept.read(file)
        except FileNotFoundError:
            continue


def trouble(home: Home) -> dict[str, Any] | None:
    """What keeps every letter from being sent: `trouble`, `since_wall_ms`, `tries`, `next_wall_ms`."""
    return read_json(_trouble(home))


def reopen(home: Home) -> int:
    """Let those letters that failed wait again, for whoever refused them; how many."""
    with locked(home.outbox):
        found = list(letters(home, FAILED))
        for letter in found:
            letter.reopen()
            letter.move(home.outbox / WAITING)
    return len(found)


def drop(home: Home, name: str) -> Kept:
    """Give a letter up: it stays in the outbox, and nobody gets it any more. OutboxError where there is none."""
    with locked(home.outbox):
        for letter in (*letters(home, WAITING), *letters(home, FAILED)):
            if letter.id == name:
                letter.move(home.outbox)
                return letter
    raise OutboxError(f"no letter {name} waits or has failed: greenlight mail list shows those that do")


class _Round:
    """One delivery, under the outbox's lock."""

    def __init__(self, home: Home, conf: Mail) -> None:
        self.home, self.conf = home, conf
        self.sent: list[tuple[str, str]] = []
        self.refused: list[Refusal] = []

    def run(self, at_once: bool) -> Delivered:
        self._sweep()
        waiting = list(letters(self.home, WAITING))
        due = [letter for letter in waiting if at_once or letter.is_due(self.conf)]
        due.sort(key=lambda letter: letter.tries)  # one at which connections break keeps nobody else waiting
        for letter in [letter for letter in due if not letter.open]:
            self._settle(letter)  # a round that was cut off left it
        due = [letter for letter in due if letter.open]
        if self.conf.via == "outbox":
            for letter in due:
                letter.move(self.home.outbox)
            _trouble(self.home).unlink(missing_ok=True)
        elif due and (at_once or not self._held()):
            self._send(due if at_once else due[:AT_ONCE])
        told = trouble(self.home) or {}
        left = sum(1 for _ in (self.home.outbox / WAITING).glob("*.eml"))
        return Delivered(tuple(self.sent), tuple(self.refused), left, told.get("trouble", ""))

    def _send(self, due: list[Kept]) -> None:
        try:
            with opened(self.conf) as carrier:
                for letter in due:
                    self._carry(letter, carrier)
        except Trouble as why:
            self._hold(str(why))
        else:
            _trouble(self.home).unlink(missing_ok=True)

    def _carry(self, letter: Kept, carrier: Carrier) -> None:
        try:
            for answers in carrier.carry(letter.sender, letter.open, letter.file.read_bytes()):
                letter.answered(answers)
                self.sent += [(letter.id, name) for name, answer in answers.items() if answer.state == "sent"]
        except Trouble:
            letter.postpone(self.conf)
            raise
        if letter.open:
            letter.postpone(self.conf)
        if not letter.open:
            self._settle(letter)

    def _settle(self, letter: Kept) -> None:
        """Everybody has it or refused it."""
        refused = letter.refused
        self.refused += [Refusal(letter.id, letter.subject, name, said) for name, said in refused.items()]
        letter.move(self.home.outbox / FAILED if refused else self.home.outbox)

    def _sweep(self) -> None:
        """Notes whose letters have moved on: a move that was cut off left them."""
        for place in (WAITING, FAILED):
            for note in (self.home.outbox / place).glob("*.json"):
                if not note.with_suffix(".eml").exists():
                    note.unlink()

    def _held(self) -> bool:
        """Whether the next try at a server in trouble is still to come."""
        told = trouble(self.home) or {}
        return 0 < told.get("next_wall_ms", 0) - wall_ms() <= self.conf.retry_max_s * 1000

    def _hold(self, why: str) -> None:
        now, told = wall_ms(), trouble(self.home) or {}
        tries = told.get("tries", 0) + 1
        rest = {"tries": tries, "next_wall_ms": now + round(1000 * pause_s(tries, self.conf))}
        write_json(_trouble(self.home), {"trouble": why, "since_wall_ms": told.get("since_wall_ms", now), **rest})


def _trouble(home: Home) -> Path:
    return home.outbox / "trouble.json"


def _make(folder: Path) -> None:
    """A folder whose name is on disk too."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync(folder.parent)
        sync(folder.parent.parent)

"""A letter on disk and what became of it: `<id>.eml`, and `<id>.json` once there is something to note.

The letter is the .eml alone: it names its recipients. The note beside it says who has it, in what words the server said
so, and when the next try is due. Each is written whole and durably.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from email.errors import MessageError
from email.message import EmailMessage
from email.parser import BytesHeaderParser
from email.policy import default
from pathlib import Path
from typing import Any

from conf.sections.mail import MAILBOX, Mail
from events.clock import wall_ms
from events.disk import sync, write_whole
from pipelines.carrier import Answer

DAY_MS = 86_400_000
NOBODY = Answer("refused", "the letter names nobody who could get it")
UNKNOWN = Answer("refused", "its note is damaged, so who has it is not known: greenlight mail send --failed sends it")


@dataclass
class Kept:
    """answers: of those recipients who have one. tries: how often it was tried without an end. Times in ms."""

    file: Path
    subject: str
    sender: str
    recipients: tuple[str, ...]
    answers: dict[str, Answer] = field(default_factory=dict)
    tries: int = 0
    next_wall_ms: int = 0
    since_wall_ms: int = 0  # when a mailbox was first said to be busy

    @classmethod
    def read(cls, file: Path) -> "Kept":
        """OSError where it cannot be read. One that is damaged is refused to all, so that it blocks nobody."""
        with file.open("rb") as stream:
            headers = BytesHeaderParser(_class=EmailMessage, policy=default).parse(stream)
        kept = cls(file, str(headers["Subject"]), *_envelope(headers))
        if not kept.recipients:
            kept.recipients, kept.answers = ("nobody",), {"nobody": NOBODY}
        elif kept.note.exists():
            kept._take_note()
        return kept

    @property
    def id(self) -> str:
        return self.file.stem

    @property
    def posted_wall_ms(self) -> int:
        return int(self.file.stat().st_mtime * 1000)

    @property
    def note(self) -> Path:
        return self.file.with_suffix(".json")

    @property
    def open(self) -> tuple[str, ...]:
        """Who is still to get it."""
        return tuple(r for r in self.recipients if r not in self.answers or self.answers[r].state == "later")

    def shown(self) -> dict[str, Any]:
        """What people may want to know of it: what became of it for each recipient, and in what words."""
        words = {name: f"{answer.state}: {answer.said}" for name, answer in self.answers.items()}
        told = {name: words.get(name, "waits") for name in self.recipients}
        return {"id": self.id, "subject": self.subject, "tries": self.tries, "recipients": told}

    @property
    def refused(self) -> dict[str, str]:
        """Who does not get it, and why."""
        return {name: answer.said for name, answer in self.answers.items() if answer.state == "refused"}

    def is_due(self, conf: Mail) -> bool:
        """Whether its next try has come; a clock that was set back makes none wait longer than the longest pause."""
        return not 0 < self.next_wall_ms - wall_ms() <= conf.retry_max_s * 1000

    def answered(self, answers: Mapping[str, Answer]) -> None:
        self.answers |= answers
        self.write()

    def postpone(self, conf: Mail) -> None:
        """Try again later who is open; give up those whose mailboxes have been busy for too long."""
        now = wall_ms()
        busy = {name: self.answers[name].said for name in self.open if name in self.answers}
        self.since_wall_ms = (self.since_wall_ms or now) if busy else 0
        if busy and now - self.since_wall_ms > conf.give_up_days * DAY_MS:
            why = f"given up after {conf.give_up_days:g} days"
            self.answers |= {name: Answer("refused", f"{why}: {said}") for name, said in busy.items()}
        self.tries += 1
        self.next_wall_ms = now + round(1000 * pause_s(self.tries, conf))
        self.write()

    def reopen(self) -> None:
        """As if who refused it had not been asked."""
        self.answers = {name: answer for name, answer in self.answers.items() if answer.state == "sent"}
        self.tries, self.next_wall_ms, self.since_wall_ms = 0, 0, 0

    def write(self, folder: Path | None = None) -> None:
        told: dict[str, Any] = {name: getattr(self, name) for name in ("tries", "next_wall_ms", "since_wall_ms")}
        told["answers"] = {name: asdict(answer) for name, answer in self.answers.items()}
        note = (folder or self.file.parent) / self.note.name
        write_whole(note, json.dumps(told, indent=1, ensure_ascii=False).encode())

    def move(self, folder: Path) -> None:
        """Into another folder, its note first: whenever it is cut off, the next time goes on from there."""
        folder.mkdir(parents=True, exist_ok=True)
        self.write(folder)
        old, self.file = self.file, folder / self.file.name
        old.rename(self.file)
        sync(folder)
        old.with_suffix(".json").unlink(missing_ok=True)
        sync(old.parent)

    def _take_note(self) -> None:
        try:
            told = json.loads(self.note.read_text())
            self.answers = {name: Answer(**answer) for name, answer in told.pop("answers").items()}
            self.tries, self.next_wall_ms, self.since_wall_ms = (
                int(told[name]) for name in ("tries", "next_wall_ms", "since_wall_ms")
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            self.answers = dict.fromkeys(self.recipients, UNKNOWN)


def pause_s(tries: int, conf: Mail) -> float:
    """Until the next try: twice as long each time, up to the longest."""
    return min(conf.retry_max_s, conf.retry_s * 2.0 ** min(tries - 1, 30))


def _envelope(headers: EmailMessage) -> tuple[str, tuple[str, ...]]:
    """Sender and recipients, as far as they are addresses."""
    try:
        found = [[a.addr_spec for a in getattr(headers[name], "addresses", ())] for name in ("From", "To")]
    except (MessageError, ValueError, IndexError, AttributeError):  # a file that was not written here
        return "", ()
    senders, recipients = ([a for a in names if MAILBOX.fullmatch(a)] for names in found)
    return (senders or [""])[0], tuple(dict.fromkeys(recipients))

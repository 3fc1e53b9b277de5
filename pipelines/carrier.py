"""What a carrier of mail is: SMTP (`pipelines/smtp.py`) and Amazon's SES (`pipelines/ses.py`) are two."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from conf.errors import PlainError
from conf.sections.mail import Mail


class Trouble(PlainError):
    """Nothing can be sent now: the server is away, lets nobody in or broke off. Letters wait; the message says why."""


@dataclass(frozen=True)
class Answer:
    """What a server said of one recipient. later: for now; refused: for good. said: its words."""

    state: Literal["sent", "later", "refused"]
    said: str


class Carrier(Protocol):
    """An open way to a mail server."""

    def carry(self, sender: str, recipients: Sequence[str], content: bytes) -> Iterator[dict[str, Answer]]:
        """Send a letter; each answer as soon as it is final, so that it can be noted. Trouble where it breaks off:
        whoever has no answer by then may have the letter or not."""
        ...


def opened(conf: Mail) -> AbstractContextManager[Carrier]:
    """The way that the settings name: smtp or ses. Entering it raises Trouble."""
    if conf.via == "ses":
        from pipelines.ses import ses

        return ses(conf.ses)
    from pipelines.smtp import smtp

    return smtp(conf.smtp, conf.sender.rpartition("@")[2])

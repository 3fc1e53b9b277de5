"""Nothing that looks like a key leaves the process in a log, whichever library writes it, nor in an answer."""

import logging
import re
from typing import Any

KEY = r"gl(?:_|%5f)[a-z]{2,12}(?:_|%5f)[0-9a-z]{4,}(?:(?:_|%5f)[0-9a-z]*)?"
NAMED = (
    r"((?:x[-_])?api[-_]?key|access[-_]?token|authorization|bearer)"
    r"(['\"]?\s*(?:[=:]|%3d|%3a)\s*|\s+)(?:bearer\s+)?[^\s&'\",;]+"
)
SECRET = re.compile(f"{NAMED}|{KEY}", re.IGNORECASE)
HIDDEN = "[hidden]"


def scrub(text: str) -> str:
    """The text, with whatever looks like a key replaced."""
    return SECRET.sub(lambda found: f"{found[1]}{found[2]}{HIDDEN}" if found[1] else HIDDEN, text)


class CleanRecord(logging.LogRecord):
    """A log record whose message and traceback hold no key."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        if self.exc_info and self.exc_info[0]:  # what formatters print of it, made before any of them can
            self.exc_text = scrub(logging.Formatter().formatException(self.exc_info))

    def getMessage(self) -> str:
        return scrub(super().getMessage())


def scrub_logs() -> None:
    """Have every log record of this process made clean, whichever library writes it."""
    logging.setLogRecordFactory(CleanRecord)

"""The event log, as producers and consumers know it: append-only, with topics, offsets and consumer groups.

An event is acknowledged when `append` returns: by then it is durable. An event id is stored once per topic, so
appending again, after a crash or on purpose, adds nothing. A consumer reads after the offset that its group has
committed, so what it has not committed it reads again.
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from conf.errors import PlainError
from events.event import AnyEvent

BATCH = 10_000  # events of one read or commit: large enough for speed, small enough for memory


class Record(NamedTuple):
    """An event and where it stands. A stored record that cannot be read comes as `Unreadable`, with its offset."""

    offset: int
    event: AnyEvent


class Appended(NamedTuple):
    added: int
    duplicates: int  # event ids that the topic already held


class Waiting(NamedTuple):
    """Records that a reader has not taken yet, and when the oldest of them was stored, in wall time; None where there
    is none, or where the log is older than its memory of moments."""

    records: int
    since_wall_ms: int | None


class LogError(PlainError):
    """The log cannot be read or written; the message names the file and the cause. Nothing was acknowledged."""


class LogFull(LogError):
    """There is no room: the batch was not stored."""


class LogAtCap(LogFull):
    """The log holds as much as it may: the batch was not stored."""


class Log(Protocol):
    """What producers and consumers rely on, whichever log is behind it."""

    def append(self, topic: str, events: Iterable[AnyEvent]) -> Appended:
        """Store the events durably, those with a new id, all or none."""

    def read(self, topic: str, group: str, limit: int = BATCH, after: int | None = None) -> list[Record]:
        """The next records after what `group` has committed (or after the offset `after`), oldest first."""

    def commit(self, topic: str, group: str, offset: int) -> None:
        """`group` is done with everything up to and including `offset`; never moves backwards."""

    def lag(self, topic: str, group: str) -> int:
        """How many records of `topic` the group has not committed."""

    def close(self) -> None:
        """Let go of files and connections."""

"""Register line K6: when lag is an alarm, from one look to the next.

Much waits, look after look, for a minute; or what waits is old, at two looks in a row, since a wall clock that jumps
makes whatever is under way look old for one. An alarm is over when both are below half their limits, so lag that
swings about a limit is one alarm.
"""

from dataclasses import dataclass

from conf.sections.kafka import Lag

OVER = 0.5  # of both limits: below it an alarm is over


@dataclass(frozen=True)
class Behind:
    """What one reader of a log has not taken yet. group: who reads; worker: which of several, by number; messages: how
    many records; seconds: the age of the oldest, 0 where none waits, None where it is not known."""

    group: str
    messages: int
    seconds: float | None = 0.0
    worker: str = ""

    @property
    def name(self) -> str:
        return f"{self.group} {self.worker}".strip()


@dataclass(frozen=True)
class Watched:
    """What is remembered of a reader. many_s: for how long too much has waited, None where it did not at the last
    look; old: whether the oldest was too old then."""

    many_s: float | None = None
    old: bool = False
    alarm: bool = False


def look(before: Watched, behind: Behind, elapsed_s: float, conf: Lag) -> Watched:
    """What to remember after another look, `elapsed_s` after the one before (0 for the first).

    An age that is not known is no alarm; one that is not a number is.
    """
    seconds = behind.seconds or 0.0
    many_s = None
    if behind.messages > conf.messages:
        many_s = 0.0 if before.many_s is None else before.many_s + max(0.0, elapsed_s)
    old = not seconds <= conf.seconds
    begins = (many_s is not None and many_s >= conf.for_s) or (old and before.old)
    calm = behind.messages <= OVER * conf.messages and seconds <= OVER * conf.seconds
    return Watched(many_s, old, begins or (before.alarm and not calm))

"""Work beside requests in small pieces, with rests between them, so that it never takes more than a share of a core."""

import time
from collections.abc import Callable

LEAST_S = 0.003  # of a piece: shorter ones are put together, since a rest is not exact to a millisecond


Rest = Callable[[], object]


def no_rest() -> None:
    """For who has the machine for himself."""


class Pace:
    """`rest`, called between pieces, lasts as long as the share asks for. It is measured in processor time, so what
    waits for the disk, or for others, needs no rest."""

    def __init__(
        self,
        share: float,
        clock: Callable[[], float] = time.process_time,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        """share: of a core; clock: the processor time that counts, of the process or, by `thread_time`, of a thread."""
        self._rests, self._clock, self._wait = 1.0 / share - 1.0, clock, wait
        self._rested = clock()

    def rest(self) -> None:
        worked_s = self._clock() - self._rested
        if worked_s >= LEAST_S:
            self._wait(worked_s * self._rests)
            self._rested = self._clock()

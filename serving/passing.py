"""Who has the interpreter, where one thread answers requests and another computes beside it.

Numpy gives up the interpreter many times within a slate, and each time a thread that computes keeps it for a switch
interval: the slate takes twice as long. So such a thread looks now and then whether a slate is being made, and waits.
"""

import threading


class Passing:
    """`with` it, the event loop makes a slate; `wait` is for the other threads."""

    def __init__(self, longest_s: float = 0.001) -> None:
        """longest_s: of one wait, so that what waits goes on under a load without gaps, too."""
        self._longest_s, self._passing, self._clear = longest_s, 0, threading.Event()
        self._clear.set()

    def __enter__(self) -> None:
        self._passing += 1
        self._clear.clear()

    def __exit__(self, *why: object) -> None:
        self._passing -= 1
        if not self._passing:
            self._clear.set()

    def wait(self) -> None:
        """Until no slate is being made, or a little while."""
        if self._passing:
            self._clear.wait(self._longest_s)


SLATES = Passing()  # of this process

"""Live state follows the log: what viewers did is taken in while requests are answered from it."""

import logging
import time
from collections.abc import Iterable

from conf.home import Home
from conf.settings import Settings
from events.clock import wall_ms
from events.event import CATALOGUE
from events.log import LogError
from events.state import Acts
from events.store import StoreError
from serving.live import Live, Prepare, no_one

log = logging.getLogger("greenlight.serving")

PAUSE_S = 0.001  # between two batches, for the requests


class Feed:
    """A reader of a home's log. For one thread; another one has a feed of its own. `trouble`: why it cannot be read."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self._acts, self._lines = Acts(home, settings), Acts(home, settings, (CATALOGUE,))
        self.trouble = ""

    def follow(self, live: Live, seconds: float, beside: Iterable[Live] = (), prepare: Prepare = no_one) -> None:
        """Take in what is new, until there is nothing or the time is over. What cannot be read now is tried again.

        beside: live states from which a new one may take what they have; prepare: sees new counts before requests do.
        """
        until, trouble = time.monotonic() + seconds, ""
        try:
            for other in beside:
                live.adopt(other, self._lines)
            while live.follow(self._acts) and time.monotonic() < until:
                time.sleep(PAUSE_S)
        except (LogError, StoreError) as why:
            trouble = str(why)
        live.settle(wall_ms(), prepare)
        if trouble and trouble != self.trouble:
            log.warning("live state does not follow the log: %s", trouble)
        self.trouble = trouble

    def close(self) -> None:
        self._acts.close()
        self._lines.close()

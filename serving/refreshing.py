"""Workers take up what `greenlight precompute` puts beside a release, within seconds; what is damaged they refuse."""

import logging
import time
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from conf.home import Home
from mlflow_server import refreshed
from mlflow_server.release import ReleaseError
from serving.opened import Opened

log = logging.getLogger("greenlight.serving")

LOOK_S = 2.0


class Refreshing:
    """For one thread. `trouble`: what was refused and why; what was there before goes on, at the least the release's
    own copy."""

    def __init__(self, home: Home) -> None:
        self._folder, self._looked_s = home.live, float("-inf")
        self._seen: WeakKeyDictionary[Opened, tuple[Any, str]] = WeakKeyDictionary()

    @property
    def trouble(self) -> str:
        return next((trouble for _, trouble in self._seen.copy().values() if trouble), "")

    def look(self, serving: Iterable[Opened]) -> None:
        """Hand each open release what is newer beside it. Costs one `stat` each, every two seconds."""
        if time.monotonic() - self._looked_s < LOOK_S:
            return
        self._looked_s = time.monotonic()
        for opened in serving:
            folder = self._folder / opened.release
            seen = refreshed.stamp(folder), opened.live is None
            if seen != self._seen.get(opened, ((None, None), ""))[0]:
                self._seen[opened] = seen, self._take_up(opened) if seen[0] else ""

    def _take_up(self, opened: Opened) -> str:
        try:
            opened.take_up(refreshed.read(self._folder / opened.release))
        except ReleaseError as why:
            trouble = f"slates made ahead are refused ({why}); greenlight precompute makes new ones"
            log.warning(trouble)
            return trouble
        return ""

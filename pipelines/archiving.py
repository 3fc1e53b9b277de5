"""The loop that brings the archive up to date, and drops from the logs what is old: `python -m pipelines.archiving`.
`greenlight up` runs it.

`archiving.json` in the home says when it last did, or since when it cannot, and why: `status` reads it.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings, load
from events.archive import archive, catch_up
from events.clock import wall_ms
from events.local_log import LocalLog
from events.pace import Pace, Rest, no_rest
from events.reading import opened, reading_log
from events.retention import trim_logs
from events.store import Store, history_store
from events.turns import step_aside
from pipelines.loop import asked_to_end, speak, write_json

log = logging.getLogger("greenlight.archiving")

TRIM_S = 60.0  # between two trimmings of the logs
TRIMMED = 20_000  # records of a log that are dropped before the archive has its turn again
SHARE = 0.2  # of a core, at most, goes into the archive: what it writes anew grows with the day


@dataclass
class Archiving:
    """`step` never raises: what it could not do, the next one does."""

    home: Home
    settings: Settings
    log: str = ""  # the path of the one that is archived
    events: int = 0  # archived since the start
    trouble: str = ""
    rest: Rest = no_rest  # between pieces of work
    since_wall_ms: int = 0  # of the trouble
    done_wall_ms: int = 0  # when the archive last held everything that the log did
    _log: LocalLog | None = None
    _store: Store | None = None
    _trim_at: float = 0.0  # monotonic

    def step(self) -> None:
        """Archive what is new. A trouble is said once until it is another one, or over."""
        try:
            self._trim()
            self._archive()
        except (PlainError, OSError) as why:
            self._broken(str(why))
        else:
            if self.trouble:
                log.info("the archive goes on after: %s", self.trouble)
            self.trouble, self.since_wall_ms, self.done_wall_ms = "", 0, wall_ms()
        self._note()

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _archive(self) -> None:
        path = reading_log(self.home, self.settings)
        self.log = str(path)
        self._log = opened(path, self._log)
        if self._log is None:
            return  # no event has come in yet
        if self._store is None:
            self._store = history_store(self.home, self.settings.storage)
            self.events += catch_up(self.home, self.settings, self._store, rest=self.rest)
        self.events += archive(self._log, self._store, rest=self.rest)

    def _trim(self) -> None:
        """Now and then; at once again where more is left to drop."""
        if time.monotonic() >= self._trim_at:
            dropped = trim_logs(self.home, self.settings, TRIMMED)
            if dropped < TRIMMED:
                self._trim_at = time.monotonic() + TRIM_S

    def _broken(self, why: str) -> None:
        self.close()  # the next step begins afresh: the file may have been put back from a backup
        self._store = None
        if why != self.trouble:
            log.warning("nothing is archived: %s; it is tried again every %g s", why, self._every_s)
        self.since_wall_ms = self.since_wall_ms or wall_ms()
        self.trouble = why

    def _note(self) -> None:
        told = {name: getattr(self, name) for name in ("log", "events", "trouble", "since_wall_ms", "done_wall_ms")}
        try:
            write_json(self.home.archiving, told)
        except OSError as why:  # a full disk: the log of this loop still says so
            log.warning("%s cannot be written: %s", self.home.archiving, why.strerror or why)

    @property
    def _every_s(self) -> float:
        return self.settings.workers.archive_every_s


def run(archiving: Archiving, wait: Callable[[float], bool]) -> None:
    """Step until `wait` (for some seconds) says that it is time to end."""
    archiving.step()
    while not wait(archiving.settings.workers.archive_every_s):
        archiving.step()
    archiving.close()


if __name__ == "__main__":
    speak()
    step_aside()
    ending = asked_to_end()  # then it rests no more
    run(Archiving(Home.from_environment().open(), load(), rest=Pace(SHARE, wait=ending.wait).rest), ending.wait)

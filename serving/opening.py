"""Opening a release beside those that serve: fetched, checked, loaded, warmed and tried. What fails is refused."""

import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from conf.home import Home
from conf.settings import Settings
from events.clock import wall_ms
from events.pace import Pace
from mlflow_server.depot import Depot
from mlflow_server.release import ReleaseError
from models.base import slates
from serving.opened import RETRY_UNCHANGED_S, Opened, Packaged, fingerprint
from serving.report import Refusal

log = logging.getLogger("greenlight.serving")

TURN_S, LOOK_S = 5.0, 0.02
SHARE = 0.25  # of a core that reading and warming take: requests get the rest, and the interpreter
TRIED = 5  # viewers who must get a slate between them


class _Failed(NamedTuple):
    """A try that failed, and what the files looked like."""

    refusal: Refusal
    files: tuple
    tried_s: float


class Opener:
    """Opens releases of a home that `public` signed. `refused`: those that could not be opened, and why, by digest."""

    def __init__(self, home: Home, packaged: Opened, public: str, catch_up: Callable[[Opened], None]) -> None:
        """`catch_up` brings the live state of a release up to now."""
        self.home, self.public, self._catch_up = home, public, catch_up
        self.settings: Settings = packaged.settings
        self._packaged = packaged.release, packaged.folder
        self.depot = Depot(home, self.settings.storage)
        self._failed: dict[str, _Failed] = {}

    @property
    def refused(self) -> dict[str, Refusal]:
        return {digest: failed.refusal for digest, failed in self._failed.copy().items()}

    def open(self, digest: str) -> Opened | None:
        """The whole release, tried; None where it is refused. Tried again when its files change, or after a while."""
        files = fingerprint(self.home.releases / digest)
        before = self._failed.get(digest)
        if before and before.files == files and time.monotonic() - before.tried_s < RETRY_UNCHANGED_S:
            return None
        try:
            with self._turn():
                opened = self._open(digest)
        except (ReleaseError, OSError) as why:
            self._failed[digest] = _Failed(Refusal(reason=str(why), wall_ms=wall_ms()), files, time.monotonic())
            log.warning("release %s is refused: %s", digest, why)
            return None
        self._failed.pop(digest, None)
        return opened

    def forget(self, *needed: str) -> None:
        """Refusals of releases that nobody asks for any more."""
        for digest in set(self._failed) - set(needed):
            del self._failed[digest]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Workers open releases one after the other: where each does at once, no core is left for requests. One that
        hangs keeps the others waiting no longer than TURN_S."""
        with (self.home.root / "opening.lock").open("a") as file:
            until = time.monotonic() + TURN_S
            while not _locked(file) and time.monotonic() < until:
                time.sleep(LOOK_S)
            yield

    def _open(self, digest: str) -> Opened:
        pace = Pace(SHARE, time.thread_time)
        opened = Opened(self._folder(digest), Packaged(digest, self.public, {}), self.settings, pace.rest)
        try:
            if opened.trouble:
                raise ReleaseError(opened.trouble)
            self._catch_up(opened)
            _try(opened)
        except BaseException:
            opened.close()
            raise
        return opened

    def _folder(self, digest: str) -> Path:
        packaged, folder = self._packaged
        if digest == packaged and not (self.home.releases / digest).exists():
            return folder
        return self.depot.folder(digest)


def _locked(file: IO[str]) -> bool:
    """Whether the lock is ours now; closing the file lets go of it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try(opened: Opened) -> None:
    """ReleaseError where nobody gets a movie. It is warm already; here it answers on its live state."""
    ready, live = opened.ready, opened.live
    assert ready is not None
    assert live is not None
    for user_id in ["", *live.known[: TRIED - 1]]:
        try:
            made = slates(ready.model, live.history(user_id), live.counts, opened.now_ms(), 10)
        except Exception as why:  # a model's own code runs here and may raise anything
            raise ReleaseError(f"{ready.name} raised {type(why).__name__} when it was tried: {why}") from why
        if (made.items >= 0).any():
            return
    raise ReleaseError(f"{ready.name} has not one movie to show when it is tried")

"""Builds the Bento of the champion beside whoever waits for nothing: a fresh `bentoml serve` starts with it."""

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from events.turns import step_aside
from mlflow_server.depot import Depot
from mlflow_server.ledger import Entry
from mlflow_server.release import Checked, Release
from pipelines.latest import PackageError, bentos, facts_of
from pipelines.package import package

log = logging.getLogger("greenlight.packing")

AGAIN_S = 60.0  # until a build that failed is tried again


class Packing:
    """`want` says whose Bento is to be the latest; `step` starts its build and tells how it ended. Neither waits."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self.home, self.settings, self.depot = home, settings, Depot(home, settings.storage)
        self._pool = ThreadPoolExecutor(1, "packing", step_aside)  # that thread alone, and what it starts
        self._wanted, self._done = "", ""
        self._building: tuple[str, Future[str]] | None = None
        self._not_before = 0.0

    def want(self, champion: Entry | None) -> None:
        wanted = champion.body["release"] if champion else ""
        if wanted != self._wanted:
            self._wanted, self._not_before = wanted, 0.0

    def step(self) -> None:
        if self._building and self._building[1].done():
            release, future = self._building
            self._building = None
            self._ended(release, future)
        idle = self._building is None and time.monotonic() >= self._not_before
        if idle and self._wanted and self._wanted != self._done:
            self._building = self._wanted, self._pool.submit(self._build, self._wanted)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _ended(self, release: str, future: "Future[str]") -> None:
        try:
            log.info("%s is what a fresh bentoml serve starts with", future.result())
            self._done = release
        except (PlainError, OSError) as why:
            self._not_before = time.monotonic() + AGAIN_S
            log.warning("the Bento of release %s could not be built: %s; trying again", release[:12], why)

    def _build(self, digest: str) -> str:
        folder = self.depot.folder(digest)
        release = Release(digest, folder, Checked(folder).manifest)
        return package(self.home, self.settings, release, self._measured(digest))

    def _measured(self, digest: str) -> dict[str, Any]:
        """What the infra gate measured, where a Bento of this release was built by its training."""
        for bento in bentos(self.home).glob("*/"):
            with suppress(PackageError):  # a build that was killed leaves less
                facts = facts_of(bento)
                if facts["release"] == digest:
                    return dict(facts["measured"])
        return {}

"""One release as a worker has it: the parts that could be read, and a thread that fetches the rest."""

import copy
import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from threadpoolctl import threadpool_limits

from conf.settings import Settings
from events.pace import Rest, no_rest
from mlflow_server import release
from mlflow_server.refreshed import Refreshed
from mlflow_server.release import Checked, Popular, ReleaseError
from mlflow_server.topk import TopK
from models.base import Recommender, slates
from models.interactions import Catalogue, LiveCounts
from models.pieces import listed
from serving.live import Live, Names
from serving.pool import Pool

log = logging.getLogger("greenlight.serving")

RETRY_S = 1.0  # how often a worker without its model looks whether the files have changed
RETRY_UNCHANGED_S = 30.0  # and tries again although they have not
WARM_UP = 20  # slates made before a model is trusted
ROUNDS = 3  # of them, where the time of the first is in doubt
FAR = 5  # times the limit: that is no accident


@dataclass(frozen=True)
class Packaged:
    """What `package` wrote beside the release: its digest, the key that signed it, and what the infra gate measured."""

    release: str
    public: str
    measured: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Packaged | None":
        """None where it cannot be read: then nothing vouches for the release, and only the fallback is served."""
        try:
            facts = orjson.loads(path.read_bytes())
            return cls(str(facts["release"]), str(facts["public"]), dict(facts["measured"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True, eq=False)
class Ready:
    """A model that was loaded from checked bytes, warmed and tried."""

    model: Recommender
    name: str


@dataclass(frozen=True, eq=False)
class Ahead:
    """Slates made ahead for known viewers: when the release was built, or later beside it."""

    topk: TopK
    rows: dict[str, int]
    names: Names


class Opened:
    """A release, open for requests. Each part is replaced whole, so a request sees the old one or the new one.

    ready, ahead, live: None while they cannot be read; `trouble` says why. popular is always there. newer: what was
    made anew beside the release, if anything; the release's own is the floor. Every byte is checked as it is read; only
    in a release that is in trouble may the ranking have no more than its own checksum.
    """

    def __init__(self, folder: Path, packaged: Packaged | None, settings: Settings, rest: Rest = no_rest) -> None:
        """Read what can be read; `rest` is called between pieces of it. ReleaseError where not even the popularity
        ranking can."""
        self.folder, self.packaged, self.settings, self._rest = folder, packaged, settings, rest
        self._popular: Popular = release.load_popular(folder)
        self.ready: Ready | None = None
        self.ahead: Ahead | None = None
        self.newer: tuple[Ahead, Popular] | None = None
        self.live: Live | None = None
        self.trouble, self._not_ahead = "not tried yet", ""
        self.inline = False
        self.exploration_share = settings.serving.exploration_share
        self.overruns = 0
        self.pool = Pool(settings.serving.pool_threads)
        self._closing = threading.Event()
        self._tried: tuple[Any, float] = (None, 0.0)
        self.refresh()

    @property
    def release(self) -> str:
        return self.packaged.release if self.packaged else "unknown"

    @property
    def state(self) -> str:
        return "ready" if self.ready else "fallback-only"

    @property
    def popular(self) -> Popular:
        if self.live:
            return self.live.popular
        return self.newer[1] if self.newer else self._popular

    def made_ahead(self, user_id: str) -> tuple[Ahead, int] | None:
        """The newest slates that hold one of this viewer, and its row."""
        for ahead in (self.newer[0] if self.newer else None, self.ahead):
            if ahead is not None and (row := ahead.rows.get(user_id)) is not None:
                return ahead, row
        return None

    def take_up(self, made: Refreshed) -> None:
        """Serve what was made anew beside the release. Its movies get the codes that they have in the live state."""
        items, names = made.items, Names(made.movies, made.titles)
        if self.live is not None:
            codes = self.live.codes
            items = np.array([*(codes.get(movie, -1) for movie in made.movies), -1], np.int32)[items]
            names = self.live.names
        rows = {user: row for row, user in enumerate(made.viewers)}
        self.newer = Ahead(TopK(items, made.scores, made.note), rows, names), made.popular

    def clock_ms(self) -> int:
        """The home's now: with the event clock, the newest viewer event, or the last of the release's snapshot."""
        return self.now_ms() - (self.settings.clock == "event")

    def now_ms(self) -> int:
        """The moment from which models look back: the home's now, on the event clock just after its event."""
        if self.settings.clock == "wall":
            return time.time_ns() // 1_000_000
        return self.live.now_ms if self.live else self.popular.end_ms

    def prepare(self, counts: LiveCounts) -> None:
        """Let the model make what it makes once for new counts, before they are published: the event loop would stand
        still for ten slates. Where it scores in threads, the first of these makes it."""
        if self.ready and self.live and self.inline:
            nobody = replace(self.live.history(""), catalogue=counts.catalogue)
            with suppress(Exception):  # a model's own code; requests find out, and say so
                slates(self.ready.model, nobody, counts, self.now_ms(), 10)

    def start(self) -> None:
        """Look after what is missing, in the background."""
        threading.Thread(target=self._mend, name="shelf", daemon=True).start()

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    def close(self) -> None:
        """End its threads. No request may use it any more."""
        self._closing.set()
        self.pool.close()

    def without_model(self, trouble: str) -> "Opened":
        """The same release with its lower rungs only, and why. It shares everything; only the original is closed."""
        lower = copy.copy(self)
        lower.ready, lower.trouble = None, trouble
        return lower

    def shares_with(self, other: "Opened") -> bool:
        """Whether the lower rungs of the two are the same."""
        parts = ("pool", "ahead", "newer", "live")
        return all(getattr(self, part) is getattr(other, part) for part in parts)

    def refresh(self) -> None:
        """Try to read what is missing; `trouble` says what is wrong."""
        self._tried = (fingerprint(self.folder), time.monotonic())
        try:
            if self.packaged is None:
                raise ReleaseError("packaged.json: missing or damaged, so nothing says which key signed the release")
            checked = Checked(self.folder, self.packaged.public, self._rest)
            if checked.manifest.digest != self.packaged.release:
                raise ReleaseError(f"{self.folder}: holds release {checked.manifest.digest}, not {self.release}")
            self._popular = release.checked_popular(checked)
            catalogue = release.load_catalogue(checked)
            try:
                self.live = self.live or self._read_live(checked, catalogue)
            finally:  # the precomputed rung serves without it, too
                self.ahead = self.ahead or self._read_ahead(checked, catalogue)
            self.ready = self._read_model(checked, self.live)
            self.trouble = "" if self.ahead else self._not_ahead
        except ReleaseError as why:
            self.trouble = str(why)
            log.warning("the model rung cannot serve: %s", why)

    def _read_live(self, checked: Checked, catalogue: Catalogue) -> Live:
        viewers, counts = release.load_viewers(checked, catalogue), release.load_counts(checked, catalogue)
        return Live(viewers, counts, self._popular, catalogue, checked.manifest, self.settings)

    def _read_ahead(self, checked: Checked, catalogue: Catalogue) -> Ahead | None:
        try:
            if self.live:
                return Ahead(release.load_topk(checked), self.live.rows, self.live.names)
            rows = {user: row for row, user in enumerate(checked.json("viewers/ids.json"))}
            return Ahead(release.load_topk(checked), rows, Names(listed(catalogue.ids), listed(catalogue.titles)))
        except ReleaseError as why:  # the model may still be whole
            self._not_ahead = str(why)
            log.warning("the precomputed rung cannot serve: %s", why)
            return None

    def _read_model(self, checked: Checked, live: Live) -> Ready:
        ready = Ready(release.load_model(checked), checked.manifest.model)
        threadpool_limits(1)  # workers share the cores out; threads of one small product only wait for each other
        limit_ms = self.settings.serving.inline_below_ms
        measured_ms = self.packaged.measured.get("median_ms") if self.packaged else None
        times = [measured_ms] if measured_ms else []
        for _ in range(ROUNDS):  # a busy machine, or requests meanwhile, only ever make a time larger
            times.append(self._warm_up(ready, live))
            if min(times) < limit_ms or times[-1] > FAR * limit_ms:
                break
        self.inline = min(times) < limit_ms
        return ready

    def _warm_up(self, ready: Ready, live: Live) -> float:
        """Make some slates, the first for a viewer never seen; ReleaseError if one fails.

        Returns the lower quartile of their times in ms: a busy machine makes the rest larger, not the model.
        """
        some = ["", *live.known[: WARM_UP - 1]]
        times = []
        try:
            for user_id in some:
                self._rest()
                begun = time.perf_counter()
                slates(ready.model, live.history(user_id), live.counts, self.now_ms(), 10)
                times.append(time.perf_counter() - begun)
        except Exception as why:  # a model's own code runs here and may raise anything
            raise ReleaseError(f"{ready.name} raised {type(why).__name__} when it was tried: {why}") from why
        return 1000 * sorted(times)[len(times) // 4]

    def _mend(self) -> None:
        while not self._closing.wait(RETRY_S):
            before, when = self._tried
            due = time.monotonic() - when > RETRY_UNCHANGED_S
            if (self.ready is None or self.ahead is None) and (due or fingerprint(self.folder) != before):
                self.refresh()


def fingerprint(folder: Path) -> tuple:
    """Changes when any file of the release does."""
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            stat = path.stat()
            found.append((str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns))
        except OSError:  # it went away just now
            continue
    return tuple(found)

"""What a worker serves from: an open release for each arm, exchanged while requests run.

Who is in charge is in the home's ledger; a thread follows it. A release is opened beside the one that serves, then one
reference is replaced: a request that has chosen the old one finishes on it. Where the new one is refused, the old one
goes on. Without a home, before the first promotion, or where the ledger does not verify, the packaged release serves.
"""

import gc
import logging
import os
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple
from weakref import WeakSet

from conf.home import Home
from events.clock import wall_ms
from mlflow_server.in_charge import Follower
from mlflow_server.ledger import LedgerError
from serving.feed import Feed
from serving.live import Live
from serving.opened import Opened
from serving.opening import Opener
from serving.refreshing import Refreshing
from serving.report import BEAT_S, ArmReport, Reporter, WorkerReport
from serving.router import Arm, arm_of

log = logging.getLogger("greenlight.serving")

EVERY_S = 0.25  # how often the ledger is looked at
CATCH_UP_S = 10.0  # that opening a release waits for its live state; what is left then is taken in while it serves
FOLLOW_S = 0.5  # of one live state, then the next has its turn
LEAVING_S = 1.0  # that a release stays open after the last request that may have chosen it


class Chosen(NamedTuple):
    """A viewer's arm, and the release that serves it."""

    arm: Arm
    opened: Opened


class Placed(NamedTuple):
    """What answers in an arm; trouble: why it is not what the ledger names."""

    opened: Opened
    since_ms: int
    trouble: str = ""


class Arms(NamedTuple):
    """All arms of one moment. salt: of the split between the two; None where there is no challenger."""

    champion: Placed
    challenger: Placed | None = None
    salt: str | None = None


class Shelf:
    """The open releases of one worker. `packaged` is the floor: it is there from the start, in whatever state."""

    def __init__(self, packaged: Opened, home: Home | None = None) -> None:
        self.settings = packaged.settings
        self.started_ms = wall_ms()
        self.arms = Arms(Placed(packaged, self.started_ms))
        self._share = self.settings.serving.popularity_share
        self._keeper = _Keeper(self, packaged, home, packaged.packaged.public) if home and packaged.packaged else None

    @property
    def champion(self) -> Opened:
        return self.arms.champion.opened

    def choose(self, user_id: str) -> Chosen:
        """The viewer's arm and its release."""
        arms = self.arms  # once: the arms of one request are of one moment
        arm = arm_of(user_id, self._share, arms.salt)
        placed = arms.challenger if arm == "challenger" and arms.challenger else arms.champion
        return Chosen(arm, placed.opened)

    def start(self) -> None:
        """Open what the ledger names, then follow it, and look after what is missing, in the background."""
        self.champion.start()
        if self._keeper:
            self._keeper.start()

    def close(self) -> None:
        if self._keeper:
            self._keeper.close()
        for placed in (self.arms.champion, self.arms.challenger):
            if placed:
                placed.opened.close()

    def report(self) -> WorkerReport:
        """What this worker serves now."""
        arms, champion = self.arms, self.champion
        placed = {"champion": arms.champion, "challenger": arms.challenger}
        return WorkerReport(
            pid=os.getpid(),
            started_wall_ms=self.started_ms,
            beat_wall_ms=wall_ms(),
            clock_ms=champion.now_ms(),
            offset=champion.live.offset if champion.live else 0,
            arms={arm: _told(of) for arm, of in placed.items() if of},
            refused=self._keeper.opener.refused if self._keeper else {},
            trouble=self._keeper.troubles if self._keeper else "",
        )


def _told(placed: Placed) -> ArmReport:
    opened = placed.opened
    return ArmReport(
        release=opened.release,
        since_wall_ms=placed.since_ms,
        state=opened.state,
        trouble=placed.trouble or opened.trouble,
        model=opened.ready.name if opened.ready else None,
    )


class _Keeper:
    """Two threads: one follows the ledger and opens releases, which takes its time; the other keeps the live state of
    those that serve up with the log, and says what is served."""

    def __init__(self, shelf: Shelf, packaged: Opened, home: Home, public: str) -> None:
        self.shelf, self.packaged = shelf, packaged.release  # no more of it: it must be free to go
        self.follower, self.opener = Follower(home.ledger, public), Opener(home, packaged, public, self._catch_up)
        self.reporter = Reporter(home)
        self.feed, self._ahead = (Feed(home, shelf.settings) for _ in range(2))  # one for each thread
        self.refreshing = Refreshing(home)
        self._begun: WeakSet[Live] = WeakSet()
        self.trouble = ""
        self._open = [packaged]
        self._leaving: list[tuple[float, Opened]] = []
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._follow, self._keep_up)]

    @property
    def troubles(self) -> str:
        return self.trouble or self.feed.trouble or self.refreshing.trouble

    def start(self) -> None:
        self.reporter.start()
        self._step()
        for opened in self._open:
            self._catch_up(opened)
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._closing.set()
        self._threads[1].join(BEAT_S)  # the other may be in the middle of opening a release
        self.reporter.close()
        for _, opened in self._leaving:
            opened.close()

    # The ledger -------------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        while not self._closing.wait(EVERY_S):
            self._step()

    def _step(self) -> None:
        """One look at the ledger. Whatever goes wrong, what serves goes on serving."""
        try:
            self._read()
            self._serve()
            self._let_go()
        except Exception:  # a thread that ends would leave this worker behind for good
            log.exception("following the ledger failed; it is tried again")

    def _read(self) -> None:
        trouble = ""
        try:
            self.follower.poll()
        except LedgerError as why:
            trouble = str(why)
        if trouble and trouble != self.trouble:
            log.warning("the ledger is not followed beyond what was sound: %s", trouble)
        self.trouble = trouble

    def _serve(self) -> None:
        """Put under each arm what the ledger names, as far as it opens."""
        named = {alias: entry.body["release"] for alias, entry in self.follower.in_charge.items()}
        self.opener.forget(*named.values())
        before = self.shelf.arms
        champion = self._champion(named.get("champion", self.packaged), before.champion)
        challenger, salt = None, None
        if "challenger" in named:
            salt = self.follower.in_charge["challenger"].hash
            challenger = self._challenger(named["challenger"], champion, before.challenger)
        arms = Arms(champion, challenger, salt)
        if arms != before:
            self.shelf.arms = arms
        if len(self._open) > len({id(placed.opened) for placed in arms[:2] if placed}):
            self._part()

    def _champion(self, digest: str, before: Placed) -> Placed:
        opened = self._opened(digest)
        if opened is None:
            why = self.opener.refused[digest].reason
            serving = before.opened.release[:12]
            trouble = f"release {digest[:12]} is in charge and refused, so {serving} goes on serving: {why}"
            return before._replace(trouble=trouble)
        return before._replace(trouble="") if opened is before.opened else Placed(opened, wall_ms())

    def _challenger(self, digest: str, champion: Placed, before: Placed | None) -> Placed:
        opened = self._opened(digest)
        if opened is not None:
            return before if before and before.opened is opened else Placed(opened, wall_ms())
        why = self.opener.refused[digest].reason
        trouble = f"challenger {digest[:12]} is refused, so its viewers get the champion's lower rungs: {why}"
        if before and before.trouble == trouble and before.opened.shares_with(champion.opened):
            return before
        return Placed(champion.opened.without_model(trouble), wall_ms(), trouble)

    def _opened(self, digest: str) -> Opened | None:
        """The open release; None where it is refused. The packaged one counts without its model, too, if no whole copy
        of it is found: it mends itself."""
        found = next((opened for opened in self._open if opened.release == digest), None)
        if found is not None and (found.ready or not self.follower.in_charge):
            return found
        opened = self.opener.open(digest)
        if opened is not None:
            self._open.insert(0, opened)
        return opened or found

    def _part(self) -> None:
        """Part with what no arm has any more, but not before the last request that may have chosen it is over."""
        serving = [placed.opened for placed in self.shelf.arms[:2] if placed]
        due = time.monotonic() + self.shelf.settings.serving.max_deadline_ms / 1000 + LEAVING_S
        self._leaving += [(due, opened) for opened in self._open if opened not in serving]
        self._open = [opened for opened in self._open if opened in serving]
        gc.collect()  # looks only at what was made since the last freeze, so it is short
        gc.freeze()

    def _let_go(self) -> None:
        now = time.monotonic()
        for due, opened in self._leaving:
            if due <= now:
                opened.close()
        self._leaving = [(due, opened) for due, opened in self._leaving if due > now]

    # The log and the report -------------------------------------------------------------------------------------------

    def _catch_up(self, opened: Opened) -> None:
        """Bring the live state of a release that does not serve yet up to now."""
        self._take_in(opened, self._ahead, CATCH_UP_S, [other.live for other in self._open if other.live])

    def _take_in(self, opened: Opened, feed: Feed, seconds: float, beside: Iterable[Live] = ()) -> None:
        live = opened.live
        if live is None:
            return
        if live not in self._begun:
            self._begun.add(live)
            if self.follower.registered(opened.release) is None:  # made in another home: its offset is of another log
                live.offset = 0
        feed.follow(live, seconds, beside, opened.prepare)

    def _keep_up(self) -> None:
        """Follow the log; say what is served when it changes, and that this worker lives."""
        said, said_s = None, 0.0
        while True:
            try:
                for opened in self._open:
                    self._take_in(opened, self.feed, FOLLOW_S)
                self.refreshing.look(self._open)
            except Exception:  # serving goes on with the live state that is there
                log.exception("following the log failed; it is tried again")
            report = self.shelf.report()
            facts = report.model_dump(exclude={"beat_wall_ms", "clock_ms"})
            if facts != said or time.monotonic() - said_s >= BEAT_S:
                self.reporter.write(report)
                said, said_s = facts, time.monotonic()
            if self._closing.wait(EVERY_S):
                return

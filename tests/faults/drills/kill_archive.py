"""`kill -9` of the process that archives, at any moment, while events come in; on one history all along."""

import random
import subprocess
import sys
import time
from pathlib import Path

from conf.home import Home
from conf.sections.jobs import Workers
from conf.settings import Settings
from events.archive import GROUP, archive, read_topic
from events.event import EVENTS
from events.local_log import LocalLog
from events.store import FolderStore
from tests.faults.drills.drill import ENOUGH, Drill, Tally
from tests.faults.drills.strace import ROOT
from tests.faults.drills.viewers import rating

SETTINGS = Settings(workers=Workers(archive_every_s=0.01))
DAYS, BATCH = 7, 100
PATIENCE_S = 120.0


def run(folder: Path, cycles: int) -> Tally:
    home, tally, chance = Home(folder / "home").open(), Tally(), random.Random(6)
    store = FolderStore(home.history)
    with LocalLog(home.log) as log:
        for cycle in tally.until(cycles):
            _append(log, tally, f"c{cycle}-first")
            killed = _begin(home, log)
            try:
                for part in range(ENOUGH // BATCH):
                    _append(log, tally, f"c{cycle}-{part}")
                time.sleep(chance.uniform(0, 0.1))
            finally:
                killed.kill()
                killed.wait()
            half = read_topic(store, EVENTS, ["event_id"])["event_id"].to_pylist()
            archive(log, store)
            whole = read_topic(store, EVENTS, ["event_id"])["event_id"].to_pylist()
            tally.check(whole, half, whole)
    return tally


def _append(log: LocalLog, tally: Tally, name: str) -> None:
    events = [rating(f"{name}-{n}", n % DAYS) for n in range(BATCH)]
    tally.sent.update(event.event_id for event in events)
    log.append(EVENTS, events)
    tally.acknowledged.update(event.event_id for event in events)


def _begin(home: Home, log: LocalLog) -> subprocess.Popen[bytes]:
    """The process, once it archives."""
    command = [sys.executable, "-m", "pipelines.archiving"]
    process = subprocess.Popen(command, cwd=ROOT, env=home.environment_of(SETTINGS), stderr=subprocess.DEVNULL)
    until, lag = time.monotonic() + PATIENCE_S, log.lag(EVENTS, GROUP)
    while log.lag(EVENTS, GROUP) == lag:
        assert process.poll() is None, "the archive ended by itself"
        assert time.monotonic() < until, "nothing is archived"
        time.sleep(0.01)
    return process


DRILLS = (
    Drill(
        "kill-archive",
        "`kill -9` of the process that archives while events come in",
        run,
        short=3,
        long=50,
        server=True,
    ),
)

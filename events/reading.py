"""Which log is read. Without Kafka it is the one that events are appended to. With Kafka, events are appended to the
same one, the spool, go through Kafka, and come back into the mirror, which is read: from here and from anywhere else.

Of the two logs of a home, the one that is read later gives larger offsets. So the archive, in which rows of both stand,
has one order, and whoever holds an offset of the other one is told by `LocalLog.begins`.
"""

import time
from pathlib import Path

from conf.home import Home
from conf.settings import Settings
from events.event import TOPICS
from events.log import LocalLog


def reading_log(home: Home, settings: Settings) -> Path:
    """The log that every reader reads. It may not be there yet: then nothing has come in."""
    if settings.kafka.servers:
        return home.mirror
    if home.mirror.exists():  # Kafka was in use here
        _go_on_after(home)
    return home.log


def nothing_yet(home: Home, settings: Settings) -> str:
    """Why there is no log to read, and what to do, in words."""
    if settings.kafka.servers:
        return f"nothing has come through Kafka into {home.root} yet: greenlight up runs the relay and the mirror"
    return f"{home.root} holds no data yet: import some first (greenlight data import movietweetings)"


def mirror_of(home: Home) -> LocalLog:
    """The mirror, for the one who fills it. A new one begins beyond all offsets of the spool, and of a mirror that was
    lost: no log takes in a million events a second all its life."""
    mirror = LocalLog(home.mirror)
    if mirror.newest() == 0:
        with LocalLog(home.log) as spool:
            mirror.begin_after(max(spool.newest(), time.time_ns() // 1000))
    return mirror


def opened(path: Path, log: LocalLog | None) -> LocalLog | None:
    """The log at a path: the one that is open, or, where another file took its place, that one; None where none is."""
    if log is not None and not log.gone:
        return log
    if log is not None:
        log.close()
    return LocalLog(path) if path.exists() else None


def reached(home: Home, settings: Settings) -> int | None:
    """The offset up to which readers have to come to know all that was appended here so far; None while it is on its
    way through Kafka."""
    path, last = reading_log(home, settings), []
    if path != home.log and home.log.exists():
        with LocalLog(home.log) as spool:
            last = [(topic, found) for topic in TOPICS if (found := spool.last_id(topic))]
    if not path.exists():
        return None if last else 0
    with LocalLog(path) as log:
        return log.newest() if all(log.holds(topic, event_id) for topic, event_id in last) else None


def _go_on_after(home: Home) -> None:
    """The spool takes over from the mirror."""
    with LocalLog(home.mirror) as mirror, LocalLog(home.log) as log:
        log.begin_after(mirror.newest())

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
from events.local_log import LocalLog

ARCHIVE, RELAY, MIRROR = "archive", "relay", "mirror"  # groups, named here for those who shall not load their libraries


def reading_log(home: Home, settings: Settings) -> Path:
    """The log that every reader reads. It may not be there yet: then nothing has come in."""
    if settings.kafka.servers:
        return home.mirror
    if home.mirror.exists():  # Kafka was in use here
        _go_on_after(home)
    return home.log


def to_archive(home: Home, settings: Settings) -> list[Path]:
    """The logs that may hold what the archive has yet to take, in this order: the one that is read, and before it a
    mirror that took in something before Kafka was switched off."""
    read = reading_log(home, settings)
    left = [home.mirror] if read != home.mirror and home.mirror.exists() and _not_archived(home.mirror) else []
    return [*left, *([read] if read.exists() else [])]


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


def spool_mark(topic: str) -> str:
    """The mirror's mark of how far it is known to hold what the spool does."""
    return f"spool/{topic}"


def known_to_hold(mirror: LocalLog, spool: LocalLog, topic: str) -> int:
    """The offset of the spool up to which its records are in the mirror, as far as is noted; 0 where the note is of
    another spool."""
    noted = int(mirror.marks.get(spool_mark(topic), 0))
    return noted if noted <= spool.newest() else 0


def on_the_way(spool: LocalLog, mirror: LocalLog, topic: str, to: int) -> int:
    """How many records of the spool, up to and with an offset, the mirror lacks: of the first `BATCH` of which it lacks
    any. One that Kafka or the mirror did not take counts until the mirror is known to be past it."""
    after = known_to_hold(mirror, spool, topic)
    while ids := spool.ids(topic, after, to):
        if lacking := mirror.lacking(topic, [event_id for _, event_id in ids]):
            return lacking
        after = ids[-1][0]
    return 0


def reached(home: Home, settings: Settings) -> int | None:
    """The offset up to which readers have to come to know all that was appended here so far; None while a part of it is
    on its way through Kafka."""
    path = reading_log(home, settings)
    if not path.exists():
        return None if path != home.log and home.log.exists() and _holds_any(home.log) else 0
    with LocalLog(path) as log:
        if path != home.log and home.log.exists():
            with LocalLog(home.log) as spool:
                if any(on_the_way(spool, log, topic, spool.newest()) for topic in TOPICS):
                    return None
        return log.newest()


def _not_archived(path: Path) -> bool:
    with LocalLog(path) as log:
        return any(log.lag(topic, ARCHIVE) for topic in TOPICS)


def _holds_any(path: Path) -> bool:
    with LocalLog(path) as log:
        return any(log.first(topic) is not None for topic in TOPICS)


def _go_on_after(home: Home) -> None:
    """The spool takes over from the mirror."""
    with LocalLog(home.mirror) as mirror, LocalLog(home.log) as log:
        log.begin_after(mirror.newest())

"""`data follow`: what the streaming site writes into a topic in Kafka, line by line into the log, for as long as asked.

Lines are stored first and their positions in the topic committed then; the id of an event comes from its line. So after
`kill -9`, a rebalance or a position that was lost, lines may be read again, and add nothing. What cannot be read, and
what was removed before it was read, is in the dead letter with partition and offset.
"""

import hashlib
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from events.clock import wall_ms
from events.codecs import LINES, Rules, decode, unreadable
from events.disk import write_whole
from events.event import DEAD_LETTER, TOPICS, AnyEvent, Unreadable
from events.kafka_link import KafkaAway
from events.kafka_topics import topic_name
from events.local_log import LocalLog
from events.log import LogFull
from events.sources.dialects import SCALES
from events.sources.topic import Batch, Gap, Line, Start, Topic
from monitoring.mail import stamped
from pipelines.followers import Follower, forget, note
from pipelines.notices import of_quarantined
from pipelines.outbox import post

WAIT_S = 0.5  # for new lines, before it is asked whether to end
LOOK_S = 5.0  # between two looks at how far the end is
AGAIN_S = 1.0  # until a full log is tried again
LONGEST = 128 << 10  # bytes of a line: whole in the dead letter, it fits into Kafka's largest record
KEPT = 1000  # bytes of a longer one


class FollowError(PlainError):
    """A topic cannot be followed; the message says what to do."""


@dataclass
class Followed:
    """What came of it. read = added + duplicates + unreadable."""

    topic: str
    group: str
    read: int = 0
    added: int = 0
    duplicates: int = 0  # were stored already
    unreadable: int = 0
    gaps: int = 0  # spans that retention had removed
    missed: int = 0  # lines in them
    behind: int | None = None  # lines, as of the last look


Say = Callable[[str], None]


def follow(
    home: Home,
    settings: Settings,
    topic: str,
    *,
    group: str = "",
    start: Start = "beginning",
    once: bool = False,
    ended: Callable[[], bool],
    say: Say = lambda line: None,
    progress: Say = lambda line: None,
) -> Followed:
    """Read a topic into the log until `ended`, or, with `once`, until the end that was there at the start.

    group: the consumer group, this home's own where none is named; start: where a new group begins. say gets what
    people should know, progress how far it is.
    """
    if not settings.kafka.servers:
        raise FollowError("no Kafka is named: set kafka.servers (GREENLIGHT_KAFKA__SERVERS=host:9092)")
    if topic.startswith("__") or topic in {topic_name(settings.kafka, own) for own in TOPICS}:
        raise FollowError(f"{topic} is {'Kafka' if topic[0] == '_' else 'Greenlight'}'s own: name one of the site's")
    home.open()
    name = group or _own_group(home)
    reader = Topic(settings.kafka, topic, name, start)
    try:
        with LocalLog(home.log, max_mb=settings.kafka.cap_mb) as log:
            following = _Following(home, reader, log, settings, Followed(topic, name), ended, say, progress)
            try:
                while not ended():
                    following.step()
                    if once and following.at_the_end():  # though lines come all the time
                        break
                following.end()
            except PlainError as why:
                following.broken(str(why))
                raise
    finally:
        reader.close()
    return following.done


@dataclass
class _Following:
    home: Home
    reader: Topic
    log: LocalLog
    settings: Settings
    done: Followed
    ended: Callable[[], bool]
    say: Say
    progress: Say
    looked_s: float = field(default_factory=time.monotonic)
    read_then: int = 0  # lines, at the last look
    trouble: str = ""  # what it waits for
    trouble_wall_ms: int = 0  # since when
    bad: list[Unreadable] = field(default_factory=list)  # since the last look, gaps too

    def step(self) -> None:
        """One batch."""
        batch = self.reader.read(WAIT_S)
        if (batch.lines or batch.gaps) and self._store(batch):
            self.reader.commit()
        if time.monotonic() - self.looked_s > LOOK_S:
            self.look()

    def at_the_end(self) -> bool:
        try:
            return self.reader.at_the_end()
        except KafkaAway:
            return False

    def end(self) -> None:
        if not self.trouble:  # else there is nothing to see, after a long wait
            self.look()
        forget(self.home, self.done.topic)

    def look(self) -> None:
        """How far it is, whether Kafka is there, and what could not be read."""
        now_s = time.monotonic()
        try:
            self.done.behind = self.reader.behind()
        except KafkaAway as why:
            self._wait_for(str(why), "it is waited for, and nothing is lost meanwhile that its retention keeps")
        else:
            self._goes_on("Kafka is back")
        if self.bad:
            self._tell()
        rate = (self.done.read - self.read_then) / max(now_s - self.looked_s, 1e-3)
        waiting = "Kafka is away" if self.trouble else f"{self.done.behind:,} behind"
        self.progress(f"{self.done.topic}: {self.done.read:,} lines, {rate:,.0f}/s, {waiting}")
        self.looked_s, self.read_then, self.bad = now_s, self.done.read, []
        self._note()

    def broken(self, why: str) -> None:
        """It ends, and not well."""
        self.trouble, self.trouble_wall_ms = why, wall_ms()
        self._note()

    def _wait_for(self, trouble: str, meanwhile: str) -> None:
        """Say a trouble once, until it is another or over."""
        if trouble != self.trouble:
            self.say(f"{trouble}; {meanwhile}")
            self.trouble_wall_ms = self.trouble_wall_ms or wall_ms()
        self.trouble = trouble

    def _goes_on(self, how: str) -> None:
        if self.trouble:
            self.say(f"{how}, after {(wall_ms() - self.trouble_wall_ms) / 1000:.0f} s")
        self.trouble, self.trouble_wall_ms = "", 0

    def _note(self) -> None:
        """For `status`. A disk that is full is said by whoever stores."""
        done = self.done
        now = Follower(
            done.topic, wall_ms(), done.behind, done.read, done.unreadable, self.trouble, self.trouble_wall_ms
        )
        with suppress(OSError):
            note(self.home, now)

    def _tell(self) -> None:
        """What came into the dead letter: here, and at most once an hour by mail."""
        first = self.bad[0]
        what = f"{first.source} at offset {first.line}: {first.reason}"
        self.say(f"{len(self.bad)} more in the dead letter; the first: {what}")
        hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        mark = hashlib.sha256(self.done.topic.encode()).hexdigest()[:8]
        try:
            post(self.home, self.settings, of_quarantined(self.done.topic, self.bad), stamp=stamped(hour, mark))
        except OSError as why:
            self.say(f"no letter could be kept about that: {why.strerror or why}")

    def _store(self, batch: Batch) -> bool:
        """Whether it is stored: not where it was time to end before the log, which was full, had room for it."""
        rules = _rules(self.settings)
        lines = [_event(self.done.topic, line, rules) for line in batch.lines]
        gaps = [_of_gap(self.done.topic, gap) for gap in batch.gaps]
        while True:
            try:
                stored = self.log.append_all([*lines, *gaps])
                break
            except LogFull as why:
                self._wait_for(str(why), "the topic waits")
                self._note()
            if self.ended():
                return False
            time.sleep(AGAIN_S)
        self._goes_on("the log takes events again")
        self._count(lines, batch.gaps, sum(part.added for topic, part in stored.items() if topic != DEAD_LETTER))
        self.bad += gaps
        return True

    def _count(self, lines: list[AnyEvent], gaps: list[Gap], added: int) -> None:
        bad = [event for event in lines if isinstance(event, Unreadable)]
        self.bad += bad
        self.done.read += len(lines)
        self.done.unreadable += len(bad)
        self.done.added += added
        self.done.duplicates += len(lines) - len(bad) - added
        self.done.gaps += len(gaps)
        self.done.missed += sum(gap.missing for gap in gaps)


def _rules(settings: Settings) -> Rules:
    """As of now: what claims to be later than this is quarantined."""
    scales = {str(dialect): scale for dialect, scale in settings.data.scales.items()}
    return Rules(zone=ZoneInfo(settings.data.zone), scale=scales.get(LINES, SCALES[LINES]))


def _event(topic: str, line: Line, rules: Rules) -> AnyEvent:
    source = _source(topic, line)
    if line.raw is not None and len(line.raw) > LONGEST:
        reason = f"{len(line.raw):,} bytes; a line has at most {LONGEST:,}, so only the first {KEPT:,} are kept"
        return unreadable(line.raw[:KEPT], source, line.offset, reason, source)
    return decode(line.raw, source, line.offset, rules, source)


def _of_gap(topic: str, gap: Gap) -> Unreadable:
    source = _source(topic, gap)
    return unreadable(b"", source, gap.first, _missing(gap), f"gap of {gap.missing} in {source}")


def _missing(gap: Gap) -> str:
    span = f"offset {gap.first}" if gap.missing == 1 else f"offsets {gap.first} to {gap.first + gap.missing - 1}"
    return f"a gap: {span} were removed by the topic's retention before they were read"


def _source(topic: str, place: Line | Gap) -> str:
    """A partition, as Kafka's own tools name it."""
    return f"{topic}-{place.partition}"


def _own_group(home: Home) -> str:
    """One name for all followers of this home, and another for every other home: a group shares the lines among its
    members, so two homes in one would each get a part of them."""
    if not home.following.exists():
        part = home.following.with_name(f".following-{secrets.token_hex(4)}.part")
        write_whole(part, f"greenlight-{secrets.token_hex(4)}".encode())
        try:
            os.link(part, home.following)  # unlike a rename, it leaves what another process has just made
        except FileExistsError:
            pass
        finally:
            part.unlink()
    return home.following.read_text(encoding="utf-8").strip()

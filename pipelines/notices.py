"""Letters about jobs: one that failed, was refused or did not end, and those that are overdue; and about lag."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from conf.home import Home
from events.clock import when
from events.event import Unreadable
from monitoring.letter import Letter, Section
from pipelines.behind import Reader, next_command, words
from pipelines.limited import STOPPED, Ended
from pipelines.overdue import Late
from pipelines.spool import Fill

SHOWN = 10  # records of a topic that a letter names


def of_ended(job: str, command: str, ended: Ended, began_wall_ms: int, output: Path) -> Letter:
    """A job that did not end well. command: to run it again; output: where all that it said is kept."""
    decision = {1: "was refused", STOPPED: "did not end and was ended"}.get(ended.status, "failed")
    facts = (f"Began {when(began_wall_ms)}, ended with status {ended.status}.", f"All that it said: {output}")
    return Letter(
        subject=f"{job} {decision}",
        summary=ended.said or "It said nothing.",
        sections=(Section("What happened", facts), Section("Next", (command, "greenlight status"))),
    )


def of_overdue(home: Home, jobs: Sequence[Late]) -> Letter:
    """Jobs whose time has passed and that do not run."""
    names = ", ".join(job.name for job in jobs)
    rows = (("job", "what is wrong", "since", "next"), *((j.name, j.what, when(j.since_wall_ms), j.next) for j in jobs))
    helps = ("greenlight status", f"tail {home.logs / 'schedule.log'}", "greenlight up, where it does not run any more")
    return Letter(
        subject=f"overdue: {names}",
        summary=f"{names} should have run by now. The scheduler may have died; until it is back, no job runs.",
        sections=(Section("Overdue", rows=rows), Section("Next", helps)),
    )


def of_lag(home: Home, readers: Sequence[Reader]) -> Letter:
    """Readers of the log that are too far behind it."""
    names = ", ".join(reader.behind.name for reader in readers)
    rows = (("reader", "how far", "since"), *((r.behind.name, words(r.behind), when(r.since_wall_ms)) for r in readers))
    helps = ("greenlight status", *dict.fromkeys(next_command(home, reader.behind.group) for reader in readers))
    return Letter(
        subject=f"lag: {names}",
        summary=f"{names} cannot keep up with the log. Nothing is lost: what was acknowledged waits there.",
        sections=(Section("Behind", rows=rows), Section("Next", helps)),
    )


def of_spool(home: Home, fill: Fill) -> Letter:
    """The log on this machine fills, since Kafka takes less than comes in."""
    helps = (
        "greenlight status",
        f"tail {home.logs / 'relaying.log'}",
        "raise kafka.spool_max_mb, where the disk has room",
    )
    said = f"{fill.sentence[0].upper()}{fill.sentence[1:]}"
    return Letter(
        subject=f"the spool fills: {fill.mb / fill.cap_mb:.0%}",
        summary=f"{said}. What was acknowledged waits there; once it is full, events are refused and slates go on.",
        sections=(Section("Next", helps),),
    )


def of_quarantined(topic: str, letters: Sequence[Unreadable]) -> Letter:
    """Records of the site's topic that could not be read, or were gone before they were read."""
    rows = (("partition", "offset", "why"), *((r.source, f"{r.line}", r.reason) for r in islice(letters, SHOWN)))
    helps = ("greenlight data export - --dead-letter shows all of them", "tell who writes into the topic")
    return Letter(
        subject=f"{topic}: {len(letters)} in the dead letter",
        summary=f"{len(letters)} times, what stands in {topic} could not be read or was gone; the rest goes on. What "
        "follows within the hour is not told again.",
        sections=(Section("The first", rows=rows), Section("Next", helps)),
    )


def of_mirror(home: Home, news: Sequence[str]) -> Letter:
    """Kafka is away for long, or what came through it cannot be read."""
    helps = ("greenlight status", f"tail {home.logs / 'mirroring.log'}", "greenlight data export - --dead-letter")
    return Letter(
        subject="what comes through Kafka",
        summary=f"{news[0][0].upper()}{news[0][1:]}.",
        sections=(*(Section("And", (f"{more}.",)) for more in news[1:]), Section("Next", helps)),
    )

"""`greenlight retrain`: the loop closes. Has the audience moved, is the data fit, and does anything beat the champion?

    drift report → is it due? → the running experiment ends, where the audience moved → train (snapshot, gate inputs,
    candidates, gates offline and infra) → challenger, whose experiment begins with it; or a refusal with its reason

When it is due (`--if-due`): a movement that no training has answered, at once; a training that was cut off; else only
when the newest version was trained on data older than `retrain.max_age_days`, or enough came since. A drift report that
cannot say, or fails, counts as quiet, and that is said. While an experiment runs a newer challenger would have to wait,
so only a movement starts one: it ends the experiment with `cannot say`. No gate knows why it is asked.

Its journal is two kinds of line in the ledger, `retraining` (why) and `retrained` (what came of it). Who finds the
first without the second goes on: where a promotion stands behind it, only the second is missing; else it trains again,
and finds the snapshot, releases and versions that are there already.
"""

import fcntl
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from events.archive import read_topic
from events.clock import now_ms
from events.event import CATALOGUE, EVENTS
from events.local_log import LocalLog
from events.reading import reading_log
from events.store import history_store
from mlflow_server.in_charge import standing
from mlflow_server.ledger import Entry, Ledger
from monitoring.letter import Letter, Section
from monitoring.mail import stamped
from pipelines import experiment, limited, outbox
from pipelines.batch_mode import batch_mode
from pipelines.movement import drift_reports, unanswered_movement
from pipelines.package import package_champion
from pipelines.train import train
from pipelines.trained import Training

RETRAINING, RETRAINED = "retraining", "retrained"
DAY_MS = 86_400_000

Ended = Literal["not due", "refused", "challenger", "first champion"]


class RetrainError(PlainError):
    """It cannot begin: another one runs."""


@dataclass(frozen=True)
class Retrained:
    """How it ended; the sentence says why. version: the challenger's or the first champion's."""

    outcome: Ended
    sentence: str
    version: int | None = None
    drift: str = ""  # what the drift report said, in words
    why: str = ""  # it was due, or who asked for it
    mail: str | None = None  # id of the letter about a refusal

    @property
    def exit(self) -> int:
        return 1 if self.outcome == "refused" else 0


def retrain(
    home: Home, settings: Settings, *, if_due: bool, actor: str, report: Callable[[str], None] = lambda line: None
) -> Retrained:
    """Retrain, where it is due or asked for. RetrainError where another one runs; TrainError where a training does."""
    with _alone(home):
        if done := _completed(home, settings, actor):
            return done
        report("asking the drift report")
        said = _drift(home, settings)
        report(f"drift report: {said}")
        book = Ledger.to_write(home.ledger, home.keys)
        moved = unanswered_movement(list(book.entries())) is not None
        why = cause(home, settings, list(book.entries()))
        if not why and if_due:
            return Retrained("not due", f"Not due: {_quiet(said)}", drift=said)
        if moved:
            experiment.advance(home, settings, auto=False, actor=actor)  # it finds the movement, and cannot say
        if waits := _experiment(list(book.entries())):
            outcome: Ended = "not due" if if_due else "refused"
            return Retrained(
                outcome, f"{waits}, so a newer challenger waits: greenlight experiment status.", drift=said
            )
        why = why or f"asked for by {actor}"
        if note := batch_mode(home, settings):
            why = f"{why}. {note}"
        book.append(RETRAINING, {"why": why, "drift": said}, actor=actor, ts=now_ms(home, settings))
        report(f"retraining, since {why}")
        training = train(
            home,
            settings,
            models=settings.train.models,
            trials=settings.train.trials,
            minutes=settings.train.minutes,
            seed=settings.train.seed,
            report=report,
        )
        package_champion(home, settings, training)
        return _noted(home, settings, _outcome(training), why, said, training, actor)


def cause(home: Home, settings: Settings, entries: Sequence[Entry]) -> str:
    """Why a retraining is due, in words; empty where it is not. entries: the ledger's."""
    if unfinished(entries):
        return "the last one was cut off"
    if moved := unanswered_movement(entries):
        return f"the audience moved: {' '.join(moved.body['sentences'])}"
    made = [entry for entry in entries if entry.kind == "registered"]
    if not made:
        return "no version was trained yet"
    if _experiment(entries):
        return ""
    conf, learned = settings.retrain, _learned(home, made[-1])
    days = (now_ms(home, settings) - learned.end_ms) / DAY_MS
    if days > conf.max_age_days:
        return f"the newest version learned from data that is {days:.1f} days old; {conf.max_age_days:g} are allowed"
    share = _since(home, settings, learned.offset) / max(1, learned.events)
    if share >= conf.new_data_share:
        return f"{share:.0%} as many events came since the newest version's data as it held"
    return ""


def unfinished(entries: Sequence[Entry]) -> Entry | None:
    """The line of a retraining that was cut off; None where the last one came to its end."""
    last = next((entry for entry in reversed(entries) if entry.kind in (RETRAINING, RETRAINED)), None)
    return last if last is not None and last.kind == RETRAINING else None


# Small parts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Learned:
    """What a version learned from: the end of its data on the home's clock, the log's offset then, events."""

    end_ms: int
    offset: int
    events: int


def _learned(home: Home, made: Entry) -> _Learned:
    """Of a registered version; where its snapshot was removed, as far as the ledger tells."""
    try:
        found = json.loads((home.snapshots / made.body["snapshot"] / "statistics.json").read_text())
        return _Learned(int(found["end_ms"]), int(found["offset"]), int(found["events"]))
    except (OSError, ValueError, KeyError, TypeError):
        return _Learned(made.ts, sys.maxsize, 0)


def _since(home: Home, settings: Settings, offset: int) -> int:
    """Events of viewers and of the catalogue that were stored after an offset of the history. A log that began later
    may hold older ones again: then the archive is asked, which has each once."""
    read = reading_log(home, settings)
    if not read.exists():
        return 0
    with LocalLog(read) as log:
        if log.begins == 0 or log.gave(offset):
            return sum(log.after(topic, offset) for topic in (EVENTS, CATALOGUE))
    store = history_store(home, settings.storage)
    offsets = [read_topic(store, topic, ["offset"])["offset"].to_numpy() for topic in (EVENTS, CATALOGUE)]
    return sum(int((found > offset).sum()) for found in offsets)


def _drift(home: Home, settings: Settings) -> str:
    """What the drift report says, made in a process that ends: Evidently costs seconds and memory.

    One that is less than a day old on the home's clock is not made again.
    """
    entries = list(Ledger.to_read(home.ledger, home.keys).entries())
    now = now_ms(home, settings)
    if not (reports := drift_reports(entries)) or now - reports[-1].ts >= DAY_MS:
        home.logs.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "greenlight", "report", "drift", "--json"]
        limit_s = 60 * settings.schedule.drift_minutes
        ended = limited.run(command, home.environment_of(settings), home.logs / "retrain-drift.log", limit_s)
        if ended is None or ended.status:
            return f"cannot say, since it failed: {ended.said if ended else ''}"
        reports = drift_reports(list(Ledger.to_read(home.ledger, home.keys).entries()))
    body = reports[-1].body
    return f"{body['verdict']}: {body['sentences'][0]}"


def _quiet(said: str) -> str:
    return f"the drift report says {said}" + ("; that counts as quiet." if said.startswith("cannot say") else ".")


def _experiment(entries: Sequence[Entry]) -> str:
    """The experiment that stands, in words; empty where none does."""
    challenger = standing(entries).get("challenger")
    return f"Version {challenger.body['version']} is challenger" if challenger else ""


def _outcome(training: Training) -> Retrained:
    """What a training came to. Its own sentence says why."""
    winner = next((made for made in training.candidates if made.state in ("champion", "challenger")), None)
    if winner is None:
        return Retrained("refused", training.sentence)
    outcome: Ended = "challenger" if winner.state == "challenger" else "first champion"
    return Retrained(outcome, training.sentence, winner.version)


def _completed(home: Home, settings: Settings, actor: str) -> Retrained | None:
    """A retraining that was killed after its promotion has all but its last line: write that."""
    book = Ledger.to_write(home.ledger, home.keys)
    entries = list(book.entries())
    if (begun := unfinished(entries)) is None:
        return None
    later = (entry.body for entry in entries if entry.seq > begun.seq and entry.kind == "promotion")
    body = next((body for body in later if body["alias"] == "challenger" or body["from"] is None), None)
    if body is None:
        return None
    outcome: Ended = "challenger" if body["alias"] == "challenger" else "first champion"
    sentence = f"Version {body['version']} is {body['alias']}: {body['rule']}. (The retraining was cut off after that.)"
    done = Retrained(outcome, sentence, body["version"], begun.body["drift"])
    return _noted(home, settings, done, begun.body["why"], begun.body["drift"], None, actor)


def _noted(
    home: Home, settings: Settings, done: Retrained, why: str, said: str, training: Training | None, actor: str
) -> Retrained:
    """Write the last line of a retraining, and a letter where it was refused: once until the reason is another."""
    book = Ledger.to_write(home.ledger, home.keys)
    before = [entry.body for entry in book.entries(RETRAINED)]
    mail = None
    if done.outcome == "refused" and (not before or before[-1]["sentence"] != done.sentence):
        stamp = _stamp(list(book.entries()), done.sentence)
        mail = outbox.post(home, settings, _letter(done, why, said, training), stamp=stamp)
    body = {"outcome": done.outcome, "sentence": done.sentence, "version": done.version, "why": why}
    book.append(RETRAINED, body, actor=actor, ts=now_ms(home, settings))
    return Retrained(done.outcome, done.sentence, done.version, said, why, mail)


def _stamp(entries: Sequence[Entry], sentence: str) -> str:
    """Of the letter about a refusal: the same for every try since the last retraining that came to its end, so that one
    that was killed after its letter has no second."""
    ended = max((entry.seq for entry in entries if entry.kind == RETRAINED), default=0)
    first = next(entry for entry in entries if entry.kind == RETRAINING and entry.seq > ended)
    mark = hashlib.sha256(f"{first.hash} {sentence}".encode()).hexdigest()[:8]
    return stamped(datetime.fromtimestamp(first.wall_ts / 1000, UTC), mark)


def _letter(done: Retrained, why: str, said: str, training: Training | None) -> Letter:
    rows = [("candidate", "version", "refused by", "why")]
    for made in training.candidates if training else ():
        gate, reason = made.refused or ("", made.state)
        rows.append((made.name, str(made.version or "none"), gate, reason))
    sections = [Section("Why it was retrained", (f"{why[:1].upper()}{why[1:]}.", f"The drift report: {said}"))]
    if len(rows) > 1:
        sections.append(Section("Candidates", rows=tuple(rows)))
    sections.append(Section("Next", ("greenlight ledger", "greenlight retrain, once the reason is gone")))
    subject = f"retraining refused: {done.sentence.partition(':')[0]}"
    return Letter(subject, done.sentence, tuple(sections))


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """One retraining at a time in a home; the kernel frees the lock of one that was killed."""
    with (home.root / "retrain.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RetrainError(f"another retraining runs in {home.root}: wait until it ends") from None
        yield

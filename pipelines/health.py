"""What runs, as files say it: the supervisor and its children, the workers, archive, aliases, jobs, mail, disk."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from conf.home import Home
from conf.settings import Settings
from events.clock import wall_ms, when
from events.event import EVENTS
from events.local_log import LocalLog
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Ledger
from pipelines.batch_mode import batch_mode, left_in_kafka
from pipelines.behind import alarming, next_command, words
from pipelines.followers import followers, place
from pipelines.kafka_state import noted
from pipelines.limited import output_of
from pipelines.loop import read_json
from pipelines.outbox import FAILED, WAITING, letters, trouble
from pipelines.overdue import late
from pipelines.spool import fill
from pipelines.up import running
from serving.lag import lags
from serving.report import WorkerReport, reports

SILENT_MS = 120_000  # an archive that was not brought up to date for so long, while its loop should run
SCARCE = 1 << 30  # bytes free: below it the disk counts as full soon

State = Literal["ok", "empty", "broken"]


@dataclass(frozen=True)
class Part:
    """One part of the home: its state, a sentence about it, the next command where one helps, and since when it is
    broken, in ms since 1970, where that is known."""

    name: str
    state: State
    detail: str
    next: str = ""
    since_wall_ms: int | None = None


def up(home: Home) -> Iterator[Part]:
    """The supervisor, then each child that is not as it should be."""
    told = read_json(home.up)
    if told is None:
        yield Part("up", "empty", "not running", "greenlight up")
        return
    beat = int(told.get("beat_wall_ms", 0))
    if not running(home):
        what = f"process {told.get('pid')} was killed; its children may live on"
        yield Part("up", "broken", what, "greenlight up ends them and starts all of it", beat)
        return
    children = told.get("children", [])
    words = ", ".join(f"{c['name']} {c['state']}" for c in children)
    if wall_ms() - beat > SILENT_MS:
        yield Part(
            "up", "broken", f"process {told['pid']} has hung: {words}", f"kill -9 {told['pid']}; greenlight up", beat
        )
        return
    yield Part("up", "ok", f"process {told['pid']}: {words}")
    for child in children:
        since, ends = child["since_wall_ms"], f"{child['restarts']} times ended, last: {child['last_exit']}"
        if child["state"] == "waiting":
            yield Part(child["name"], "empty", "waits for the first Bento", "greenlight train")
        elif child["state"] == "down" or (child["state"] == "starting" and child["restarts"]):
            yield Part(f"{child['name']} process", "broken", f"{child['state']}; {ends}", f"tail {child['log']}", since)


def workers(home: Home) -> Iterator[Part]:
    """What serves, arm by arm; what a worker refused or cannot do."""
    found = reports(home)
    api = next((c for c in (read_json(home.up) or {}).get("children", []) if c["name"] == "api"), None)
    if not found and api and api["state"] == "up" and running(home):
        since = api["since_wall_ms"]
        if wall_ms() - since > SILENT_MS:
            yield Part("workers", "broken", "the API answers, but no worker reports", f"tail {api['log']}", since)
            return
    if not found:
        yield Part("workers", "empty", "nobody serves", "greenlight up")
        return
    served = {(name, arm.release, arm.model) for w in found for name, arm in w.arms.items()}
    words = ", ".join(f"{name} {model} ({digest[:12]})" for name, digest, model in sorted(served, key=str))
    trouble = next(_troubles(found), None)
    if trouble is None:
        yield Part("workers", "ok", f"{len(found)} serve {words}")
    else:
        yield Part("workers", "broken", f"{trouble[0]}; {len(found)} serve {words}", trouble[1], trouble[2])


def archiving(home: Home) -> Iterator[Part]:
    """Whether the log reaches the history."""
    told = read_json(home.archiving)
    if told is None:
        return
    lag, read = 0, Path(told.get("log") or home.log)
    if read.exists():
        with LocalLog(read) as log:
            lag = log.lag(EVENTS, "archive")
    done, helps = int(told["done_wall_ms"]), f"tail {home.logs / 'archiving.log'}"
    if told["trouble"]:
        what = f"{lag:,} events wait: {told['trouble']}"
        yield Part("archive", "broken", what, helps, int(told["since_wall_ms"]))
    elif running(home) and wall_ms() - done > SILENT_MS:
        yield Part("archive", "broken", f"{lag:,} events wait, nothing is archived", helps, done)
    else:
        yield Part("archive", "ok", f"{lag:,} events behind the log, as of {when(done)}")


def lag(home: Home, settings: Settings) -> Iterator[Part]:
    """How far each reader of the log is behind it. What is too far is judged by who looks all the time, not here."""
    found = lags(home, settings)
    if running(home) and (late := alarming(home)):
        what, since = "; ".join(reader.sentence for reader in late), min(reader.since_wall_ms for reader in late)
        yield Part("lag", "broken", what, next_command(home, late[0].behind.group), since)
    elif found:
        yield Part("lag", "ok", "; ".join(f"{behind.name} {words(behind)}" for behind in found))


def kafka(home: Home, settings: Settings) -> Iterator[Part]:
    """Where Kafka is configured: whether the spool goes there, and how full it is. Where it was: what is left there."""
    if settings.kafka.servers:
        yield _relay(home)
    elif left := left_in_kafka(home):
        helps = (
            f"set kafka.servers again until status shows the mirror 0 behind, or rm {home.kafka} to leave them there"
        )
        yield Part("kafka", "broken", left, helps, int(noted(home, "mirror")["beat_wall_ms"]))
    if found := fill(home, settings):
        helps = "bring Kafka back, or raise kafka.spool_max_mb" if found.alarming else ""
        yield Part("spool", "broken" if found.alarming else "ok", found.sentence, helps)


def follow(home: Home) -> Iterator[Part]:
    """Whether the site's own topics come in, where they are followed."""
    for told in followers(home):
        name, again = f"follow {told.topic}", f"greenlight data follow --topic {told.topic}"
        if wall_ms() - told.beat_wall_ms > SILENT_MS:
            helps = f"{again} goes on where it was; rm {place(home, told.topic)}, if nobody shall"
            yield Part(name, "broken", told.trouble or "it was killed, or hangs", helps, told.beat_wall_ms)
        elif told.trouble:
            yield Part(name, "broken", told.trouble, "it goes on by itself", told.since_wall_ms)
        else:
            words = f"{told.lines:,} lines, {told.unreadable:,} unreadable; {told.behind or 0:,} behind"
            yield Part(name, "ok", f"{words}, as of {when(told.beat_wall_ms)}")


def _relay(home: Home) -> Part:
    told, helps = noted(home, "relay"), f"tail {home.logs / 'relaying.log'}"
    if not told:
        return Part("relay", "empty", "nothing was sent to Kafka yet", "greenlight up")
    beat, waits = int(told["beat_wall_ms"]), f"{int(told['lag']):,} records wait in the spool"
    if running(home) and wall_ms() - beat > SILENT_MS:
        return Part("relay", "broken", f"it gives no sign of life; {waits}", helps, beat)
    if told["state"] != "closed":
        what = f"the circuit breaker is {told['state']}: {told['reason']}; {waits}"
        return Part("relay", "broken", what, helps, int(told["since_wall_ms"]))
    dead = f"; {told['dead']:,} were refused and are in the dead letter" if told["dead"] else ""
    return Part("relay", "ok", f"{told['delivered']:,} records went to Kafka, {waits}{dead}; as of {when(beat)}")


def mirror(home: Home, settings: Settings) -> Iterator[Part]:
    """Whether what comes through Kafka is read, where Kafka is configured."""
    told, helps = noted(home, "mirror"), f"tail {home.logs / 'mirroring.log'}"
    if not settings.kafka.servers:
        return
    if not told:
        yield Part("mirror", "empty", "nothing was read from Kafka yet", "greenlight up")
    elif running(home) and wall_ms() - told["beat_wall_ms"] > SILENT_MS:
        yield Part("mirror", "broken", "it gives no sign of life", helps, int(told["beat_wall_ms"]))
    elif told["away_wall_ms"]:
        said = batch_mode(home, settings) or "nothing comes through Kafka"
        yield Part("mirror", "broken", f"{said}: {told['trouble']}", helps, int(told["away_wall_ms"]))
    else:
        odd = f"{told['unreadable']:,} unreadable and {told['gaps']:,} gaps are in the dead letter"
        what = f"{told['behind']:,} records behind Kafka; {odd}, as of {when(told['beat_wall_ms'])}"
        yield Part("mirror", "ok", what)


def aliases(home: Home) -> Iterator[Part]:
    """Whether MLflow shows who is in charge."""
    if not home.registry.exists() or not home.ledger.exists():
        return
    with closing(sqlite3.connect(f"file:{home.registry}?mode=ro", uri=True)) as database:
        query = "SELECT a.alias, t.value, a.version FROM registered_model_aliases a LEFT JOIN model_version_tags t "
        rows = database.execute(query + "ON t.name = a.name AND t.version = a.version AND t.key = 'release'").fetchall()
    shown = {alias: (release, version) for alias, release, version in rows}
    decided = in_charge(Ledger.to_read(home.ledger, home.keys))
    for alias, entry in decided.items():
        release, version = shown.get(alias, (None, None))
        if release != entry.body["release"]:
            says = f"MLflow shows {f'version {version}' if version else 'nobody'} as {alias}"
            what = f"{says}, the ledger, which is served, has version {entry.body['version']}"
            helps = "greenlight up: its reconcile loop puts it right" if not running(home) else "greenlight ledger"
            yield Part("aliases", "broken", what, helps)
            return
    if decided:
        yield Part("aliases", "ok", "MLflow shows " + ", ".join(f"{e.body['version']} {a}" for a, e in decided.items()))


def jobs(home: Home) -> Iterator[Part]:
    """Whether what runs by a clock has run, and well. Judged here, not by the scheduler itself."""
    overdue, wanted = {job.name: job for job in late(home)}, running(home) or home.up.exists()
    for name, row in ((read_json(home.jobs) or {}).get("jobs") or {}).items():
        ended, due, status = row.get("ended_wall_ms"), row["next_ms"], row.get("status", 0)
        last = f"last ended {when(ended)}: {row['said'][:200]}" if ended else "has not run yet"
        if job := overdue.get(name):
            state: State = "broken" if wanted else "empty"
            yield Part(f"{name} job", state, job.what, job.next if wanted else "greenlight up", job.since_wall_ms)
        elif status > 1:
            helps = f"{row['command']}; all it said: {output_of(home, name)}"
            yield Part(f"{name} job", "broken", f"status {status}; {last}", helps, ended)
        else:
            words = f"{'refused; ' if status else ''}{'runs now; ' if row['running'] else ''}{last}"
            yield Part(f"{name} job", "ok", f"{words}; next {when(due)}" if due else words)


def experiment(home: Home) -> Iterator[Part]:
    """How the newest A/B stands."""
    from pipelines.experiment import kept  # NumPy and Arrow: only where it is asked for

    told = kept(home)
    helps = "" if told.state == "none" else "greenlight experiment status"
    yield Part("experiment", "empty" if told.state == "none" else "ok", told.sentence, helps)


def mail(home: Home) -> Iterator[Part]:
    """Whether letters reach those whom they are for."""
    failed, waiting, told = list(letters(home, FAILED)), list(letters(home, WAITING)), trouble(home)
    if failed:
        recipient, reason = next(iter(failed[-1].refused.items()), ("nobody", "its note is gone"))
        what = f"refused letters: {len(failed)}; {failed[-1].subject[:80]!r} to {recipient}: {reason}"
        yield Part("mail", "broken", what, "greenlight mail list")
    elif waiting and told:
        what = f"waiting letters: {len(waiting)}; {told['trouble']}"
        yield Part("mail", "broken", what, "greenlight mail send tries at once", told["since_wall_ms"])
    elif waiting:
        due = min(max(letter.next_wall_ms, letter.posted_wall_ms) for letter in waiting)
        what, runs = f"waiting letters: {len(waiting)}", running(home)
        if runs and wall_ms() - due > SILENT_MS:
            yield Part("mail", "broken", f"{what}; none is sent", f"tail {home.logs / 'mailing.log'}", due)
        else:
            yield Part("mail", "ok", what, "" if runs else "greenlight up, or greenlight mail send")
    elif home.outbox.is_dir():
        yield Part("mail", "ok", f"none waits; letters in {home.outbox}: {len(list(home.outbox.glob('*.eml')))}")


def disk(home: Home) -> Iterator[Part]:
    free = shutil.disk_usage(home.root).free
    state: State = "broken" if free < SCARCE else "ok"
    yield Part("disk", state, f"{free / 1e9:,.1f} GB free", "greenlight prune" if state == "broken" else "")


def _troubles(found: list[WorkerReport]) -> Iterator[tuple[str, str, int | None]]:
    """What is wrong, what helps, since when."""
    for worker in found:
        if worker.trouble:
            yield f"worker {worker.pid}: {worker.trouble}", "greenlight ledger --verify", None
        for digest, refusal in worker.refused.items():
            what = f"worker {worker.pid} refuses release {digest[:12]}: {refusal.reason}"
            yield what, 'greenlight rollback --reason "it cannot be served"', refusal.wall_ms
        for name, arm in worker.arms.items():
            if arm.trouble or arm.state != "ready":
                what = f"worker {worker.pid}: {name} is {arm.state}{f': {arm.trouble}' if arm.trouble else ''}"
                yield what, "greenlight rollback, or restore the release's files", arm.since_wall_ms


LOOKS: dict[str, Callable[[Home], Iterator[Part]]] = {
    "up": up,
    "workers": workers,
    "archive": archiving,
    "follow": follow,
    "aliases": aliases,
    "jobs": jobs,
    "experiment": experiment,
    "mail": mail,
    "disk": disk,
}

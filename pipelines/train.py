"""`greenlight train`: a snapshot, candidates, gates, versions, and, once in a home's life, the first champion.

    snapshot → gate inputs → each candidate in a process of its own (attempt.py) → choose on validation (judge.py)
             → the chosen one meets the test window → gates offline and infra → versions, ledger, first champion

Everything that was written is found again when the verb runs after a kill: snapshots and releases by content, versions
by release; runs of the dead training are closed, and the first champion is decided once.
"""

import fcntl
import getpass
import importlib.util
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings, Storage
from events.clock import now_ms
from events.store import place_of
from mlflow_server.depot import Depot
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Decision, Ledger, SigningKey
from mlflow_server.registry import Registry, Standing, signed
from mlflow_server.release import Manifest, ReleaseError, verify
from models.ranking import Interval
from models.shelf import SHELF
from monitoring.gates import infra, inputs, offline
from monitoring.gates.infra import InfraEvidence
from pipelines import account
from pipelines.attempt import METRIC, Attempt, Work, candidate, champion_again, disguised, meet_popularity, short
from pipelines.candidate import allow, stop_all
from pipelines.evaluate import Evaluation, windows
from pipelines.judge import Against, choose, evidence, reference
from pipelines.promote import deciding
from pipelines.snapshot import Snapshot, cut

ROOT = Path(__file__).parents[1]
DISK_FULL = "database or disk is full"  # SQLite's words
GATES = ("offline", "infra")  # in the order in which a refusal is named


class TrainError(PlainError):
    """Training cannot start: another one runs, or a model that was named does not exist."""


@dataclass(frozen=True)
class Trained:
    """One candidate as it ended. `failed`: why it has no sound model; `refused`: the gate that did not pass, why."""

    name: str
    version: int | None
    release: str | None
    run: str
    state: str  # champion, challenger, passed, refused, failed
    quality: Interval | None  # NDCG@10 on validation
    advantage: Interval | None  # over popularity, paired over viewers
    decisions: dict[str, Decision]
    failed: str
    refused: tuple[str, str] | None
    seconds: dict[str, float]
    measured: dict[str, float]  # by the infra gate in a fresh process: median_ms of a slate, popularity_ms, memory_mb


@dataclass(frozen=True)
class Training:
    """What a training led to. `champion` and `challenger` are versions; `rule` says how the champion was decided."""

    snapshot: str
    inputs: Decision
    candidates: tuple[Trained, ...]
    champion: int | None
    challenger: int | None
    rule: str
    sentence: str
    run: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def train(
    home: Home,
    settings: Settings,
    *,
    models: Sequence[str] | None = None,
    trials: int = 0,
    minutes: float | None = None,
    seed: int = 0,
    snapshot: Snapshot | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Training:
    """Train the candidates and judge them; popularity always comes first. TrainError where another training runs.

    snapshot: what to learn from, where the caller has just cut it; otherwise it is cut here.
    """
    names = _names(settings.train.models if models is None else models)
    with _alone(home), ThreadPoolExecutor(1) as opener:
        opening = opener.submit(Registry, home, settings.registry.name, settings.storage)  # takes MLflow seconds
        begun, told = time.monotonic(), _in_turn(report)
        if snapshot is None:
            told("cutting a snapshot of the history")
            snapshot = cut(home, settings)
        book = Book(Ledger.to_write(home.ledger, home.keys), now_ms(home, settings))
        fit = inputs.judge(inputs.InputsEvidence.of(snapshot.id, snapshot.statistics, book.now), settings.inputs)
        book.record(fit)
        told(f"snapshot {snapshot.id[:12]}: {len(snapshot.interactions):,} interactions; gate inputs: {fit.verdict}")
        if fit.verdict != "pass":
            return _untrained(snapshot, fit, book)
        work = _work(home, settings, snapshot, trials, minutes, seed, told)
        seconds = {"snapshot": round(time.monotonic() - begun, 2)}
        try:
            return Session(home, work, snapshot, fit, book, seconds).run(names, opening)
        except Exception as why:  # MLflow has several kinds for what SQLite says here
            cause = _outside_trouble(why, home, settings.storage)
            if cause is None:
                raise
            raise TrainError(cause) from why


@dataclass(frozen=True)
class Book:
    """The ledger, written as the user who runs this, at the home's now."""

    ledger: Ledger
    now: int

    def record(self, decision: Decision) -> None:
        self.ledger.record(decision, actor=getpass.getuser(), ts=self.now)

    def write(self, kind: str, **body: Any) -> None:
        """Append one line, unless the very same was the last of its kind on that release."""
        same = [e.body for e in self.ledger.entries(kind) if e.body.get("release") == body.get("release")]
        if not same or same[-1] != body:
            self.ledger.append(kind, body, actor=getpass.getuser(), ts=self.now)


class Session:
    """One training on one snapshot. Candidates work in the pool; only this thread talks to MLflow and the ledger."""

    def __init__(
        self, home: Home, work: Work, snapshot: Snapshot, fit: Decision, book: Book, seconds: dict[str, float]
    ) -> None:
        self.home, self.work, self.snapshot, self.fit, self.book = home, work, snapshot, fit, book
        self.seconds = seconds
        self.incumbent = in_charge(book.ledger).get("champion")
        self.depot = Depot(home, work.settings.storage)

    def run(self, names: Sequence[str], opening: "Future[Registry]") -> Training:
        """Whatever stops it, an interrupt too, stops the candidates and closes the runs."""
        allow()
        with ThreadPoolExecutor(self.work.settings.train.at_once) as pool:
            try:
                return self._run(names, pool, opening)
            except BaseException as why:
                pool.shutdown(wait=False, cancel_futures=True)
                stop_all()
                if opening.done() and not opening.exception():
                    opening.result().close_runs("FAILED", _first_line(why))
                raise

    def _run(self, names: Sequence[str], pool: ThreadPoolExecutor, opening: "Future[Registry]") -> Training:
        with self._timed("attempts"):
            yardstick = pool.submit(meet_popularity, self.work)
            # the last named go first: people list from simple to complex, and the longest must not start last
            half_life = partial(_half_life, yardstick)
            others = [pool.submit(candidate, self.work, name, half_life) for name in reversed(names)][::-1]
            old = self._champion_again(pool)
            self.registry = opening.result()
            self.runs = self._start_runs([short(name) for name in ("popularity", *names)])
            attempts = [self._released(f.result(), run) for f, run in zip((yardstick, *others), self.runs, strict=True)]
            against = reference(self.work, attempts[0], old())
        with self._timed("test"):
            chosen = choose(self.work, attempts, attempts[0], against, self.runs)
        with self._timed("registry"):
            trained = [
                self._judged(made, run, attempts[0], against, chosen)
                for made, run in zip(attempts, self.runs, strict=True)
            ]
            outcome = self._outcome(trained, attempts, chosen)
            self._explain(outcome)
        return replace(outcome, seconds=self.seconds)

    # Attempts become versions -----------------------------------------------------------------------------------------

    def _start_runs(self, models: Sequence[str]) -> list[str]:
        """A run for the training, one nested run for each candidate."""
        self.registry.close_runs("KILLED", "the training was interrupted")
        work, registry = self.work, self.registry
        tags = {"snapshot": work.snapshot, "commit": work.commit, "actor": getpass.getuser()}
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        self.parent = registry.start(f"training {moment}", {**tags, "kind": "training"})
        params = {"models": ", ".join(models), "trials": work.trials, "minutes": work.minutes, "seed": work.seed}
        registry.measured(self.parent, params=params, metrics={})
        self._dataset(self.parent)
        return [registry.start(name, {**tags, "kind": "candidate", "model": name}, self.parent) for name in models]

    def _released(self, made: Attempt, run: str) -> "Attempt":
        """Log what a candidate showed and register its release, while others still work."""
        registry, work = self.registry, self.work
        self._dataset(run)
        registry.trials(run, made.trials)
        registry.measured(run, params={"seed": work.seed, **(made.config or {})}, metrics=account.metrics(work, made))
        if made.release:
            self.depot.put(made.release)
            tags = {"model": made.model, "snapshot": work.snapshot, "gate.inputs": self.fit.verdict}
            made.version = registry.register(run, made.release, tags)
            self.book.write(
                "registered",
                version=made.version,
                model=made.model,
                release=made.release.digest,
                run_id=registry.run_of(made.version),
                snapshot=work.snapshot,
                commit=work.commit,
            )
            work.report(f"{made.model} is version {made.version}")
        return made

    def _dataset(self, run: str) -> None:
        statistics = self.snapshot.statistics
        counts = {name: statistics[name] for name in ("interactions", "users", "movies_seen", "start_ms", "end_ms")}
        self.registry.dataset(run, self.snapshot.id, self.snapshot.folder, statistics["schema"], counts)

    def _champion_again(self, pool: ThreadPoolExecutor) -> Callable[[], tuple[str, str, Evaluation | str] | None]:
        """Start evaluating the champion on this snapshot; what is returned waits for it."""
        if self.incumbent is None:
            return lambda: None
        version, digest = self.incumbent.body["version"], self.incumbent.body["release"]
        try:
            folder = self.depot.folder(digest)
            manifest: Manifest = verify(folder)
        except ReleaseError as why:
            fault = str(why)
            return lambda: (f"champion version {version}", digest, fault)
        found = pool.submit(champion_again, self.work, folder, manifest)
        return lambda: (f"champion version {version} ({manifest.model})", digest, found.result())

    # Gates ------------------------------------------------------------------------------------------------------------

    def _judged(self, made: Attempt, run: str, yardstick: Attempt, against: Against, chosen: Attempt | None) -> Trained:
        """Both gates on one candidate, written to the ledger, its run and its version."""
        decisions = {} if made.failed else self._decisions(made, run, yardstick, against, chosen)
        for decision in decisions.values():
            self.book.record(decision)
            self.registry.decided(run, decision)
        self.registry.measured(run, params={}, metrics=account.comparisons(self.work, made, yardstick))
        refused = next(
            ((g, decisions[g].reason) for g in GATES if g in decisions and decisions[g].verdict != "pass"), None
        )
        if made.failed:
            refused = ("train", made.failed)
        if refused:
            release = made.release.digest if made.release else None
            self.book.write(
                "refusal", model=made.model, version=made.version, gate=refused[0], reason=refused[1], release=release
            )
            self.work.report(f"{made.model} is refused by {refused[0]}: {refused[1]}")
        return Trained(
            name=made.model,
            version=made.version,
            release=made.release.digest if made.release else None,
            run=run,
            state="failed" if made.failed else "refused" if refused else "passed",
            quality=made.evaluation.interval(METRIC, self.work.settings.evaluate) if made.evaluation else None,
            advantage=account.advantage(self.work, made, yardstick),
            decisions={self.fit.gate: self.fit, **decisions},
            failed=made.failed or account.diverged(made),
            refused=refused,
            seconds=made.seconds,
            measured=account.measured(made),
        )

    def _decisions(
        self, made: Attempt, run: str, yardstick: Attempt, against: Against, chosen: Attempt | None
    ) -> dict[str, Decision]:
        settings, ids = self.work.settings, {"snapshot": self.work.snapshot, "run": run}
        name = chosen.model if chosen and chosen is not made else ""
        shown = evidence(self.work, made, yardstick, against, run, name)
        seen = made.infra or InfraEvidence(f"run {run}", ids, fault=made.unreleased)
        return {
            offline.GATE: offline.judge(shown, settings.offline),
            infra.GATE: infra.judge(replace(seen, evidence=ids), settings.infra),
        }

    # Who is in charge -------------------------------------------------------------------------------------------------

    def _outcome(self, trained: list[Trained], attempts: Sequence[Attempt], chosen: Attempt | None) -> Training:
        """The first champion where there is none; afterwards a candidate that passed everything is challenger."""
        best = trained[attempts.index(chosen)] if chosen else None
        best = best if best and best.state == "passed" else None
        if self.incumbent is None:
            winner, rule = self._first_champion(best, chosen, trained[0], attempts[0])
            alias = "champion"
        else:
            winner, rule, alias = best, "no candidate passed its gates", "challenger"
            if best:
                rule = "passed the offline and infra gates; the A/B test decides"
            if best and best.release == self.incumbent.body["release"]:
                winner, rule = None, "the best candidate is the champion itself"
        if winner and (why := self._promote(winner, alias, rule)):
            winner, rule = None, why
        if winner:
            trained = [replace(t, state=alias) if t is winner else t for t in trained]
        champion = in_charge(self.book.ledger).get("champion")
        challenger = in_charge(self.book.ledger).get("challenger")
        sentence = account.sentence(
            winner, alias, rule, self.incumbent.body["version"] if self.incumbent else None, trained
        )
        self.work.report(sentence)
        return Training(
            snapshot=self.work.snapshot,
            inputs=self.fit,
            candidates=tuple(trained),
            champion=champion.body["version"] if champion else None,
            challenger=challenger.body["version"] if challenger else None,
            rule=champion.body["rule"] if champion else "",
            sentence=sentence,
            run=self.parent,
        )

    def _promote(self, winner: Trained, alias: str, rule: str) -> str:
        """One ledger line, unless it stands there already. Judged like any other wish; why not, or nothing."""
        with deciding(self.home, self.work.settings) as chair:
            wanted, first = chair.registered(winner.version or 0), self.incumbent is None
            told = chair.wish(wanted, alias, getpass.getuser(), rule=rule, first=first)
        return "" if told.accepted else told.sentence.rstrip(".")

    def _first_champion(
        self, best: Trained | None, chosen: Attempt | None, popularity: Trained, yardstick: Attempt
    ) -> tuple[Trained | None, str]:
        """Decided once, before the first impression: the chosen one if it surely beats popularity on test."""
        why = "no candidate passed its gates"
        if best and chosen and chosen.test and yardstick.test:
            ahead = self.work.difference(chosen.test, yardstick.test)
            numbers = f"{best.name} against popularity on the test window: {signed(ahead)} NDCG@10"
            if ahead.low > 0:
                return best, f"first champion: {numbers}, lower bound above 0"
            why = f"{numbers}, lower bound not above 0"
        if popularity.state == "passed":
            return popularity, f"first champion: popularity, since {why}"
        return None, ""

    # Words ------------------------------------------------------------------------------------------------------------

    def _explain(self, outcome: Training) -> None:
        """Tags, descriptions, aliases and the picture: the registry's pages tell the same story as the ledger."""
        registry, trained = self.registry, outcome.candidates
        standings = [Standing(t.name, t.version, t.quality, t.advantage, t.state) for t in trained]
        registry.picture([self.parent, *self.runs], standings)
        registry.mirror(self.book.ledger)
        for one in trained:
            words = account.words(one, outcome.rule)
            if one.version:
                registry.tag_version(one.version, account.tags(one))
                registry.describe_version(one.version, words)
            registry.describe_run(one.run, words)
            registry.finish(one.run, one.failed)
        registry.describe_model(f"**{outcome.sentence}**")
        registry.describe_run(
            self.parent,
            f"**{outcome.sentence}**\n\n" + "\n".join(f"- {account.words(t, outcome.rule)}" for t in trained),
        )
        registry.finish(self.parent)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[part] = round(time.monotonic() - begun, 2)


# Small parts ----------------------------------------------------------------------------------------------------------


def _names(models: Sequence[str]) -> list[str]:
    """The candidates beside popularity, each once. TrainError for a name that can be nothing."""
    for name in models:
        file, colon, _ = name.rpartition(":")
        if name.endswith(".py"):
            raise TrainError(f"model {name}: which class of the file? Name it {name}:Class")
        if colon and not Path(file).is_file():
            raise TrainError(f"model {name}: no file {file}; name it FILE.py:Class")
        if not colon and name not in SHELF and not _module_exists(name):
            raise TrainError(
                f"no model {name!r}: name one of {', '.join(SHELF)}, package.module.Class or FILE.py:Class"
            )
    return [name for name in dict.fromkeys(models) if name != "popularity"]


def _module_exists(name: str) -> bool:
    module = name.rpartition(".")[0]
    if not module or module.endswith(".py"):
        return False
    if Path(*module.split(".")).with_suffix(".py").is_file():
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """One training at a time in a home; the kernel frees the lock of one that was killed."""
    path = home.root / "train.lock"
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainError(f"another training runs in {home.root}: wait until it ends") from None
        yield


def _work(
    home: Home,
    settings: Settings,
    snapshot: Snapshot,
    trials: int,
    minutes: float | None,
    seed: int,
    told: Callable[[str], None],
) -> Work:
    return Work(
        settings=settings,
        interactions=snapshot.interactions,
        disguised=disguised(snapshot.interactions, seed),
        windows=windows(snapshot.interactions, settings.evaluate),
        snapshot=snapshot.id,
        offset=snapshot.statistics["offset"],
        commit=_commit(),
        key=SigningKey(home.keys),
        releases=home.releases,
        trials=trials,
        minutes=minutes,
        seed=seed,
        report=told,
    )


@cache
def _commit() -> str:
    """The commit of the code that trains, `-dirty` where files differ from it; `unknown` outside a git checkout.

    Asked once: what was committed since this process started is not what it runs.
    """
    try:
        asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _in_turn(report: Callable[[str], None]) -> Callable[[str], None]:
    """`report`, called by one thread at a time."""
    lock = threading.Lock()

    def told(line: str) -> None:
        with lock:
            report(line)

    return told


def _outside_trouble(why: Exception, home: Home, storage: Storage) -> str | None:
    """What the disk or the bucket says under MLflow, in a sentence; None where it is something else."""
    if DISK_FULL in str(why):
        return f"{home.registry}: no space left on the disk; free some and repeat"
    if not storage.bucket or isinstance(why, PlainError):
        return None
    from events.bucket import trouble

    told = trouble(why, storage)
    return f"MLflow's artifacts in {place_of(storage)}: {told}" if told else None


def _half_life(yardstick: "Future[Attempt]") -> float:
    """Popularity's tuned half-life, once it is known."""
    config = yardstick.result().config or {}
    return float(config["half_life_days"])


def _untrained(snapshot: Snapshot, fit: Decision, book: Book) -> Training:
    sentence = f"Nothing was trained: gate inputs says {fit.verdict}: {fit.reason}"
    found = {alias: entry.body for alias, entry in in_charge(book.ledger).items()}
    champion, challenger = found.get("champion", {}), found.get("challenger", {})
    version, rule = champion.get("version"), champion.get("rule", "")
    return Training(snapshot.id, fit, (), version, challenger.get("version"), rule, sentence)


def _first_line(why: BaseException) -> str:
    return (str(why) or type(why).__name__).splitlines()[0]

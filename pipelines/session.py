"""One training on one snapshot: candidates at work, their releases registered, the best one on test, gates, outcome."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from conf.home import Home
from mlflow_server.depot import Depot
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Decision
from mlflow_server.registry import Registry
from mlflow_server.release import Manifest, ReleaseError, verify
from monitoring.gates import infra, offline
from monitoring.gates.infra import InfraEvidence
from pipelines import account
from pipelines.attempt import METRIC, Attempt, Work, candidate, champion_again, meet_popularity, short
from pipelines.book import Book
from pipelines.candidate import allow, stop_all
from pipelines.evaluate import Evaluation
from pipelines.judge import Against, choose, evidence, reference
from pipelines.runs import Runs
from pipelines.snapshot import Snapshot
from pipelines.succession import succeed
from pipelines.trained import Trained, Training

GATES = ("offline", "infra")  # in the order in which a refusal is named


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
            models = [short(name) for name in ("popularity", *names)]
            runs = self.runs = Runs(opening.result(), self.work, self.snapshot, models)
            attempts = [self._released(f.result(), run) for f, run in zip((yardstick, *others), runs.each, strict=True)]
            against = reference(self.work, attempts[0], old())
        with self._timed("test"):
            chosen = choose(self.work, attempts, attempts[0], against, runs.each)
        with self._timed("registry"):
            trained = [
                self._judged(made, run, attempts[0], against, chosen)
                for made, run in zip(attempts, runs.each, strict=True)
            ]
            outcome = self._outcome(trained, attempts, chosen)
            runs.explain(outcome, self.book.ledger)
        return replace(outcome, seconds=self.seconds)

    def _released(self, made: Attempt, run: str) -> Attempt:
        """Log what a candidate showed and register its release, while others still work."""
        self.runs.shown(made, run)
        if made.release:
            self.depot.put(made.release)
            made.version = self.runs.registered(made, run, self.fit)
            self.book.write(
                "registered",
                version=made.version,
                model=made.model,
                release=made.release.digest,
                run_id=self.runs.registry.run_of(made.version),
                snapshot=self.work.snapshot,
                commit=self.work.commit,
            )
            self.work.report(f"{made.model} is version {made.version}")
        return made

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

    def _judged(self, made: Attempt, run: str, yardstick: Attempt, against: Against, chosen: Attempt | None) -> Trained:
        """Both gates on one candidate, written to the ledger, its run and its version."""
        decisions = {} if made.failed else self._decisions(made, run, yardstick, against, chosen)
        for decision in decisions.values():
            self.book.record(decision)
        self.runs.judged(made, run, yardstick, list(decisions.values()))
        refused = next(
            ((g, decisions[g].reason) for g in GATES if g in decisions and decisions[g].verdict != "pass"), None
        )
        if made.failed:
            refused = ("train", made.failed)
        release = made.release.digest if made.release else None
        if refused:
            gate, reason = refused
            self.book.write(
                "refusal", model=made.model, version=made.version, gate=gate, reason=reason, release=release
            )
            self.work.report(f"{made.model} is refused by {gate}: {reason}")
        return Trained(
            name=made.model,
            version=made.version,
            release=release,
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

    def _outcome(self, trained: list[Trained], attempts: Sequence[Attempt], chosen: Attempt | None) -> Training:
        """Who is in charge now, and the one sentence that says so."""
        decided = succeed(self.home, self.work, trained, attempts, chosen, self.incumbent)
        trained = [replace(t, state=decided.alias) if t is decided.winner else t for t in trained]
        champion = in_charge(self.book.ledger).get("champion")
        challenger = in_charge(self.book.ledger).get("challenger")
        version = self.incumbent.body["version"] if self.incumbent else None
        sentence = account.sentence(decided.winner, decided.alias, decided.rule, version, trained)
        self.work.report(sentence)
        return Training(
            snapshot=self.work.snapshot,
            inputs=self.fit,
            candidates=tuple(trained),
            champion=champion.body["version"] if champion else None,
            challenger=challenger.body["version"] if challenger else None,
            rule=champion.body["rule"] if champion else "",
            sentence=sentence,
            run=self.runs.parent,
        )

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[part] = round(time.monotonic() - begun, 2)


def _half_life(yardstick: "Future[Attempt]") -> float:
    """Popularity's tuned half-life, once it is known."""
    config = yardstick.result().config or {}
    return float(config["half_life_days"])


def _first_line(why: BaseException) -> str:
    return (str(why) or type(why).__name__).splitlines()[0]

"""A training's pages in MLflow: a run for it, one nested for each candidate, and at the end the words on them all."""

import getpass
import time
from collections.abc import Sequence

from mlflow_server.ledger import Decision, Ledger
from mlflow_server.registry import Registry
from mlflow_server.shown import Standing
from pipelines import account
from pipelines.attempt import Attempt, Work
from pipelines.snapshot import Snapshot
from pipelines.trained import Trained, Training


class Runs:
    """Opened once per training, by the thread that alone talks to MLflow. `each` has the run of each candidate."""

    def __init__(self, registry: Registry, work: Work, snapshot: Snapshot, models: Sequence[str]) -> None:
        """Start them, after closing those that an interrupted training left open."""
        self.registry, self.work, self.snapshot = registry, work, snapshot
        registry.close_runs("KILLED", "the training was interrupted")
        tags = {"snapshot": work.snapshot, "commit": work.commit, "actor": getpass.getuser()}
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        self.parent = registry.start(f"training {moment}", {**tags, "kind": "training"})
        params = {"models": ", ".join(models), "trials": work.trials, "minutes": work.minutes, "seed": work.seed}
        registry.measured(self.parent, params=params, metrics={})
        self._dataset(self.parent)
        self.each = [registry.start(m, {**tags, "kind": "candidate", "model": m}, self.parent) for m in models]

    def shown(self, made: Attempt, run: str) -> None:
        """Log what a candidate showed before it is judged."""
        self._dataset(run)
        self.registry.trials(run, made.trials)
        self.registry.curves(run, made.curves)
        params = {"seed": self.work.seed, **(made.config or {})}
        self.registry.measured(run, params=params, metrics=account.metrics(self.work, made))

    def registered(self, made: Attempt, run: str, inputs: Decision) -> int:
        """The version that stands for a candidate's release."""
        assert made.release
        tags = {"model": made.model, "snapshot": self.work.snapshot, "gate.inputs": inputs.verdict}
        return self.registry.register(run, made.release, tags)

    def judged(self, made: Attempt, run: str, yardstick: Attempt, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            self.registry.decided(run, decision)
        self.registry.measured(run, params={}, metrics=account.comparisons(self.work, made, yardstick))

    def explain(self, outcome: Training, ledger: Ledger) -> None:
        """Tags, descriptions, aliases and the picture: the registry's pages tell the same story as the ledger."""
        registry, trained = self.registry, outcome.candidates
        standings = [Standing(t.name, t.version, t.quality, t.advantage, t.state) for t in trained]
        registry.picture([self.parent, *self.each], standings)
        registry.mirror(ledger)
        words = [self._candidate(one, outcome.rule) for one in trained]
        registry.describe_model(f"**{outcome.sentence}**")
        lines = "\n".join(f"- {line}" for line in words)
        registry.describe_run(self.parent, f"**{outcome.sentence}**\n\n{lines}")
        registry.finish(self.parent)

    def _candidate(self, one: Trained, rule: str) -> str:
        words = account.words(one, rule)
        if one.version:
            self.registry.tag_version(one.version, account.tags(one))
            self.registry.describe_version(one.version, words)
        self.registry.describe_run(one.run, words)
        self.registry.finish(one.run, one.failed)
        return words

    def _dataset(self, run: str) -> None:
        statistics = self.snapshot.statistics
        counts = {name: statistics[name] for name in ("interactions", "users", "movies_seen", "start_ms", "end_ms")}
        self.registry.dataset(run, self.snapshot.id, self.snapshot.folder, statistics["schema"], counts)

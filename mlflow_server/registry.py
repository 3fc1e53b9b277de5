"""The MLflow side of a home: runs, model versions, aliases, and the words that explain them. The only MLflow client.

Everything here mirrors what the ledger says and what training measured; nothing is decided here. MLflow takes seconds
to import and to make its database, so it is imported where it is used, and `Registry` may be opened in a thread.
"""

import json
import logging
import math
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from conf.environment import lead_mlflow, silence_mlflow
from conf.home import Home
from conf.sections.storage import Storage
from events.store import StoreError, place_of
from mlflow_server.in_charge import ALIASES, in_charge
from mlflow_server.ledger import Decision, Ledger
from mlflow_server.release import Release
from mlflow_server.shown import Standing, comparison, decision_page, model_page
from models.ranking import Interval

EXPERIMENT = "recommender"
ROOT = Path(__file__).parents[1]
PARTS = ("conf", "events", "models", "mlflow_server")  # of this project that a logged model needs to load
PACKAGES = ("cryptography", "implicit", "mlflow", "numpy", "pandas", "pydantic", "pyyaml", "safetensors")
PARENT = "mlflow.parentRunId"  # MLflow's own tag of a nested run
KEPT = """
SELECT m.model_id, m.creation_timestamp_ms, t.value,
    (SELECT group_concat(alias, ' ') FROM registered_model_aliases a WHERE a.name = v.name AND a.version = v.version),
    v.version IS NULL AND coalesce(r.lifecycle_stage, 'deleted') = 'deleted'
FROM logged_models m
LEFT JOIN runs r ON r.run_uuid = m.source_run_id
LEFT JOIN model_versions v ON v.source IN ('models:/' || m.model_id, m.artifact_location)
    AND v.current_stage != 'Deleted_Internal'
LEFT JOIN model_version_tags t ON t.name = v.name AND t.version = v.version AND t.key = 'release'
WHERE m.lifecycle_stage = 'active'
"""
BATCH = 1000  # metrics that MLflow takes at once
LIMIT = 5000  # characters of a description or a tag that MLflow keeps


@dataclass(frozen=True)
class Kept:
    """A logged model in MLflow: of one of our versions (then it has the version's release), or somebody else's.

    left: no version stands for it, and its run was deleted: `mlflow gc` leaves such a one for ever.
    """

    model_id: str
    created_ms: int
    release: str | None
    aliases: tuple[str, ...]
    left: bool


class Registry:
    """Opened once per training. Makes the database and the experiment on first use (seconds), safely if killed."""

    def __init__(self, home: Home, name: str = EXPERIMENT, storage: Storage | None = None) -> None:
        storage = storage or Storage()
        _quiet()
        lead_mlflow(storage)
        import mlflow
        from mlflow import MlflowClient

        mlflow.set_tracking_uri(home.registry_uri)
        mlflow.set_registry_uri(home.registry_uri)
        make_database(home)
        self.name = name
        self.client = MlflowClient(tracking_uri=home.registry_uri, registry_uri=home.registry_uri)
        self.experiment = self._experiment(home, storage)

    def _experiment(self, home: Home, storage: Storage) -> str:
        """Made by us with an absolute location: a client on SQLite cannot write to one that a server made."""
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            if storage.bucket and not found.artifact_location.startswith("s3://"):
                raise StoreError(
                    f"MLflow keeps the artifacts of {home.root} in {found.artifact_location}, and the settings say "
                    f"{place_of(storage)}: unset storage.bucket, or begin another place with a new GREENLIGHT_HOME"
                )
            return found.experiment_id
        return self.client.create_experiment(EXPERIMENT, artifact_location=_artifacts(home, storage))

    # Runs -------------------------------------------------------------------------------------------------------------

    def close_runs(self, status: str, reason: str) -> int:
        """End every run that is still open: of a training that died, or of this one. Only while holding its lock."""
        from mlflow.entities import ViewType

        open_runs = self.client.search_runs(
            [self.experiment], "attributes.status = 'RUNNING'", ViewType.ACTIVE_ONLY, max_results=1000
        )
        for run in open_runs:
            self.client.set_tag(run.info.run_id, "failed", reason)
            self.client.set_terminated(run.info.run_id, status)
        return len(open_runs)

    def start(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
        """Start a run (nested under `parent`) and return its id."""
        under = {PARENT: parent} if parent else {}
        return self.client.create_run(self.experiment, run_name=name, tags={**tags, **under}).info.run_id

    def measured(self, run: str, *, params: Mapping[str, Any], metrics: Mapping[str, float | Interval]) -> None:
        """Log parameters and metrics; an interval becomes three: `ndcg_at_10`, `ndcg_at_10_low`, `ndcg_at_10_high`."""
        from mlflow.entities import Metric, Param

        now = time.time_ns() // 1_000_000
        numbers = [Metric(name, value, now, 0) for name, value in _flat(metrics) if value == value]
        texts = [Param(name, str(value)[:LIMIT]) for name, value in params.items()]
        self.client.log_batch(run, metrics=numbers, params=texts)

    def curves(self, run: str, curves: Mapping[str, Sequence[float]]) -> None:
        """Log values by epoch, counted from 1: metrics `fit/NAME` with steps."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        for name, values in curves.items():
            points = [
                Metric(f"fit/{name}", value, now, step) for step, value in enumerate(values, 1) if math.isfinite(value)
            ]
            for begin in range(0, len(points), BATCH):
                self.client.log_batch(run, metrics=points[begin : begin + BATCH])

    def dataset(
        self, run: str, snapshot_id: str, folder: Path, schema: Mapping[str, str], profile: Mapping[str, float]
    ) -> None:
        """Log the snapshot as the run's dataset input: its id as the digest, its columns, its counts as the profile."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": str(folder)})
        made = Dataset("snapshot", snapshot_id, "local", source, json.dumps(schema), json.dumps(profile))
        self.client.log_inputs(run, [DatasetInput(made, [InputTag("mlflow.data.context", "training")])])

    def decided(self, run: str, decision: Decision) -> None:
        """Attach a decision to a run: as JSON, as a page to read, and its verdict as a tag."""
        self.client.log_dict(run, asdict(decision), f"decisions/{decision.gate}.json")
        self.client.log_text(run, decision_page(decision), f"decisions/{decision.gate}.md")
        self.client.set_tag(run, f"gate.{decision.gate}", decision.verdict)
        if decision.verdict != "pass":
            self.client.set_tag(run, f"gate.{decision.gate}.reason", decision.reason[:LIMIT])

    def describe_run(self, run: str, words: str) -> None:
        self.client.set_tag(run, "mlflow.note.content", words)

    def finish(self, run: str, failed: str = "") -> None:
        """End a run; `failed` is the reason in one line, and marks it so."""
        if failed:
            self.client.set_tag(run, "failed", failed[:LIMIT])
        self.client.set_terminated(run, "FAILED" if failed else "FINISHED")

    def trials(self, parent: str, trials: Sequence[Mapping[str, Any]]) -> None:
        """One nested run for each trial of the tuner: its number, parameters, value and state."""
        for trial in trials:
            run = self.start(f"trial {trial['number']}", {"kind": "trial"}, parent)
            value = trial.get("value")
            metrics = {} if value is None else {"ndcg_at_10": float(value)}
            self.measured(run, params=trial["params"], metrics=metrics)
            self.client.set_terminated(run, "FINISHED" if trial["state"] in ("COMPLETE", "PRUNED") else "FAILED")
            self.client.set_tag(run, "state", str(trial["state"]).lower())

    def picture(self, runs: Sequence[str], standings: Sequence[Standing]) -> None:
        """Log the plot that compares the candidates to each of these runs."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "comparison.png"
            comparison(standings).savefig(file, dpi=110)
            for run in runs:
                self.client.log_artifact(run, str(file))

    # Logged models ----------------------------------------------------------------------------------------------------

    @staticmethod
    def kept(home: Home) -> list[Kept]:
        """The logged models that are not deleted, once for each version of them. Only reads, without importing MLflow;
        none where it has no database yet."""
        if not home.registry.exists():
            return []
        with closing(sqlite3.connect(f"file:{home.registry}?mode=ro", uri=True)) as database:
            rows = database.execute(KEPT).fetchall()
        return [
            Kept(model, made, release, tuple((names or "").split()), bool(left))
            for model, made, release, names, left in rows
        ]

    def forget(self, models: Sequence[str]) -> None:
        """Delete logged models with their files; their versions keep their pages. Cut off, it may be repeated.

        `mlflow gc` would empty the whole bin with them: runs that people deleted and may want back.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        for model in models:
            place = self.client.get_logged_model(model).artifact_location
            if Path(place).is_absolute():
                shutil.rmtree(place, ignore_errors=not Path(place).exists())
            else:
                get_artifact_repository(place).delete_artifacts()
            self.client.delete_logged_model(model)

    # Versions ---------------------------------------------------------------------------------------------------------

    def version_of(self, release: str) -> int | None:
        """The version that already stands for a release (by digest): registering twice would make it double."""
        found = self.client.search_model_versions(f"name = '{self.name}' and tags.release = '{release}'")
        return min((int(v.version) for v in found if v.source), default=None)

    def register(self, run: str, release: Release, tags: Mapping[str, str]) -> int:
        """Log the release as a pyfunc model of the run and register it; its version. Once for each release."""
        known = self.version_of(release.digest)
        if known is not None:
            return known
        source = self._logged_model(run, release)
        self._registered_model()
        made = self.client.create_model_version(
            self.name, source, run, tags={"release": release.digest, **tags}, await_creation_for=0
        )
        return int(made.version)

    def _logged_model(self, run: str, release: Release) -> str:
        import mlflow
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema
        from mlflow.types.schema import Array, DataType

        signature = ModelSignature(
            inputs=Schema([ColSpec(DataType.string)]),
            outputs=Schema([ColSpec(Array(DataType.string))]),
        )
        with self._active(run), tempfile.TemporaryDirectory() as folder:
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(ROOT / "mlflow_server" / "pyfunc.py"),
                artifacts={"release": str(release.folder)},
                code_paths=_own_code(Path(folder)),
                pip_requirements=[f"{package}=={installed(package)}" for package in PACKAGES],
                signature=signature,
            )
        return logged.model_uri

    @contextmanager
    def _active(self, run: str) -> Iterator[None]:
        """MLflow's fluent calls act on the active run; it stays running afterwards."""
        import mlflow

        mlflow.start_run(run_id=run)
        try:
            yield
        finally:
            mlflow.end_run("RUNNING")

    def _registered_model(self) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

        try:
            self.client.create_registered_model(self.name)
        except MlflowException as why:
            if why.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise

    def run_of(self, version: int) -> str:
        """The run that a version came from."""
        return str(self.client.get_model_version(self.name, str(version)).run_id)

    def tag_version(self, version: int, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self.client.set_model_version_tag(self.name, str(version), key, value[:LIMIT])

    def describe_version(self, version: int, words: str) -> None:
        self.client.update_model_version(self.name, str(version), words[:LIMIT])

    def describe_model(self, sentence: str) -> None:
        """The page of the registered model, where there is one."""
        versions = {int(v.version): v.tags for v in self.client.search_model_versions(f"name = '{self.name}'")}
        if versions:
            aliases = self.client.get_registered_model(self.name).aliases.items()
            page = model_page(sentence, versions, {alias: int(version) for alias, version in aliases})
            self.client.update_registered_model(self.name, page[:LIMIT])

    def mirror(self, ledger: Ledger) -> None:
        """Make the aliases say what the ledger says; one whose version is not in this registry is left out."""
        from mlflow.exceptions import MlflowException

        try:
            present = self.client.get_registered_model(self.name).aliases
        except MlflowException:  # no version was ever registered
            return
        ours = {v.tags.get("release"): v.version for v in self.client.search_model_versions(f"name = '{self.name}'")}
        wanted = {alias: ours.get(entry.body["release"]) for alias, entry in in_charge(ledger).items()}
        for alias in ALIASES:
            version = wanted.get(alias)
            if version is None and alias in present:
                self.client.delete_registered_model_alias(self.name, alias)
            elif version is not None and str(present.get(alias)) != str(version):
                self.client.set_registered_model_alias(self.name, alias, str(version))


def _quiet() -> None:
    silence_mlflow()
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _artifacts(home: Home, storage: Storage) -> str:
    """Where MLflow keeps artifacts. StoreError where the bucket's prefix is another home's."""
    if not storage.bucket:
        home.artifacts.mkdir(parents=True, exist_ok=True)
        return str(home.artifacts.absolute())
    from events.bucket import BucketStore

    store = BucketStore(storage, "artifacts", home)
    with store.alone():
        return store.place().rstrip("/")


def make_database(home: Home) -> None:
    """Make MLflow's database whole or not at all: aside, then renamed. It takes MLflow seconds of migrations."""
    from mlflow import MlflowClient

    file = home.registry
    if not file.exists():
        part = file.with_suffix(".part")
        part.unlink(missing_ok=True)
        MlflowClient(tracking_uri=f"sqlite:///{part}").search_experiments()
        part.replace(file)


def _own_code(folder: Path) -> list[str]:
    """Copies of the packages that a logged model needs to load: their Python files, not their data."""
    for part in PARTS:
        ignored = shutil.ignore_patterns("__pycache__", "data", "*.yaml", "*.pyc")
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    return [str(folder / part) for part in PARTS]


def _flat(metrics: Mapping[str, float | Interval]) -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, Interval):
            yield from ((name, value.mean), (f"{name}_low", value.low), (f"{name}_high", value.high))
        else:
            yield name, float(value)


if __name__ == "__main__":  # `python -m mlflow_server.registry HOME` makes a home's database ahead of its first use
    _quiet()
    make_database(Home(Path(sys.argv[1])))

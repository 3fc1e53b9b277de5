"""The state folder ("home") and where everything lives in it. Only `conf/` reads the environment."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from conf.errors import PlainError
from conf.settings import NOT_SETTINGS, PREFIX, Settings, as_environment

FORMAT = 1


class HomeError(PlainError):
    """The state folder cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Home:
    """A state folder: `GREENLIGHT_HOME`, or `.greenlight` in the working directory."""

    root: Path

    @classmethod
    def from_environment(cls, default: str = ".greenlight") -> "Home":
        return cls(Path(os.environ.get("GREENLIGHT_HOME") or default).absolute())

    @property
    def log(self) -> Path:
        return self.root / "log.db"

    @property
    def history(self) -> Path:
        return self.root / "history"

    @property
    def snapshots(self) -> Path:
        return self.root / "snapshots"

    @property
    def tuning(self) -> Path:
        return self.root / "tuning"

    @property
    def releases(self) -> Path:
        return self.root / "releases"

    @property
    def registry(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def registry_uri(self) -> str:
        return f"sqlite:///{self.registry}"

    @property
    def logins(self) -> Path:
        """MLflow's own database of users and rights."""
        return self.root / "mlflow-users.db"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.jsonl"

    @property
    def keys(self) -> Path:
        """Folder (mode 0700) with the Ed25519 key that signs decisions and releases."""
        return self.root / "keys"

    @property
    def limits(self) -> Path:
        """How many requests each caller sent in the last minute; all workers share it."""
        return self.root / "limits"

    @property
    def bentos(self) -> Path:
        """`BENTOML_HOME` of this home: one per server."""
        return self.root / "bentoml"

    @property
    def workers(self) -> Path:
        """Folder in which each serving worker says what it serves: `<pid>.json`."""
        return self.root / "workers"

    @property
    def place(self) -> Path:
        """Notes the bucket in which history, releases and artifacts are kept; absent where folders of the home are."""
        return self.root / "storage.json"

    @property
    def mirror(self) -> Path:
        """With Kafka: what came through it, a log of its own, from which everything is read."""
        return self.root / "mirror.db"

    @property
    def kafka(self) -> Path:
        """With Kafka: how its relay and its mirror are, and since when."""
        return self.root / "kafka.json"

    @property
    def cluster(self) -> Path:
        """With Kafka: the id of the cluster to which this home belongs."""
        return self.root / "kafka-cluster"

    @property
    def aliases(self) -> Path:
        """What the aliases in MLflow were when they last agreed with the ledger: a change since then is a wish."""
        return self.root / "aliases.json"

    @property
    def live(self) -> Path:
        """What is refreshed beside a release: `live/<digest>/`. The release's own copy is the floor."""
        return self.root / "live"

    @property
    def simulated(self) -> Path:
        """Which world `data simulate` last simulated here, and for how many days."""
        return self.root / "simulated.json"

    @property
    def broker(self) -> Path:
        """Folder of this home's own Kafka broker, which `greenlight up --kafka local` runs."""
        return self.root / "broker"

    @property
    def up(self) -> Path:
        """What `greenlight up` says of itself and its children, while it runs."""
        return self.root / "up.json"

    @property
    def logs(self) -> Path:
        """What the children of `greenlight up` print: `<name>.log`, and the part before it as `<name>.log.1`."""
        return self.root / "logs"

    @property
    def jobs(self) -> Path:
        """When each job of the schedule ran last, how it ended and when it is due; when the scheduler lived last."""
        return self.root / "jobs.json"

    @property
    def overdue(self) -> Path:
        """Which overdue jobs were told by mail."""
        return self.root / "overdue.json"

    @property
    def told(self) -> Path:
        """Which verdict of an experiment was told by mail last."""
        return self.root / "told.json"

    @property
    def lag(self) -> Path:
        """How far each reader of the log was behind when it was last looked at, and which of them were told by mail."""
        return self.root / "lag.json"

    @property
    def lost(self) -> Path:
        """How many impressions could not be written, and when: no experiment may rest on what is left."""
        return self.root / "lost.jsonl"

    @property
    def archiving(self) -> Path:
        """When the archive was last brought up to date, or what keeps it from it."""
        return self.root / "archiving.json"

    @property
    def following(self) -> Path:
        """The name of the consumer group by which this home follows topics that are not its own."""
        return self.root / "following"

    @property
    def followers(self) -> Path:
        """What those who follow a topic say of themselves."""
        return self.root / "followers"

    @property
    def outbox(self) -> Path:
        """Letters, as .eml: what was delivered; in its folders what waits, and what could not be delivered."""
        return self.root / "outbox"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def marker(self) -> Path:
        return self.root / "home.json"

    @property
    def _part(self) -> Path:
        return self.marker.with_suffix(".part")

    @property
    def _before(self) -> set[str]:
        """What a folder may hold before it is a home: programs that `make services` fetched, and our first file."""
        return {self._part.name, "services"}

    def environment(self, **extra: str) -> dict[str, str]:
        """Of a child process that works in this home: no telemetry, its own `BENTOML_HOME`, and `extra`."""
        ours = {"GREENLIGHT_HOME": str(self.root), "BENTOML_HOME": str(self.bentos), "BENTOML_DO_NOT_TRACK": "True"}
        return {**os.environ, **ours, **extra}

    def environment_of(self, settings: Settings) -> dict[str, str]:
        """As `environment`, with just these settings in place of those of this process."""
        inherited = self.environment()
        kept = {k: v for k, v in inherited.items() if not k.startswith(PREFIX) or k in NOT_SETTINGS}
        return {**kept, **as_environment(settings)}

    def open(self, kind: str = "home") -> "Home":
        """Make the folder if need be, or check that it is one of ours. Safe to repeat after an interruption."""
        if self.root.exists() and not self.root.is_dir():
            raise HomeError(f"{self.root} is a file, not a folder: set GREENLIGHT_HOME to a folder")
        if not self.marker.exists():
            if self.root.exists() and any(entry.name not in self._before for entry in self.root.iterdir()):
                raise HomeError(
                    f"{self.root} is not empty and not a Greenlight home: set GREENLIGHT_HOME to another folder"
                )
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                self._part.write_text(json.dumps({"format": FORMAT, "kind": kind}))
                self._part.replace(self.marker)
            except OSError as why:
                raise HomeError(
                    f"{self.root} cannot be made: {why.strerror or why}; set GREENLIGHT_HOME to a folder you may write"
                ) from why
        return self

    def kind(self) -> str | None:
        """`home` or `demo`; None where the folder has no readable marker."""
        try:
            return json.loads(self.marker.read_text())["kind"]
        except (FileNotFoundError, NotADirectoryError, KeyError, json.JSONDecodeError):
            return None

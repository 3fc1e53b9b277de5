"""The registered model in MLflow: its aliases and its pages, as they are read and written by the reconcile loop.

A look that costs nothing while nothing happens (`changed`), then MLflow's own client. MLflow is imported on first use.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.environment import silence_mlflow
from conf.errors import PlainError
from conf.home import Home
from mlflow_server.registry import LIMIT


class PagesError(PlainError):
    """MLflow's database cannot be used just now: missing, locked, damaged, being restored. Nothing rests on it."""


@dataclass(frozen=True)
class Page:
    """One version as MLflow shows it."""

    version: int
    run_id: str
    tags: dict[str, str]
    description: str


@dataclass(frozen=True)
class Shown:
    """The registered model as MLflow shows it; `aliases` maps names to versions."""

    aliases: dict[str, int]
    tags: dict[str, str]
    description: str
    pages: dict[int, Page]


class Pages:
    """Opened once; survives a database that is gone, locked or replaced, and says so with PagesError."""

    def __init__(self, home: Home, name: str) -> None:
        self.home, self.name = home, name
        self._client: Any = None
        self._watch: sqlite3.Connection | None = None
        self._file = 0  # its inode
        self._seen: tuple[int, ...] | None = None

    def changed(self) -> bool:
        """Whether anybody wrote to the database since the last call. PagesError where it cannot be read."""
        with self._reading() as watch:
            if self._seen is None:
                watch.execute("SELECT 1 FROM registered_model_aliases LIMIT 1").fetchall()
            (version,) = watch.execute("PRAGMA data_version").fetchone()
        before, self._seen = self._seen, (self._file, version)
        return before != self._seen

    def alias(self, alias: str) -> int | None:
        """The version at which an alias stands this moment: a thousand times as fast as MLflow's client tells it."""
        with self._reading() as watch:
            words = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
            found = watch.execute(words, (self.name, alias)).fetchone()
        return int(found[0]) if found else None

    def shown(self) -> Shown | None:
        """Everything that the pages say; None before any version was registered."""
        return self._asked(self._shown)

    def set_alias(self, alias: str, version: int) -> None:
        self._asked(lambda client: client.set_registered_model_alias(self.name, alias, str(version)))

    def delete_alias(self, alias: str) -> None:
        self._asked(lambda client: client.delete_registered_model_alias(self.name, alias))

    def sweep_alias(self, alias: str) -> None:
        """Remove an alias whose name MLflow would not accept, nor remove."""
        try:
            with sqlite3.connect(f"file:{self.home.registry}?mode=rw", uri=True) as database:
                words = "DELETE FROM registered_model_aliases WHERE name = ? AND alias = ?"
                database.execute(words, (self.name, alias))
            database.close()
        except sqlite3.Error as why:
            raise PagesError(f"{self.home.registry} cannot be used: {why}") from why

    def tag_model(self, key: str, value: str) -> None:
        self._asked(lambda client: client.set_registered_model_tag(self.name, key, value[:LIMIT]))

    def tag(self, version: int, key: str, value: str) -> None:
        """Set a tag of a version; an empty value removes it."""
        if value:
            self._asked(lambda client: client.set_model_version_tag(self.name, str(version), key, value[:LIMIT]))
        else:
            self._asked(lambda client: client.delete_model_version_tag(self.name, str(version), key))

    def describe(self, version: int, words: str) -> None:
        self._asked(lambda client: client.update_model_version(self.name, str(version), words[:LIMIT]))

    def describe_model(self, words: str) -> None:
        self._asked(lambda client: client.update_registered_model(self.name, words[:LIMIT]))

    def attach(self, run: str, file: Path, folder: str, tags: dict[str, str]) -> None:
        """Put a file into a folder of a run's artifacts, and tags on the run."""

        def put(client: Any) -> None:
            client.log_artifact(run, str(file), folder)
            for key, value in tags.items():
                client.set_tag(run, key, value[:LIMIT])

        self._asked(put)

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        self._watch, self._seen = None, None

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that stays open until the file is another one, or trouble."""
        try:
            file = self.home.registry.stat().st_ino
            if self._watch is None or self._file != file:
                self.close()
                self._watch, self._file = _readonly(self.home.registry), file
            yield self._watch
        except FileNotFoundError:
            self.close()
            raise PagesError(f"{self.home.registry} is missing") from None
        except sqlite3.Error as why:
            self.close()
            raise PagesError(f"{self.home.registry} cannot be read: {why}") from why

    def _shown(self, client: Any) -> Shown | None:
        from mlflow.exceptions import MlflowException

        try:
            model = client.get_registered_model(self.name)
        except MlflowException as why:
            if why.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        pages = {
            int(v.version): Page(int(v.version), str(v.run_id), dict(v.tags), v.description or "")
            for v in client.search_model_versions(f"name = '{self.name}'")
        }
        aliases = {alias: int(version) for alias, version in model.aliases.items()}
        return Shown(aliases, dict(model.tags), model.description or "", pages)

    def _asked(self, question: Any) -> Any:
        """Ask MLflow; each of the ways in which its database can fail becomes one PagesError."""
        if not self.home.registry.exists():  # MLflow would make an empty one
            raise PagesError(f"{self.home.registry} is missing")
        silence_mlflow()
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            if self._client is None:
                uri = self.home.registry_uri
                self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            return question(self._client)
        except MlflowException as why:
            reason = str(why).split("\n")[0]
            raise PagesError(f"{self.home.registry} cannot be used: {reason}") from why


def _readonly(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.2, check_same_thread=False)

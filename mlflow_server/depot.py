"""Where releases are kept: the home's folder, and the bucket where one is configured."""

from pathlib import Path

from conf.home import Home
from conf.settings import Storage
from mlflow_server.release import Release


class Depot:
    """`folder(digest)` is the local folder of a release, fetched from the bucket where it is not here yet."""

    def __init__(self, home: Home, storage: Storage) -> None:
        self.home, self.storage = home, storage

    def folder(self, digest: str) -> Path:
        """ReleaseError where it is nowhere. What lies there is not yet checked: `release.Checked` does that."""
        return self.home.releases / digest

    def put(self, release: Release) -> None:
        """Keep a release in the bucket too, its signature last."""

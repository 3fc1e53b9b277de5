"""Where releases are kept: the home's folder, and the bucket where one is configured.

    <home>/releases/<digest>/…                         from here a release is served
    s3://<bucket>/<prefix>/releases/<digest>/…         the same files; the signature is put last and removed first

What was cut off half-way is therefore no release there, and here a fetched one is checked before it gets its name.
"""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conf.home import Home
from conf.sections.storage import Storage
from events.disk import sync
from events.store import Missing, Store, StoreError, locked
from mlflow_server.release import OUTSIDE, Checked, Release, ReleaseError, verify

MANIFEST, SIGNATURE = OUTSIDE
LINKS = 8  # files under way at once


class Depot:
    """Every method may be called by several threads and processes at once; those of other machines share the bucket."""

    def __init__(self, home: Home, storage: Storage) -> None:
        self.home, self.storage = home, storage
        self._aside = home.releases / ".aside"  # of one process at a time: what is coming or going
        self._bucket: Store | None = None

    def folder(self, digest: str) -> Path:
        """The local folder of a release, fetched and checked where it is not here yet.

        ReleaseError where it is nowhere, cannot be fetched or is damaged. What was here already is not checked again,
        and nothing says whose signature it is: `release.Checked` does both.
        """
        target = self.home.releases / digest
        if target.is_dir():
            return target
        if not self.storage.bucket:
            raise ReleaseError(f"release {digest[:12]} is not in {self.home.releases}: restore it from a backup")
        with locked(self._aside):
            if not target.is_dir():
                self._fetch(digest, target)
        return target

    def put(self, release: Release) -> None:
        """Keep a release in the bucket too, where there is one. StoreError where that fails; repeating goes on."""
        if not self.storage.bucket:
            return
        store = self._store()
        with store.alone():
            there = set(store.names(release.digest))
            names = [f"{release.digest}/{name}" for name in (*release.manifest.files, MANIFEST)]
            checked = Checked(release.folder)
            with ThreadPoolExecutor(LINKS) as pool:
                missing = [name for name in names if name not in there]
                list(pool.map(lambda name: store.write(name, _content(checked, name.partition("/")[2])), missing))
            store.write(f"{release.digest}/{SIGNATURE}", (release.folder / SIGNATURE).read_bytes())

    def digests(self) -> set[str]:
        """Every release that is here or in the bucket, also what a cut-off `put` left there. StoreError as in `put`."""
        parent = self.home.releases
        found = {f.name for f in parent.iterdir() if f.is_dir() and f.name[0] != "."} if parent.is_dir() else set()
        if self.storage.bucket:
            found |= {name.partition("/")[0] for name in self._store().names()}
        return found

    def remove(self, digest: str) -> None:
        """Remove a release everywhere; nothing happens where it is gone. StoreError as in `put`: then it is still here.

        Nobody asks here whether it is in use.
        """
        if self.storage.bucket:
            store = self._store()
            with store.alone():
                names = sorted(store.names(digest), key=lambda name: not name.endswith(f"/{SIGNATURE}"))
                for name in names:
                    store.delete(name)
        target = self.home.releases / digest
        if target.is_dir():
            with locked(self._aside):
                gone = self._empty(digest)
                target.replace(gone)
                sync(target.parent)
                shutil.rmtree(gone)

    def _store(self) -> Store:
        from events.bucket import BucketStore

        if self._bucket is None:
            self._bucket = BucketStore(self.storage, "releases", self.home)
        return self._bucket

    def _fetch(self, digest: str, target: Path) -> None:
        part = self._empty(digest)
        try:
            store = self._store()
            for name in (SIGNATURE, MANIFEST):
                _keep(store, digest, name, part)
            checked = Checked(part)
            if checked.manifest.digest != digest:
                raise ReleaseError(f"{store.place(digest)}: damaged: its manifest is not the one of this name")
            if any(Path(name).is_absolute() or ".." in Path(name).parts for name in checked.manifest.files):
                raise ReleaseError(f"{store.place(digest)}: damaged: its manifest names a file outside of it")
            with ThreadPoolExecutor(LINKS) as pool:
                list(pool.map(lambda name: _keep(store, digest, name, part), checked.manifest.files))
            verify(part)
            for path in [*part.rglob("*"), part]:
                sync(path)
            _rename(part, target)
        except Missing as why:
            raise ReleaseError(f"release {digest[:12]} is not whole in the bucket: {why}") from why
        except StoreError as why:
            raise ReleaseError(f"release {digest[:12]} cannot be fetched: {why}") from why
        except OSError as why:
            raise ReleaseError(f"release {digest[:12]} cannot be fetched to {part}: {why.strerror or why}") from why
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _empty(self, digest: str) -> Path:
        """A path under `.aside` that is free; only while holding its lock."""
        path = self._aside / digest
        shutil.rmtree(path, ignore_errors=True)
        return path


def _keep(store: Store, digest: str, name: str, part: Path) -> None:
    content = store.read(f"{digest}/{name}")
    file = part / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def _content(checked: Checked, name: str) -> bytes:
    return (checked.folder / MANIFEST).read_bytes() if name == MANIFEST else checked.read(name)


def _rename(part: Path, target: Path) -> None:
    """To its name. One that a training has built meanwhile stays: it is the same."""
    try:
        os.rename(part, target)
    except OSError:
        if not target.is_dir():
            raise
    sync(target.parent)

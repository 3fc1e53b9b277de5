"""The depot: a release is whole there or absent, and comes from the bucket checked (moto stands for S3)."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conf.home import Home
from conf.sections.storage import Storage
from events.store import StoreError
from mlflow_server.building import build
from mlflow_server.depot import Depot
from mlflow_server.ledger import SigningKey
from mlflow_server.release import Release, ReleaseError, load, sha256_of, verify
from models.shelf import find, load_file

pytestmark = pytest.mark.server
TINY = Path(__file__).parents[1] / "serving" / "tiny.py"
tiny = load_file(TINY)
s3 = load_file(Path(__file__).parents[1] / "faults" / "s3.py")
SLOW = "503 SlowDown"

FETCH = """
import sys
from pathlib import Path
from conf.home import Home
from conf.sections.storage import Storage
from mlflow_server.depot import Depot
sys.stdin.readline()
print(Depot(Home(Path(sys.argv[1])), Storage.model_validate_json(sys.argv[2])).folder(sys.argv[3]))
"""


@pytest.fixture
def made(home: Home) -> Release:
    shelved = find(f"{TINY}:Tiny")
    model = shelved.cls().fit(tiny.world())
    return build(home.releases, model, shelved, "snap1", tiny.world(), "abc123", SigningKey(home.keys))


@pytest.fixture
def elsewhere(tmp_path: Path) -> Home:
    return Home(tmp_path / "elsewhere").open()


def names(storage: Storage, release: Release) -> list[str]:
    """The keys of a release in the bucket, oldest first."""
    outside = s3.client(storage.endpoint)
    prefix = f"{storage.prefix}/releases/{release.digest}/"
    found = outside.list_objects_v2(Bucket=storage.bucket, Prefix=prefix).get("Contents", [])
    return [f["Key"].removeprefix(prefix) for f in found]


def test_without_a_bucket_a_release_is_in_the_home_or_nowhere(home: Home, made: Release) -> None:
    depot = Depot(home, Storage())
    depot.put(made)
    assert depot.folder(made.digest) == made.folder
    assert depot.digests() == {made.digest}
    depot.remove(made.digest)
    depot.remove(made.digest)
    assert depot.digests() == set()
    with pytest.raises(ReleaseError, match=rf"{made.digest[:12]} is not in {home.releases}: restore it"):
        depot.folder(made.digest)


def test_a_release_goes_to_the_bucket_and_comes_back_whole(
    storage: Storage, home: Home, made: Release, elsewhere: Home
) -> None:
    Depot(home, storage).put(made)
    folder = Depot(elsewhere, storage).folder(made.digest)
    assert folder == elsewhere.releases / made.digest
    assert verify(folder, SigningKey(home.keys).public) == made.manifest
    assert load(folder).model.config.boosts == (20, 21)
    for file in made.folder.rglob("*.*"):
        assert (folder / file.relative_to(made.folder)).read_bytes() == file.read_bytes()
    assert {p.name for p in elsewhere.releases.iterdir()} == {made.digest, ".aside"}
    assert Depot(elsewhere, storage).digests() == {made.digest}


def test_every_object_of_a_release_asks_to_be_encrypted(storage: Storage, home: Home, made: Release) -> None:
    Depot(home, storage).put(made)
    outside = s3.client(storage.endpoint)
    assert set(names(storage, made)) == {*made.manifest.files, "manifest.json", "signature.json"}
    for name in names(storage, made):
        head = outside.head_object(Bucket=storage.bucket, Key=f"{storage.prefix}/releases/{made.digest}/{name}")
        assert head["ServerSideEncryption"] == "AES256", name


def test_putting_it_again_sends_only_the_signature(storage: Storage, home: Home, made: Release) -> None:
    with s3.Proxy(storage.endpoint) as proxy:
        depot = Depot(home, storage.model_copy(update={"endpoint": proxy.url}))
        depot.put(made)
        puts = [path for method, path in proxy.seen if method == "PUT"]
        assert puts[-1].endswith("/signature.json")
        assert len(puts) == len(made.manifest.files) + 3  # and the manifest, the signature, whose prefix it is
        depot.put(made)
        again = [path for method, path in proxy.seen if method == "PUT"][len(puts) :]
        assert [path.rpartition("/")[2] for path in again] == ["signature.json"]


@pytest.mark.parametrize("at", [3, 6, 10])
def test_an_upload_that_is_cut_off_is_no_release_and_goes_on(
    storage: Storage, home: Home, made: Release, elsewhere: Home, at: int
) -> None:
    with s3.Proxy(storage.endpoint) as proxy:
        depot = Depot(home, storage.model_copy(update={"endpoint": proxy.url}))
        proxy.fault = lambda number, method, path: "cut-up" if method == "PUT" and proxy.calls("PUT") >= at else ""
        with pytest.raises(StoreError, match=r"cannot be written: S3 cannot be reached or the link broke, 3 times"):
            depot.put(made)
        there = set(names(storage, made))
        assert "signature.json" not in there
        with pytest.raises(ReleaseError, match=r"is not whole in the bucket: s3://.*/signature\.json is missing"):
            Depot(elsewhere, storage).folder(made.digest)
        assert verify(depot.folder(made.digest)) == made.manifest  # nothing was lost here
        proxy.fault, before = (lambda number, method, path: ""), len(proxy.seen)
        depot.put(made)
        sent = {path.partition(f"{made.digest}/")[2] for method, path in proxy.seen[before:] if method == "PUT"}
        assert not there & sent
    assert verify(Depot(elsewhere, storage).folder(made.digest)) == made.manifest


def test_a_release_that_is_damaged_here_is_not_put(storage: Storage, home: Home, made: Release) -> None:
    (made.folder / "counts.npy").write_bytes(b"x")
    with pytest.raises(ReleaseError, match=r"counts\.npy: damaged"):
        Depot(home, storage).put(made)
    assert "signature.json" not in names(storage, made)


def test_every_object_that_is_changed_or_missing_in_the_bucket_is_named_and_nothing_is_left(
    storage: Storage, home: Home, made: Release, elsewhere: Home
) -> None:
    Depot(home, storage).put(made)
    outside, depot = s3.client(storage.endpoint), Depot(elsewhere, storage)
    for name in ("weights/base.npy", "manifest.json", "signature.json", "catalogue/ids.json"):
        key = f"{storage.prefix}/releases/{made.digest}/{name}"
        whole = (made.folder / name).read_bytes()
        outside.put_object(Bucket=storage.bucket, Key=key, Body=whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(ReleaseError, match=Path(name).name):
            depot.folder(made.digest)
        outside.delete_object(Bucket=storage.bucket, Key=key)
        with pytest.raises(ReleaseError, match=rf"is not whole in the bucket: s3://.*{name} is missing"):
            depot.folder(made.digest)
        outside.put_object(Bucket=storage.bucket, Key=key, Body=whole)
        assert [p.name for p in elsewhere.releases.rglob("*")] == [".aside", ".lock"]
    assert verify(depot.folder(made.digest)) == made.manifest


def test_a_manifest_of_another_release_or_with_paths_outside_is_refused(
    storage: Storage, home: Home, made: Release, elsewhere: Home
) -> None:
    """Whoever can write to the bucket can sign with a key of their own; the key is checked where it is served."""
    facts = json.loads((made.folder / "manifest.json").read_bytes())
    facts["files"]["../../escaped.json"] = facts["files"]["counts.npy"]
    content, thief = json.dumps(facts).encode(), SigningKey(elsewhere.root / "thief")
    signature = json.dumps({"public": thief.public, "signature": thief.sign(content)}).encode()
    outside = s3.client(storage.endpoint)
    for digest, says in ((sha256_of(content), "names a file outside of it"), (made.digest, "not the one of this name")):
        for name, body in (("manifest.json", content), ("signature.json", signature)):
            key = f"{storage.prefix}/releases/{digest}/{name}"
            outside.put_object(Bucket=storage.bucket, Key=key, Body=body)
        with pytest.raises(ReleaseError, match=says):
            Depot(elsewhere, storage).folder(digest)
    assert not list(elsewhere.root.rglob("escaped.json"))


def test_several_workers_at_once_fetch_it_once(storage: Storage, home: Home, made: Release, elsewhere: Home) -> None:
    Depot(home, storage).put(made)
    with s3.Proxy(storage.endpoint) as proxy:
        there = storage.model_copy(update={"endpoint": proxy.url})
        command = [sys.executable, "-c", FETCH, str(elsewhere.root), there.model_dump_json(), made.digest]
        workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in "123"]
        depot = Depot(elsewhere, there)
        with ThreadPoolExecutor(4) as pool:
            threads = [pool.submit(depot.folder, made.digest) for _ in range(4)]
            said = [worker.communicate("go\n", timeout=120)[0].strip() for worker in workers]
            assert {*said, *(str(t.result(120)) for t in threads)} == {str(elsewhere.releases / made.digest)}
        assert proxy.calls("GET") == len(made.manifest.files) + 2
    assert verify(elsewhere.releases / made.digest) == made.manifest


def test_what_a_killed_worker_left_is_in_nobodys_way(
    storage: Storage, home: Home, made: Release, elsewhere: Home
) -> None:
    Depot(home, storage).put(made)
    (elsewhere.releases / ".aside" / made.digest / "weights").mkdir(parents=True)
    (elsewhere.releases / ".aside" / made.digest / "weights" / "more.npy").write_bytes(b"half")
    assert verify(Depot(elsewhere, storage).folder(made.digest)) == made.manifest


def test_removed_it_is_gone_everywhere_and_one_that_is_cut_off_goes_on(
    storage: Storage, home: Home, made: Release, elsewhere: Home
) -> None:
    with s3.Proxy(storage.endpoint) as proxy:
        depot = Depot(home, storage.model_copy(update={"endpoint": proxy.url}))
        depot.put(made)
        proxy.fault = lambda number, method, path: SLOW if method == "DELETE" and proxy.calls("DELETE") > 2 else ""
        with pytest.raises(StoreError, match="cannot be removed: S3 asked to slow down, also after 3 attempts"):
            depot.remove(made.digest)
        assert "signature.json" not in names(storage, made)
        assert depot.digests() == {made.digest}
        assert verify(made.folder) == made.manifest
        proxy.fault = lambda number, method, path: ""
        depot.remove(made.digest)
        assert depot.digests() == set()
    assert not names(storage, made)
    assert not made.folder.exists()
    with pytest.raises(ReleaseError, match="is not whole in the bucket"):
        Depot(elsewhere, storage).folder(made.digest)


def test_another_home_may_fetch_but_not_put(storage: Storage, home: Home, made: Release, elsewhere: Home) -> None:
    depot = Depot(elsewhere, storage)
    Depot(home, storage).put(made)
    depot.folder(made.digest)
    with pytest.raises(StoreError, match="another home keeps its history there"):
        depot.put(made)
    with pytest.raises(StoreError, match="another home keeps its history there"):
        depot.remove(made.digest)
    assert "signature.json" in names(storage, made)


def test_a_folder_of_releases_that_was_lost_comes_back(storage: Storage, home: Home, made: Release) -> None:
    depot = Depot(home, storage)
    depot.put(made)
    shutil.rmtree(home.releases)
    assert verify(depot.folder(made.digest)) == made.manifest

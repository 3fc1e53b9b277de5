"""Everything that a home keeps in a bucket, from an import to a champion (moto stands for S3)."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from conf.environment import mlflow_storage
from conf.errors import PlainError
from conf.home import Home
from conf.sections.storage import Storage
from conf.settings import Settings
from events.archive import read_topic
from events.event import EVENTS
from events.store import StoreError, history_store
from mlflow_server.accounts import accounts
from mlflow_server.depot import Depot
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Ledger, SigningKey
from mlflow_server.registry import Registry
from mlflow_server.release import load, verify
from models.shelf import load_file
from pipelines.data import import_data
from pipelines.serve import serve_registry
from pipelines.status import parts
from pipelines.train import Training, train
from tests.quarter import QUICK

pytestmark = pytest.mark.server
s3 = load_file(Path(__file__).parents[1] / "faults" / "s3.py")
SLOW = "503 SlowDown"


@pytest.fixture
def proxy(storage: Storage) -> Iterator[Any]:
    with s3.Proxy(storage.endpoint) as running:
        yield running


@pytest.fixture
def filled(quarter: Home, home: Home) -> Home:
    """A home whose log holds the quarter; nothing was archived yet."""
    import_data(home, Settings(), quarter.root.parent / "movietweetings", dialect="movietweetings")
    return home


def trained(home: Home, storage: Storage) -> Training:
    return train(home, Settings.model_validate({"storage": storage, **QUICK}), models=("popularity",))


def keys(storage: Storage, under: str) -> list[str]:
    outside = s3.client(storage.endpoint)
    pages = outside.get_paginator("list_objects_v2").paginate(Bucket=storage.bucket, Prefix=under)
    return [found["Key"] for page in pages for found in page.get("Contents", ())]


def test_history_release_and_artifacts_are_in_the_bucket_encrypted_and_come_back(
    filled: Home, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = trained(filled, storage)
    (champion,) = [c for c in outcome.candidates if c.version == outcome.champion]
    outside = s3.client(storage.endpoint)
    for kind in ("history/events/day=", f"releases/{champion.release}/", "artifacts/"):
        assert keys(storage, f"greenlight/{kind}"), kind
    for key in keys(storage, ""):
        assert outside.head_object(Bucket=storage.bucket, Key=key)["ServerSideEncryption"] == "AES256", key
    assert not [p for kept in (filled.history, filled.artifacts) for p in kept.rglob("*") if p.name[0] != "."]
    assert {part.name: part.state for part in parts(filled, Settings())}["history"] == "ok"

    other = Home(tmp_path / "other").open()  # another machine, that serves
    folder = Depot(other, storage).folder(str(champion.release))
    assert verify(folder, SigningKey(filled.keys).public).model == "popularity"
    assert load(folder).popular.ids == load(filled.releases / str(champion.release)).popular.ids
    mine, theirs = (read_topic(history_store(home, storage), EVENTS, ["event_id"]) for home in (filled, other))
    assert len(mine) == len(theirs) > 1000

    page = Registry(filled, storage=storage).client.download_artifacts(champion.run, "decisions/offline.md")
    assert "# Gate offline" in Path(page).read_text()
    for name in mlflow_storage(storage):  # the training set them in this process; the server is told by itself
        monkeypatch.delenv(name)
    with serve_registry(filled, Settings(storage=storage), port=0) as server:
        lead = accounts(filled).lead
        asked = {"run_uuid": champion.run, "path": "decisions/infra.md"}
        shown = httpx.get(f"{server.url}/get-artifact", params=asked, auth=(lead.name, lead.password), timeout=60)
        assert "# Gate infra" in shown.text


@pytest.mark.parametrize(
    ("part", "fault"), [("releases", "cut-up"), pytest.param("artifacts", SLOW, marks=pytest.mark.long)]
)
def test_a_bucket_that_fails_in_the_middle_of_a_training_is_one_sentence_and_the_next_one_goes_on(
    filled: Home, storage: Storage, proxy: Any, part: str, fault: str
) -> None:
    there = storage.model_copy(update={"endpoint": proxy.url, "attempts": 2})

    def of_that_part(number: int, method: str, path: str) -> str:
        found = [p for m, p in proxy.seen if m == "PUT" and f"/greenlight/{part}/" in p]
        return fault if len(found) > 3 and method == "PUT" and f"/greenlight/{part}/" in path else ""

    proxy.fault = of_that_part
    says = "S3 asked to slow down, also after 2" if fault == SLOW else "S3 cannot be reached or the link broke"
    with pytest.raises(PlainError, match=rf"s3://{storage.bucket}/greenlight.*{says}"):
        trained(filled, there)
    ledger = Ledger.to_read(filled.ledger, filled.keys)
    assert not in_charge(ledger)
    proxy.fault = lambda number, method, path: ""
    outcome = trained(filled, there)
    assert outcome.champion == 1
    registry = Registry(filled, storage=there)
    assert [str(v.version) for v in registry.client.search_model_versions("name = 'recommender'")] == ["1"]
    assert registry.close_runs("KILLED", "") == 0


def test_the_champion_comes_back_from_the_bucket_for_the_next_training(
    filled: Home, storage: Storage, proxy: Any
) -> None:
    release = str(trained(filled, storage).candidates[0].release)
    shutil.rmtree(filled.releases)
    again = trained(filled, storage.model_copy(update={"endpoint": proxy.url}))
    assert again.champion == 1
    assert ("GET", f"/{storage.bucket}/greenlight/releases/{release}/signature.json") in proxy.seen
    assert verify(filled.releases / release).model == "popularity"


def test_a_registry_that_began_in_folders_is_not_used_with_a_bucket(home: Home, storage: Storage) -> None:
    subprocess.run([sys.executable, "-m", "mlflow_server.registry", str(home.root)], check=True)  # takes no side
    other = Home(home.root.with_name("other")).open()
    shutil.copy(home.registry, other.registry)
    assert Registry(home, storage=storage).client.get_experiment_by_name("recommender").artifact_location == (
        f"s3://{storage.bucket}/greenlight/artifacts"
    )
    Registry(other)
    with pytest.raises(StoreError, match=r"MLflow keeps the artifacts of .* in /.*, and the settings say s3://"):
        Registry(other, storage=storage)


def test_a_home_begun_in_folders_does_not_move_by_a_setting(quarter: Home, storage: Storage) -> None:
    with pytest.raises(PlainError, match=r"was begun with folders of the home, and the settings say s3://bucket-"):
        history_store(quarter, storage)

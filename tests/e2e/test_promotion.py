"""From `greenlight promote` to the workers that answer, to the pages, to the Bento that a fresh server starts with."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient

from conf.home import Home
from conf.settings import Settings
from mlflow_server.release import Release, verify
from pipelines.package import package
from pipelines.serve import serve
from tests import town

ROOT = Path(__file__).parents[2]
SETTINGS = Settings.model_validate(
    {"clock": "wall", "serving": {"workers": 2, "popularity_share": 0.0, "exploration_share": 0}}
)

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


@pytest.fixture
def lived(townhome: Home) -> Home:
    digest = town.made(townhome, 1)["release"]
    folder = townhome.releases / digest
    package(townhome, SETTINGS, Release(digest, folder, verify(folder)), {"median_ms": 0.1})
    return townhome


def greenlight(home: Home, *words: str) -> dict[str, Any]:
    environment = {**os.environ, "GREENLIGHT_HOME": str(home.root), "GREENLIGHT_CLOCK": "wall"}
    command = [sys.executable, "-m", "greenlight", *words, "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def until(look: Callable[[], bool], patience_s: float = 180.0) -> None:
    end = time.monotonic() + patience_s
    while not look():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_promotion_reaches_workers_pages_and_the_next_start(lived: Home) -> None:
    environment = {**os.environ, "GREENLIGHT_HOME": str(lived.root), "GREENLIGHT_CLOCK": "wall"}
    client = MlflowClient(tracking_uri=lived.registry_uri, registry_uri=lived.registry_uri)
    latest = lived.bentos / "bentos" / "greenlight" / "latest"
    loop = subprocess.Popen([sys.executable, "-m", "pipelines.reconcile"], cwd=ROOT, env=environment)
    try:
        with serve(lived, SETTINGS, port=0) as server:
            until(lambda: len(list(lived.workers.glob("*.json"))) == 2)
            town.won(lived, 2)
            told = greenlight(lived, "promote", "2")
            assert told["workers"]["sentence"] == "All 2 workers serve it."
            assert len(told["workers"]["serving"]) == 2
            first = httpx.get(f"{server.url}/recommend/newcomer", params={"k": 2}, trust_env=False).text
            assert first.split(",")[0].strip() in ("m1", "m25")  # what version 2 ranks first
            until(lambda: "by 2 of 2 workers" in client.get_model_version("recommender", "2").tags.get("live", ""))
            until(lambda: town.made(lived, 2)["release"][:8] in latest.read_text())
            assert (
                greenlight(lived, "rollback", "--reason", "a test")["workers"]["sentence"] == "All 2 workers serve it."
            )
            until(lambda: town.made(lived, 1)["release"][:8] in latest.read_text())
    finally:
        loop.terminate()
        loop.wait()

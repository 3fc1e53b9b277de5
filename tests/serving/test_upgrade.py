"""Greenlight changes under a home whose latest Bento was built before: what runs goes on, what starts is today's."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conf.home import Home
from conf.sections.serving import Door
from conf.settings import Settings
from mlflow_server.release import Release, files_below
from pipelines.latest import latest, outdated
from pipelines.package import renew
from pipelines.serve import Server, serve

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
OPEN = Settings(door=Door(anonymous_per_minute=1_000_000))
PACKAGE = """
import sys
from pathlib import Path
from conf.home import Home
from conf.settings import Settings
from mlflow_server.release import Release, verify
from pipelines.package import package
home, release = (Path(argument) for argument in sys.argv[1:])
package(Home(home).open(), Settings(), Release(release.name, release, verify(release)), {"median_ms": 0.1})
"""


@pytest.fixture
def home(tmp_path: Path, built: Callable[[str], Release]) -> Home:
    """Its Bento was built by a Greenlight of which one file was another."""
    tree, home = tmp_path / "earlier", Home(tmp_path / "home").open()
    for name in ("conf", "events", "models", "mlflow_server", "monitoring", "serving", "pipelines"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tree / "models" / "base.py").open("a") as file:
        file.write("\nEARLIER = True\n")
    release = built("Tiny")
    folder = shutil.copytree(release.folder, tmp_path / release.digest)
    subprocess.run([sys.executable, "-c", PACKAGE, home.root, folder], cwd=tree, check=True)
    return home


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_below(folder) if not name.endswith(".pyc")}


def ready_within(seconds: float, server: Server, not_of: str = "") -> dict:
    until = time.monotonic() + seconds
    while (said := server.readiness()).get("state") != "ready" or str(said.get("worker")) == not_of:
        assert time.monotonic() < until, said
        time.sleep(0.2)
    return said


def test_what_runs_goes_on_and_what_starts_is_of_today(home: Home) -> None:
    before = latest(home)
    assert before
    assert outdated(home)
    whole = content(before)
    with serve(home, OPEN, port=0) as server:
        worker = str(ready_within(60, server)["worker"])
        tag = renew(home, OPEN)
        assert content(before) == whole, "a server runs from it, and reads more of it when a worker starts"
        os.kill(int(worker), signal.SIGKILL)
        assert Path(ready_within(60, server, worker)["source"]).is_relative_to(before.resolve())
    today = latest(home)
    assert today
    assert tag == f"greenlight:{today.name}"
    assert not outdated(home)
    with serve(home, OPEN, port=0) as server:
        assert Path(ready_within(60, server)["source"]).is_relative_to(today.resolve())

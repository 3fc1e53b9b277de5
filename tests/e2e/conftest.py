"""The demo, told once for all who look at what it leaves behind, whichever process of the test run they are in."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]

Greenlight = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def greenlight() -> Greenlight:
    """`greenlight(home, "why", …)` runs a verb as people do."""

    def run(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "GREENLIGHT_HOME": str(home), "GREENLIGHT_SERVING__PORT": "0"}
        command = [sys.executable, "-m", "greenlight", *words]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory, greenlight: Greenlight) -> Path:
    """A home in which the demo has been told on the real ratings in this repository. Read it; do not change it."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    home, said = shared / "told" / "home", shared / "told.txt"
    with FileLock(shared / "told.lock"):
        if not said.exists():
            done = greenlight(home, "demo", "--once")
            said.write_text(f"{done.returncode}\n{done.stdout}\n{done.stderr[-3000:]}")
    status, _, output = said.read_text().partition("\n")
    assert status == "0", output
    assert "first recommendation after" in output
    return home

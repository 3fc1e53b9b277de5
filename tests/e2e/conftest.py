"""The demo, told once for all who look at what it leaves behind, whichever process of the test run they are in."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

Once = Callable[[str, Callable[[Path], None]], Path]
Greenlight = Callable[..., subprocess.CompletedProcess[str]]
SHORT = {  # less is searched for than in `make demo`; what is searched is tried by other tests
    "GREENLIGHT_TRAIN__MODELS": "[popularity, ranker]",
    "GREENLIGHT_TRAIN__POPULARITY_TRIALS": "3",
    "GREENLIGHT_EVALUATE__BOOTSTRAP": "300",
    "GREENLIGHT_INFRA__GOLDEN_REQUESTS": "20",
}


@pytest.fixture(scope="session")
def greenlight() -> Greenlight:
    """`greenlight(home, "why", …)` runs a verb as people do."""

    def run(home: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "GREENLIGHT_HOME": str(home), "GREENLIGHT_SERVING__PORT": "0", **more}
        command = [sys.executable, "-m", "greenlight", *words]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def told(once: Once, greenlight: Greenlight) -> Path:
    """A home in which the demo has been told on the real ratings in this repository. Read it; do not change it."""

    def tell(folder: Path) -> None:
        done = greenlight(folder / "home", "demo", "--once", **SHORT)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
        assert "first recommendation after" in done.stdout

    return once("told", tell) / "home"

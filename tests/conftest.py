"""What every test may use: an empty home, and real programs that are there or skip with a reason."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conf.home import Home

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test workers share two cores


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").open()


@pytest.fixture
def need() -> Callable[[str], str]:
    """`need("strace")` is the program's path, or a skip with a reason; a failure where services are required."""

    def look(program: str) -> str:
        path = shutil.which(program)
        if path is None and os.environ.get("GREENLIGHT_REQUIRE_SERVICES"):
            pytest.fail(f"{program} is not installed and GREENLIGHT_REQUIRE_SERVICES is set")
        if path is None:
            pytest.skip(f"{program} is not installed: `make services` installs it")
        return path

    return look

"""A demo that is ended from outside: nothing that it began is left, at whatever step."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.strays import marked

SMALL = {
    "GREENLIGHT_SERVING__PORT": "0",
    "GREENLIGHT_REGISTRY__PORT": "0",
    "GREENLIGHT_TRAIN__MODELS": '["popularity"]',
    "GREENLIGHT_TRAIN__POPULARITY_TRIALS": "1",
    "GREENLIGHT_AUDIENCE__VIEWERS": "300",
    "GREENLIGHT_AUDIENCE__MOVIES": "200",
    "GREENLIGHT_AUDIENCE__DAYS": "30",
}
PATIENCE_S = 240.0

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


def ended(home: Path, *words: str, at: str, by: signal.Signals) -> int:
    """Run the demo until it says `at`, end it `by` a signal, and see everything go; its exit status."""
    environment = {**os.environ, **SMALL, "GREENLIGHT_HOME": str(home)}
    command = [sys.executable, "-m", "greenlight", "demo", "--data", "simulated", *words]
    said = home.with_suffix(".log")
    with said.open("w") as log:
        demo = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    until = time.monotonic() + PATIENCE_S
    try:
        while at not in said.read_text():
            assert demo.poll() is None, said.read_text()[-3000:]
            assert time.monotonic() < until
            time.sleep(0.1)
        assert marked(f"GREENLIGHT_HOME={home}")
    finally:
        demo.send_signal(by)
    status = demo.wait(60)
    while left := marked(f"GREENLIGHT_HOME={home}"):
        assert time.monotonic() < until, left
        time.sleep(0.1)
    return status


def test_a_terminated_demo_says_where_it_stopped(tmp_path: Path) -> None:
    assert ended(tmp_path / "home", at="· snapshot", by=signal.SIGTERM) == 130
    last = json.loads((tmp_path / "home" / "demo.json").read_text())["steps"][-1]
    assert (last["ok"], last["note"]) == (False, "KeyboardInterrupt")


@pytest.mark.long
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize(
    ("words", "at"), [((), "Ctrl-C ends both"), (("--weeks", "2"), "· 2 weeks")], ids=["staying up", "weeks"]
)
def test_its_servers_end_with_it(tmp_path: Path, words: tuple[str, ...], at: str, by: signal.Signals) -> None:
    status = ended(tmp_path / "home", *words, at=at, by=by)
    assert status == (-9 if by == signal.SIGKILL else 130 if words else 0)

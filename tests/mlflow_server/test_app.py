"""MLflow's server by the command that people type: nothing but the home and a port."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from conf.home import Home
from mlflow_server.accounts import accounts

pytestmark = pytest.mark.server


def test_typed_by_hand_it_knows_the_logins(home: Home) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "GREENLIGHT_"))}
    command = [sys.executable, "-m", "mlflow_server.app", os.path.relpath(home.root), str(port)]
    with (home.root / "app.log").open("wb") as log:
        server = subprocess.Popen(command, env=plain, stdout=log, stderr=log, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/health", server, home.root / "app.log")
        lead, asked = accounts(home).lead, f"{url}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
        assert httpx.get(asked, timeout=60).status_code == 401
        assert httpx.get(asked, auth=(lead.name, lead.password), timeout=60).status_code == 200
    finally:
        os.killpg(server.pid, 9)
        server.wait()


def _wait(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text()
        try:
            httpx.get(url, timeout=5)
            return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(log.read_text())

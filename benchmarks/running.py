"""`greenlight up` on a home, with free ports, from when it is ready until Ctrl-C; and the children that load it."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conf.home import Home

ROOT = Path(__file__).resolve().parent.parent
STOP_S = 60.0


@contextmanager
def up(home: Home, **more: str) -> Iterator[dict[str, Any]]:
    """What it says of itself when it is ready: api, registry, pid, key, …. RuntimeError where it does not end well.

    more: variables of its environment.
    """
    environment = home.environment(GREENLIGHT_SERVING__PORT="0", GREENLIGHT_REGISTRY__PORT="0", **more)
    command = [sys.executable, "-m", "greenlight", "up", "--json"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGINT)
            status = process.wait(STOP_S)
    if status:
        raise RuntimeError(f"greenlight up ended with {status}")


def child(module: str, plan: dict[str, Any]) -> dict[str, Any]:
    """What `python -m benchmarks.MODULE PLAN.json` answers. SystemExit with what it said where it fails."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps(plan))
        file.flush()
        command = [sys.executable, "-m", f"benchmarks.{module}", file.name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)

"""`greenlight up` on a home, with free ports, from when it is ready until Ctrl-C."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conf.home import Home

ROOT = Path(__file__).resolve().parent.parent
STOP_S = 60.0


@contextmanager
def up(home: Home) -> Iterator[dict[str, Any]]:
    """What it says of itself when it is ready: api, registry, pid, key, …. RuntimeError where it does not end well."""
    environment = home.environment(GREENLIGHT_SERVING__PORT="0", GREENLIGHT_REGISTRY__PORT="0")
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

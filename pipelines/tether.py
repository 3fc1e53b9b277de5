"""Whatever ends a process, `kill -9` too, ends all that it began, in whatever session that runs.

A watcher waits at one end of a pipe; only this process has the other end, and the kernel closes that with it. Then the
watcher kills whatever carries the variable that this process gave to all that it began.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from conf.environment import take
from pipelines.strays import end_marked

MARK = "UNDER_GREENLIGHT_DEMO"
ENDS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def tethered() -> Iterator[None]:
    """What is started inside ends with this process, or with the block. SIGTERM and SIGHUP interrupt it as Ctrl-C does.

    In the main thread only. A signal that is ignored, as SIGHUP is under nohup, stays so.
    """
    value = f"{os.getpid()}-{time.monotonic_ns()}"
    command = [sys.executable, "-m", "pipelines.tether", f"{MARK}={value}"]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # Ctrl-C must not end it
    take({MARK: value})
    for number in ENDS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        watcher.communicate()


if __name__ == "__main__":
    sys.stdin.read()
    end_marked(sys.argv[1])

"""However a process ends, nothing is left of what it began, in whatever session, deaf to signals or not."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

DEAF = """
import signal, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""
BEGINS = f"""
import subprocess, sys, time
from pipelines.tether import tethered
with tethered():
    own = dict(stdout=subprocess.PIPE, start_new_session=True)
    children = [subprocess.Popen([sys.executable, "-c", {DEAF!r}], **own) for _ in range(2)]
    assert all(child.stdout.readline() for child in children)
    print(*(child.pid for child in children), flush=True)
    time.sleep(float(sys.argv[1]))
"""


def begun(seconds: float, *before: str) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    command = [*before, sys.executable, "-c", BEGINS, str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    return process, [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]


def gone(children: list[psutil.Process]) -> bool:
    assert len(children) == 2
    _, alive = psutil.wait_procs(children, timeout=60)
    return not alive


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_it_ends_its_children(number: signal.Signals) -> None:
    process, children = begun(600)
    process.send_signal(number)
    assert gone(children)
    assert process.wait(60)


def test_nothing_outlives_the_block() -> None:
    process, children = begun(0)
    assert process.wait(60) == 0
    assert not any(child.is_running() for child in children)


def test_what_is_to_outlive_its_terminal_does() -> None:
    process, children = begun(600, "nohup")
    try:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None
        assert all(child.is_running() for child in children)
    finally:
        process.kill()
    assert gone(children)

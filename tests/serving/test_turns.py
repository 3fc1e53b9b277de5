"""The thread that answers takes short turns; others take turns as everybody does."""

import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, threading
from pathlib import Path
from serving.turns import take_short_turns

def turn():
    told = Path(f"/proc/self/task/{threading.get_native_id()}/sched").read_text()
    print(next(line.split()[-1] for line in told.splitlines() if line.startswith("se.slice")))

nice = os.nice(3)
turn()
print(take_short_turns(), os.nice(0) == nice)
turn()
other = threading.Thread(target=turn)
other.start()
other.join()
"""


def test_only_the_thread_that_asks_gets_short_turns() -> None:
    usual, told, short, others = _run()
    assert told == "True True"
    assert int(short) == 100_000 < int(usual) == int(others)


def test_a_kernel_that_does_not_have_them_is_no_trouble(need: Callable[[str], str]) -> None:
    refusing = ("-e", "inject=sched_setattr:error=EINVAL")
    usual, told, *turns = _run(need("strace"), "-f", "-qq", "-o", "/dev/null", *refusing)
    assert told == "False True"
    assert turns == [usual, usual]


def _run(*before: str) -> list[str]:
    if platform.system() != "Linux" or "se.slice" not in Path("/proc/self/sched").read_text():
        pytest.skip("this kernel has no turns that a thread may choose (Linux 6.12 has)")
    command = [*before, sys.executable, "-c", PROGRAM]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()

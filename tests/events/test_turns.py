"""The thread that answers takes short turns; loops step aside, with what they begin; others take turns as all do."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from events.turns import AUTOGROUP

ROOT = Path(__file__).parents[2]
TURNS = """
import os, threading
from pathlib import Path
from events.turns import take_short_turns

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
ASIDE = r"""
import os, subprocess, sys, threading
from events.turns import AUTOGROUP, step_aside

def told():
    os.write(1, f"{os.nice(0)} {AUTOGROUP.read_text().split()[-1]}\n".encode())  # in one call

if sys.argv[1] == "0":
    step_aside(0)
    told()
else:
    other = threading.Thread(target=step_aside, args=(2,))
    other.start()
    other.join()
    told()
    step_aside()
    told()
    for more in ({}, {"process_group": 0}, {"start_new_session": True}):
        subprocess.run([sys.executable, "-c", sys.argv[2], "0", ""], check=True, **more)
"""


def test_only_the_thread_that_asks_gets_short_turns() -> None:
    usual, told, short, others = _turns()
    assert told == "True True"
    assert int(short) == 100_000 < int(usual) == int(others)


def test_a_kernel_that_does_not_have_them_is_no_trouble(need: Callable[[str], str]) -> None:
    refusing = ("-e", "inject=sched_setattr:error=EINVAL")
    usual, told, *turns = _turns(need("strace"), "-f", "-qq", "-o", "/dev/null", *refusing)
    assert told == "False True"
    assert turns == [usual, usual]


def test_a_session_steps_aside_with_its_main_thread_and_so_does_what_begins_in_another() -> None:
    nice = os.nice(0)
    assert _aside() == [f"{nice} 0"] + 4 * [f"{nice + 10} {nice + 10}"]


@pytest.mark.parametrize(("error", "when", "group"), [("EAGAIN", "2..3", 10), ("EACCES", "2..3", 0)])
def test_a_kernel_that_does_not_take_it_is_asked_again_or_is_no_trouble(
    need: Callable[[str], str], error: str, when: str, group: int
) -> None:
    strace = (need("strace"), "-D", "-qq", "-o", "/dev/null", "-e", "trace=write")  # -D: not as the session's leader
    nice, refusing = os.nice(0), f"inject=write:error={error}:when={when}"  # the first write is of what is told
    assert _aside(*strace, "-e", refusing)[1] == f"{nice + 10} {group and nice + group}"


def _turns(*before: str) -> list[str]:
    if platform.system() != "Linux" or "se.slice" not in Path("/proc/self/sched").read_text():
        pytest.skip("this kernel has no turns that a thread may choose (Linux 6.12 has)")
    return _run(*before, sys.executable, "-c", TURNS)


def _aside(*before: str) -> list[str]:
    if not AUTOGROUP.exists() or not AUTOGROUP.read_text():
        pytest.skip("this kernel does not group processes by session")
    return _run(*before, sys.executable, "-c", ASIDE, "10", ASIDE)


def _run(*command: str) -> list[str]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, start_new_session=True)
    return done.stdout.splitlines()

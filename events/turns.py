"""Whose turn it is on a core, where some answer requests and others work beside them.

Where as many threads compute as there are cores, Linux lets one that wakes up wait until another's turn is over, about
3 ms: longer than a slate takes. A thread that asks for short turns is let in at once, and gets no more of the core than
its share (EEVDF's latency hint, since Linux 6.12; older kernels ignore it).

Niceness is heeded within a session only, where Linux groups processes by session (sched(7), "The autogroup feature";
not within a container or a unit of systemd): a loop in a session of its own weighs as much as a worker of the API,
however nice it is, until its group is told.
"""

import ctypes
import os
import platform
import struct
import threading
import time
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")
TRIES, APART_S = 50, 0.1  # the kernel takes one such wish in 0.1 s, of all who are not root
TURN_NS = 100_000  # the shortest that the kernel allows
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274}  # neither Python nor glibc has a function for it
NOT_INHERITED = 0x01  # SCHED_FLAG_RESET_ON_FORK: threads that this one starts take turns as everybody does


def take_short_turns() -> bool:
    """Ask for it, for the calling thread alone; False where the kernel does not have it."""
    number = SCHED_SETATTR.get(platform.machine())
    if platform.system() != "Linux" or number is None:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wish = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, NOT_INHERITED, nice, 0, TURN_NS, 0, 0)
    return ctypes.CDLL(None).syscall(number, 0, wish, 0) == 0


def step_aside(by: int = 10) -> None:
    """Run behind the API: a request never waits for a loop, or for a job that one starts, to give up its core.

    Holds for the calling thread and what it starts; where it is the main thread of a session, for the session. What is
    started into a session of its own says so again, with 0.
    """
    nice = os.nice(by)
    if os.getsid(0) == threading.get_native_id() and AUTOGROUP.exists():
        for _ in range(TRIES):
            try:
                AUTOGROUP.write_text(str(nice))
                return
            except BlockingIOError:
                time.sleep(APART_S)
            except OSError:  # as where /proc may not be written: then niceness alone has to do
                return

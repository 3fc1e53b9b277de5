"""Whose turn it is on a core, where one thread answers requests and others work beside it.

Where as many threads compute as there are cores, Linux lets one that wakes up wait until another's turn is over, about
3 ms: longer than a slate takes. A thread that asks for short turns is let in at once, and gets no more of the core than
its share (EEVDF's latency hint, since Linux 6.12; older kernels ignore it).
"""

import ctypes
import os
import platform
import struct

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

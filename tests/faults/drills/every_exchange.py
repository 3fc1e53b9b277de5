"""A fault at every step of what goes through Kafka: the N-th call of the relay or of the mirror fails, alone or with
all after it, or is its last, as it is killed; N = 1, 2, … until a run is clean.

It may be what is said to Kafka or heard from it, or what is done with the files of the home. strace counts in each
thread, and whoever connects anew has a new one: there what fails fails again. So nobody has to come through by himself:
he says what is wrong in plain sentences, and ends when he is asked to; then another, who meets no fault, goes on.
"""

import itertools
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from conf.home import Home
from tests.faults.drills.drill import ENOUGH, Drill, Tally
from tests.faults.drills.every_step import EVERY, until_clean
from tests.faults.drills.outages import shared
from tests.faults.drills.strace import KILL, Fault, injected
from tests.faults.drills.stream import PATIENCE_S, Process, Stream

SEND, RECEIVE, CONNECT = "sendto,sendmsg", "recvfrom,recvmsg", "connect"
WRITE, SYNC, OPEN, READ = "write,pwrite64,ftruncate,fallocate", "fsync,fdatasync", "openat", "read,pread64"
EXCHANGE = (SEND, RECEIVE, CONNECT)  # the others are of files
STEPS = (  # what can happen there, at every step of that kind
    (Fault(SEND, KILL),),  # one that fails might be the byte by which the client's threads wake each other
    (Fault(RECEIVE, KILL), Fault(RECEIVE, "ECONNRESET"), Fault(RECEIVE, "ETIMEDOUT", lasting=True)),
    (Fault(CONNECT, KILL), Fault(CONNECT, "ETIMEDOUT"), Fault(CONNECT, "ECONNREFUSED", lasting=True)),
    (Fault(WRITE, KILL), Fault(WRITE, "EIO"), Fault(WRITE, "ENOSPC", lasting=True)),
    (Fault(SYNC, KILL), Fault(SYNC, "EIO"), Fault(SYNC, "ENOSPC", lasting=True)),
    (Fault(OPEN, "EIO"), Fault(OPEN, "EMFILE", lasting=True)),
    (Fault(READ, "EIO"),),
)
FEW = {  # of a short form
    "relay": (Fault(SEND, KILL, 12), Fault(SYNC, "EIO", 1)),
    "mirror": (Fault(RECEIVE, "ECONNRESET", 20), Fault(SYNC, KILL, 2)),
}
UNDER_WAY = 20  # events that are to come through meanwhile; the other ones of a cycle come after it
GOES_ON_S = 1.0  # after a fault, until it is asked to end
LOOK_S = 0.05


def steps(name: str, folder: Path, cycles: int) -> Tally:
    """name: the loop that meets the faults; the other one meets none."""
    tally, kafka, number = Tally(), shared(), itertools.count()
    with Stream(folder, tally, kafka.broker.servers, kafka.broker.servers, partitions=1, timeout_s=2) as stream:
        part: Process = getattr(stream, name)

        def happens(fault: Fault) -> bool:
            return _cycle(stream, part, fault, folder / f"trace-{next(number)}")

        if cycles < EVERY:
            happened = [happens(fault) for fault in FEW[name][:cycles]]
            assert any(happened), "none of the faults happened"
        else:
            for faults in STEPS:
                until_clean(happens, lambda nth, faults=faults: [replace(fault, nth=nth) for fault in faults])
    return tally


def _cycle(stream: Stream, part: Process, fault: Fault, trace: Path) -> bool:
    """Whether the fault happened."""
    part.end()
    stream.write(UNDER_WAY)
    trace.touch()
    part.start(*fault.command([] if fault.calls in EXCHANGE else files(stream.home), trace))
    until = time.monotonic() + PATIENCE_S
    while part.alive and not stream.through and time.monotonic() < until:
        if injected(trace.read_text()):
            until = min(until, time.monotonic() + GOES_ON_S)
        time.sleep(LOOK_S)
    status, said = part.end(), part.said()
    assert status == 0 or fault.kills, f"{fault}: ended with {status}: {said}"
    assert "Traceback" not in said, f"{fault}: {said}"
    stream.write(ENOUGH - UNDER_WAY)
    part.start()
    stream.check()
    return injected(trace.read_text())


def files(home: Home) -> list[Path]:
    """What the loops open, and the folder that holds the names."""
    logs = [Path(f"{log}{part}") for log in (home.log, home.mirror) for part in ("", "-wal", "-shm", "-journal")]
    return [home.root, *logs, home.root / "relay.lock", home.cluster, home.kafka]


EACH = "each call to Kafka or of a file in turn fails, or it is killed there"
DRILLS = tuple(
    Drill(
        f"step-{name}",
        f"the {name}: {EACH}",
        partial(steps, name),
        short=len(few),
        long=EVERY,
        needs=("java", "strace"),
        server=True,
    )
    for name, few in FEW.items()
)

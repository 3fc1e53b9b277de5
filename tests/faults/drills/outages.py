"""Kafka goes away in every way it can, the relay is killed, and one zone or two of three are lost: all under load."""

import atexit
import functools
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from tests.faults.broker import cluster
from tests.faults.drills.drill import Drill, Tally
from tests.faults.drills.stream import Process, Stream
from tests.faults.proxied import Proxied, proxied
from tests.faults.proxy import Name

LONG_S = 300.0  # the one long outage, where there are cycles enough
MOST_PAUSE_S = 30.0  # while one zone of three is lost
HANDED_OVER_S = 1.0  # after so long the relay has records in flight, and has committed since
HALF_WAY = 20_000  # bytes of a connection
DELAY_S = 5.0
Harm = Callable[[Proxied, Stream, float], None]  # for about so many seconds


@functools.cache
def shared() -> Proxied:
    """One broker for all the drills of a process, each with topics of its own: what stops it starts it again."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(proxied(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drill-kafka-")))))


def drill(harm: Harm, behind_proxy: bool = False) -> Callable[[Path, int], Tally]:
    """Load, harm that is undone when it returns, then the count; for a number of cycles."""

    def run(folder: Path, cycles: int) -> Tally:
        tally, kafka, seconds = Tally(), shared(), lengths(cycles)
        directly = kafka.broker.servers
        with Stream(folder, tally, kafka.proxy.address if behind_proxy else directly, directly) as stream:
            for cycle in tally.until(cycles):
                with stream.load():
                    stream.flow()
                    harm(kafka, stream, seconds[cycle % cycles])
                stream.check()
        return tally

    return run


def lengths(cycles: int) -> list[float]:
    """Seconds of outages, log-spaced from 1 to 60; where there are fifty, the last one is five minutes."""
    long = [LONG_S] if cycles >= 50 else []
    return [*np.geomspace(1, 60, cycles - len(long)).tolist(), *long]


def stopped(kafka: Proxied, stream: Stream, seconds: float) -> None:
    kafka.broker.stop()
    time.sleep(seconds)
    kafka.broker.start()


def killed(kafka: Proxied, stream: Stream, seconds: float) -> None:
    kafka.broker.kill()
    kafka.broker.start()


def relay_killed(kafka: Proxied, stream: Stream, seconds: float) -> None:
    _killed_once(stream.relay, seconds)


def relay_killed_away(kafka: Proxied, stream: Stream, seconds: float) -> None:
    """What it had handed over, and what it may have taken for delivered, is gone with it."""
    kafka.proxy.add("down")
    time.sleep(HANDED_OVER_S)
    _killed_once(stream.relay, seconds)
    kafka.proxy.remove()


def mirror_killed(kafka: Proxied, stream: Stream, seconds: float) -> None:
    _killed_once(stream.mirror, seconds)


def _killed_once(process: Process, seconds: float) -> None:
    time.sleep(random.Random(seconds).random())  # at any moment between two commits
    process.kill()
    process.start()


def poisoned(name: Name, amount: float = 0.0) -> Callable[[Path, int], Tally]:
    """A toxic for a while: shorter than a request to Kafka may take, and longer."""

    def harm(kafka: Proxied, stream: Stream, seconds: float) -> None:
        kafka.proxy.add(name, amount)
        time.sleep(seconds)
        kafka.proxy.remove()

    return drill(harm, behind_proxy=True)


# Zones ----------------------------------------------------------------------------------------------------------------


def zones(folder: Path, cycles: int) -> Tally:
    """Of three brokers, each a zone, one is killed and what is acknowledged goes on to Kafka; then two are, and the
    spool holds it until they are back."""
    tally = Tally()
    with cluster(folder, 3) as brokers:
        servers = brokers[0].servers
        with Stream(folder, tally, servers, servers, replication=3) as stream:
            for cycle in tally.until(cycles):
                lost = [brokers[(cycle + n) % 3] for n in range(1 + cycle % 2)]
                with stream.load():
                    stream.flow()
                    for broker in lost:
                        broker.kill()
                    if len(lost) == 1:
                        assert _longest_pause_s(stream, 2 * MOST_PAUSE_S) <= MOST_PAUSE_S
                    else:
                        _holds(stream)
                    for broker in lost:
                        broker.begin()
                    for broker in lost:
                        broker.wait(3)
                stream.check()
    return tally


def _longest_pause_s(stream: Stream, seconds: float) -> float:
    """The longest time in which nothing came through to Kafka, of so many seconds under load."""
    begun = moved = time.monotonic()
    last, longest = stream.delivered, 0.0
    while (now := time.monotonic()) < begun + seconds:
        if (delivered := stream.delivered) > last:
            last, moved = delivered, now
        longest = max(longest, now - moved)
        time.sleep(0.05)
    return longest


def _holds(stream: Stream) -> None:
    """Without two of three in sync nothing more is acknowledged by Kafka, and the spool goes on to take everything."""
    time.sleep(20)  # until the relay is done with what had come through before
    before, told = stream.delivered, len(stream.tally.acknowledged)
    time.sleep(10)
    assert stream.delivered == before, "Kafka acknowledged what is in one zone only"
    assert len(stream.tally.acknowledged) > told


def _drill(name: str, does: str, run: Callable[[Path, int], Tally], long: int, short: int = 1) -> Drill:
    return Drill(name, does, run, short, long, needs=("java",), server=True)


DRILLS = (
    _drill("broker-stopped", "the broker is stopped, 1 to 60 s and once 5 min", drill(stopped), 50),
    _drill("broker-killed", "`kill -9` of the broker", drill(killed), 20),
    _drill("relay-killed", "`kill -9` of the relay", drill(relay_killed), 50),
    _drill("relay-killed-away", "the same while Kafka is away", drill(relay_killed_away, behind_proxy=True), 20),
    _drill("mirror-killed", "`kill -9` of the mirror", drill(mirror_killed), 20),
    _drill("black-hole", "a broker that accepts and never answers", poisoned("timeout"), 20),
    _drill("reset-half-way", "connections are reset within a request", poisoned("reset_peer", HALF_WAY), 20),
    _drill("slow", "the broker answers 5 s late", poisoned("latency", DELAY_S), 20),
    _drill("zones", "of three zones one is lost, then two", zones, 10, short=0),
)

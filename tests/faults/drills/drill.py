"""What a drill is, the invariant that each checks, and how it counts.

    acknowledged ⊆ stored ⊆ sent        by set equality of ids; stored = Kafka ∪ spool ∪ dead letter
    no reader sees an id twice

A drill breaks something from outside, again and again. A cycle in which fewer than `ENOUGH` events were acknowledged
shows too little and does not count; what it lost or doubled does.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ENOUGH = 1_000  # events acknowledged in a cycle that counts
PATIENCE = 2  # times as many cycles as were asked for, at most, so that enough of them count


@dataclass
class Tally:
    """A drill adds to `sent` before it sends, to `acknowledged` once it was told so, and calls `check` per cycle."""

    sent: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    cycles: int = 0  # that count
    void: int = 0  # with too few events
    told: int = 0  # events acknowledged in the cycles that count
    lost: set[str] = field(default_factory=set)  # acknowledged and stored nowhere
    unexpected: set[str] = field(default_factory=set)  # stored or read, and never sent
    doubles: int = 0  # times that a reader saw an id again
    before: int = 0  # acknowledged before this cycle

    def until(self, cycles: int) -> Iterator[int]:
        """Numbers of cycles, until enough of them count. AssertionError where too many do not."""
        number = 0
        while self.cycles < cycles:
            assert number < PATIENCE * cycles, f"of {number} cycles only {self.cycles} had {ENOUGH} events acknowledged"
            yield number
            number += 1

    def check(self, stored: Iterable[str], *readers: Iterable[str]) -> None:
        """End a cycle: all ids that are stored anywhere, and for each reader the ids that it saw, doubles included."""
        kept = set(stored)
        for reader in readers:
            seen = list(reader)
            self.doubles += len(seen) - len(set(seen))
            self.unexpected |= set(seen) - self.sent
        self.lost |= self.acknowledged - kept
        self.unexpected |= kept - self.sent
        new = len(self.acknowledged) - self.before
        self.before = len(self.acknowledged)
        if new < ENOUGH:
            self.void += 1
        else:
            self.cycles += 1
            self.told += new

    def begin_anew(self) -> None:
        """The next cycle begins with nothing stored."""
        self.sent, self.acknowledged, self.before = set(), set(), 0

    @property
    def holds(self) -> bool:
        return not (self.lost or self.unexpected or self.doubles)


@dataclass(frozen=True)
class Drill:
    """`run` breaks things in an empty folder, for a number of cycles; what is wrong beyond ids is an AssertionError."""

    name: str  # as `make drills ARGS="--only NAME"` takes it
    does: str  # in words, for the table
    run: Callable[[Path, int], Tally]
    short: int  # cycles in `make test`; 0: it takes too long for that
    long: int  # cycles in `make drills`
    needs: tuple[str, ...] = ()  # programs
    server: bool = False  # starts a server
    must_lose: bool = False  # a control: the drill is only worth something where this one finds losses

    def verdict(self, tally: Tally) -> str:
        """`holds` or `BROKEN`; of a control `caught` or `MISSED`."""
        if self.must_lose:
            return "caught" if tally.lost else "MISSED"
        return "holds" if tally.holds else "BROKEN"

    def passed(self, tally: Tally) -> bool:
        return self.verdict(tally) in ("holds", "caught")

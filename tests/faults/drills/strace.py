"""System calls of another process that fail, from outside: strace answers in the kernel's place."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
KILL = "KILL"
LIMIT_S = 120  # for a process that ends within a second on an idle machine
CALL = re.compile(r"^(\d+) +(\w+)\(", re.MULTILINE)


@dataclass(frozen=True)
class Fault:
    """The N-th of some calls in each thread fails, with `lasting` all that follow too; without an error none does.

    With the error `KILL` the process is killed instead.
    """

    calls: str  # comma-separated
    error: str = ""
    nth: int = 1
    lasting: bool = False

    def __str__(self) -> str:
        return f"{self.calls} {self.nth}{'+' * self.lasting} {self.error}"

    @property
    def kills(self) -> bool:
        return self.error == KILL

    def command(self, on: Iterable[Path], trace: Path) -> list[str]:
        """What to put before a command, so that calls on some paths are traced and fail, whether those exist or not."""
        what = f"signal={KILL}" if self.kills else f"error={self.error}"
        inject = f"inject={self.calls}:{what}:when={self.nth}{'+' * self.lasting}"
        options = [f"trace={self.calls}", *([inject] if self.error else [])]
        return [
            *("strace", "-f", "-o", str(trace)),
            *(word for option in options for word in ("-e", option)),
            *(word for path in on for word in ("-P", str(path))),
        ]


@dataclass(frozen=True)
class Ended:
    """A process that has ended: its status, the lines on its standard output, what it said on its standard error."""

    status: int
    lines: list[str]
    said: str
    trace: str

    @property
    def injected(self) -> bool:
        return injected(self.trace)

    def most(self, calls: str) -> int:
        """How often the thread that made these calls most often did."""
        wanted = set(calls.split(","))
        return max(Counter(thread for thread, call in CALL.findall(self.trace) if call in wanted).values(), default=0)


def injected(trace: str) -> bool:
    """Whether the fault happened."""
    return "(INJECTED)" in trace or "+++ killed by SIGKILL +++" in trace


def run(module: str, arguments: Iterable[str], fault: Fault, on: Iterable[Path], folder: Path) -> Ended:
    """Run a module of Python's with a fault in its calls on some paths."""
    command = [*fault.command(on, trace := folder / "trace"), sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    return Ended(done.returncode, done.stdout.splitlines(), done.stderr, trace.read_text())

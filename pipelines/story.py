"""A run told step by step: what is happening, why, how long it took. Live on a terminal, a line a step elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

LINES = 4  # of the running step's latest news that stay on the screen


@dataclass
class Step:
    name: str
    why: str
    seconds: float = 0.0
    ok: bool = False
    note: str = ""
    news: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """What goes into a report: name, seconds, ok, note."""
        return {k: v for k, v in asdict(self).items() if k in ("name", "seconds", "ok", "note")}


class Story:
    """Collects steps and shows them. Use `with story: with story.step(name, why) as step: step.note = ...`."""

    def __init__(self, console: Console) -> None:
        self.console, self.steps = console, list[Step]()
        self.started = time.monotonic()
        self._live = (
            Live(get_renderable=self._picture, console=console, refresh_per_second=8) if console.is_terminal else None
        )

    def __enter__(self) -> "Story":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the live picture; what is on the screen stays."""
        if self._live:
            self._live.stop()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @contextmanager
    def step(self, name: str, why: str) -> Iterator[Step]:
        """Time one step; an error marks it failed, keeps its first line as the note, and goes on up."""
        step = Step(name, why)
        self.steps.append(step)
        begun = time.monotonic()
        self._print(f"· {name}: {why}")
        try:
            yield step
            step.ok = True
        except BaseException as problem:
            step.note = (str(problem) or type(problem).__name__).splitlines()[0]
            raise
        finally:
            step.seconds = round(time.monotonic() - begun, 2)
            self._print(f"{'✓' if step.ok else '✗'} {name} ({step.seconds:.1f} s) {step.note}")

    def tell(self, line: str) -> None:
        """News of the running step."""
        self.steps[-1].news.append(line)
        self._print(f"    {line}")

    def announce(self, line: str) -> None:
        """Show a line that stays on the screen and goes into no report."""
        self.console.print(line, markup=False, soft_wrap=True)

    def _print(self, line: str) -> None:
        if not self._live:
            self.console.print(line, markup=False, soft_wrap=True)

    def _picture(self) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        for step in self.steps:
            running = step is self.steps[-1] and not step.seconds
            mark = Spinner("dots", style="cyan") if running else Text("✓", "green") if step.ok else Text("✗", "red")
            seconds = self.elapsed - sum(s.seconds for s in self.steps[:-1]) if running else step.seconds
            table.add_row(mark, Text(step.name, "bold"), Text(f"{seconds:5.1f} s", "dim"), Text(step.note or step.why))
        news = self.steps[-1].news[-LINES:] if self.steps and not self.steps[-1].seconds else []
        return Group(
            table, *(Padding(Text(line, "dim", no_wrap=True, overflow="ellipsis"), (0, 0, 0, 4)) for line in news)
        )

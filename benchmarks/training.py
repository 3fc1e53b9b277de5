"""How the wall time of `greenlight train` divides, as a section of docs/models.md."""

import os
import tempfile
import time
from pathlib import Path

from conf.home import Home
from conf.settings import Settings
from pipelines.data import import_data
from pipelines.train import Training, train

PARTS = ("start", "tune", "fit", "evaluate", "disguise", "refit", "release", "probe", "test")  # of a candidate
WHOLE = """`greenlight train` on MovieTweetings in a new home, {cores} cores: {wall:.1f} s, of which

- {snapshot:.1f} s cut the snapshot;
- {attempts:.1f} s go to the candidates, two at a time in processes of their own, while MLflow is imported and set up;
- {test:.1f} s to the test window, which only the chosen candidate meets, plain and in disguise at once;
- {registry:.1f} s to decisions, the ledger and MLflow's pages;
- {rest:.1f} s to what lies between.

Seconds of each candidate:"""
MEANINGS = """start: a process and its imports. tune: popularity's half-life. fit: on what was before validation.
evaluate: validation, day by day. disguise: a new process, fit and validation with everything renamed. refit: on the
whole snapshot. release: weights, top lists and histories written and signed. probe: fresh processes that load the
release and score. test: a new process, fit and the test window. Popularity is ours and learns nothing: it has no
process but for tuning, no disguise and no refit."""


def section() -> list[str]:
    """Trains in a temporary home; Markdown blocks."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home").open()
        import_data(home, Settings(), "movietweetings")
        began = time.perf_counter()
        training = train(home, Settings())
        wall = time.perf_counter() - began
    print("training: timed", flush=True)
    rest = wall - sum(training.seconds.values())
    words = WHOLE.format(cores=os.cpu_count(), wall=wall, rest=rest, **training.seconds)
    return ["## How train's wall time divides", words, _table(training), MEANINGS]


def _table(training: Training) -> str:
    lines = [f"| | {' | '.join(PARTS)} | sum |", "|---" * (len(PARTS) + 2) + "|"]
    for made in training.candidates:
        cells = [f"{made.seconds[part]:.1f}" if part in made.seconds else "" for part in PARTS]
        lines.append(f"| {made.name} | {' | '.join(cells)} | {sum(made.seconds.values()):.1f} |")
    return "\n".join(lines)

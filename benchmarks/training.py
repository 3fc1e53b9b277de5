"""How the wall time of `greenlight train` divides, and what it costs over bare fits; a section of docs/models.md.

python -m benchmarks.training
"""

import os
import tempfile
import time
from pathlib import Path

from threadpoolctl import threadpool_limits

from conf.home import Home
from conf.settings import Settings
from models.interactions import Interactions
from models.shelf import find
from pipelines.data import import_data
from pipelines.evaluate import windows
from pipelines.snapshot import cut
from pipelines.train import train
from pipelines.trained import Training

AROUND = """Train's wall time is {ratio:.1f} times that of the bare fits. It makes {fits} fits; made again alone, one
after the other in one process, they take {bare:.1f} s. Apart from those, in seconds of work (two candidates work at
once): start-up {start:.1f} s (snapshot, processes and imports); evaluation and tuning {evaluation:.1f} s; releases and
probes {release:.1f} s; decisions and pages {registry:.1f} s. In the fits themselves, the processes add {added:.1f} s:
what they import when they first fit, and histories written for them and read."""
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
        interactions = cut(home, Settings()).interactions
    print("training: timed", flush=True)
    rest = wall - sum(training.seconds.values())
    words = WHOLE.format(cores=os.cpu_count(), wall=wall, rest=rest, **training.seconds)
    around = _around(training, interactions, wall)
    return ["## How train's wall time divides", words, _table(training), MEANINGS, around]


def _around(training: Training, interactions: Interactions, wall: float) -> str:
    """What train costs over the fits that it makes."""
    known = windows(interactions, Settings().evaluate)
    parts = [interactions.before(known.validation_start_ms), interactions, interactions.before(known.test_start_ms)]
    work, bare, told, fits = dict.fromkeys(PARTS, 0.0), 0.0, 0.0, 0
    for made in training.candidates:
        for part, seconds in made.seconds.items():
            work[part] += seconds
        if made.name == "popularity":
            continue
        early, whole, late = (_bare(made.name, part) for part in parts)
        hidden = early + (2 * late if "test" in made.seconds else 0.0)  # fits inside disguise and test
        bare, fits = bare + early + whole + hidden, fits + (5 if "test" in made.seconds else 3)
        told += made.seconds["fit"] + made.seconds["refit"] - early - whole
        work["disguise"] -= early
        work["test"] -= hidden - early
    return AROUND.format(
        ratio=wall / bare,
        fits=fits,
        bare=bare,
        start=training.seconds["snapshot"] + work["start"],
        evaluation=sum(work[part] for part in ("tune", "evaluate", "disguise", "test")),
        release=work["release"] + work["probe"],
        registry=training.seconds["registry"],
        added=told,
    )


def _bare(name: str, history: Interactions) -> float:
    """Processor seconds of one fit on one thread in this process, which has imported what it needs."""
    model = find(name).cls()
    model.fit(history.before(history.end_ms - (history.end_ms - int(history.times[0])) // 2))  # warms it up
    with threadpool_limits(1, "blas"):
        began = time.process_time()
        find(name).cls().fit(history)
        return time.process_time() - began


def _table(training: Training) -> str:
    lines = [f"| | {' | '.join(PARTS)} | sum |", "|---" * (len(PARTS) + 2) + "|"]
    for made in training.candidates:
        cells = [f"{made.seconds[part]:.1f}" if part in made.seconds else "" for part in PARTS]
        lines.append(f"| {made.name} | {' | '.join(cells)} | {sum(made.seconds.values()):.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print("\n\n".join(section()))

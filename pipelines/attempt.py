"""What a candidate shows before it is judged: fitted, evaluated plain and in disguise, fitted on all, released, probed.

Nothing here decides. A fault of the candidate is a sentence in `Attempt`, never an exception: the others go on.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from conf.settings import Settings
from mlflow_server.building import build
from mlflow_server.ledger import SigningKey
from mlflow_server.release import Manifest, Release, ReleaseError
from models.base import Recommender, settings_of
from models.interactions import DAY_MS, Interactions
from models.popularity import Popularity, PopularityConfig
from models.ranking import Interval, Windows
from models.shelf import Shelved, find
from monitoring.gates.infra import InfraEvidence
from monitoring.gates.offline import Disguise, OnTest
from pipelines.candidate import Candidate, CandidateFailed, start
from pipelines.evaluate import Evaluation, difference, disguise, evaluate
from pipelines.probe import probe

METRIC = "ndcg@10"
CALENDAR_MS = 52 * 7 * DAY_MS  # the disguise moves the calendar: same weekday, same season, other dates


@dataclass(frozen=True, eq=False)
class Work:
    """What every attempt of a training shares."""

    settings: Settings
    interactions: Interactions
    disguised: Interactions
    windows: Windows
    snapshot: str
    offset: int  # of the log, that the snapshot reaches
    commit: str
    key: SigningKey
    releases: Path
    tuning: Path  # folder of the searches of this snapshot and code
    trials: int
    minutes: float | None
    seed: int
    report: Callable[[str], None]

    def difference(self, a: Evaluation, b: Evaluation) -> Interval:
        """The paired difference a - b of NDCG@10, with its interval."""
        conf = self.settings.evaluate
        return difference(a, b, METRIC, conf.level, conf.bootstrap, self.seed)


@dataclass
class Attempt:
    """What is known of one candidate so far. `failed`: it could not be fitted. `fault`: it could not be evaluated."""

    name: str
    model: str = ""  # its short name
    config: dict[str, Any] | None = None
    trials: list[dict[str, Any]] = field(default_factory=list)
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)  # of the fit that was released
    evaluation: Evaluation | None = None
    disguise: Disguise | None = None
    release: Release | None = None
    infra: InfraEvidence | None = None
    failed: str = ""
    fault: str = ""
    unreleased: str = ""  # why there is no release
    version: int | None = None
    test: Evaluation | None = None
    on_test: OnTest | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] = round(self.seconds.get(part, 0.0) + time.monotonic() - began, 3)


def disguised(interactions: Interactions, seed: int) -> Interactions:
    """Viewers, movies and titles renamed and renumbered, the calendar moved by 52 weeks."""
    renamed = disguise(interactions, seed)
    slates = renamed.shown and replace(renamed.shown, times=renamed.shown.times + CALENDAR_MS)
    return replace(renamed, times=renamed.times + CALENDAR_MS, end_ms=renamed.end_ms + CALENDAR_MS, shown=slates)


def meet_popularity(work: Work) -> Attempt:
    """The yardstick, always tuned. It learns nothing and is ours: only tuning has a process; no disguise is needed."""
    made, settings = Attempt("popularity", "popularity"), work.settings.train
    with made.timed("tune"), start("popularity", settings, work.seed) as tuner:
        found = _tuned(work, made, tuner, max(settings.popularity_trials, work.trials))
    model = Popularity(PopularityConfig(**found), seed=work.seed)
    made.config = settings_of(model)
    with made.timed("evaluate"):
        made.evaluation = _validated(work, model, work.interactions)
    with made.timed("test"):
        made.test = evaluate(model, work.interactions, work.windows.test_start_ms, work.windows.end_ms)
    work.report(f"popularity: half-life {model.config.half_life_days:.3g} days, {_quality(made)}")
    _release(work, made, model, find("popularity"), model.config.half_life_days)
    return made


def candidate(work: Work, name: str, half_life_days: Callable[[], float]) -> Attempt:
    """Everything a candidate shows before it is judged. `half_life_days()` waits until popularity is tuned."""
    made = Attempt(name, short(name))
    try:
        _validate(work, made)
        if made.evaluation:
            with made.timed("disguise"):
                made.disguise = _disguise(work, made, made.evaluation)
        with made.timed("start"):
            model = start(name, work.settings.train, work.seed, made.config)
        with model:
            with made.timed("refit"):
                made.curves = model.fit(work.interactions).curves
            _release(work, made, model, model.shelved, half_life_days())
    except CandidateFailed as why:
        made.failed = str(why)
    work.report(f"{made.model}: failed: {made.failed}" if made.failed else f"{made.model}: {_quality(made)}")
    return made


def meet_test(work: Work, made: Attempt, yardstick: Attempt) -> None:
    """Fit the chosen candidate before the test window, plain and in disguise, and see what it reaches there."""
    assert yardstick.evaluation
    assert yardstick.test
    known = OnTest(float("nan"), yardstick.test.mean(METRIC), yardstick.evaluation.mean(METRIC))
    begin, end = work.windows.test_start_ms, work.windows.end_ms
    with made.timed("test"), ThreadPoolExecutor(2) as pool:
        plain = pool.submit(_fitted, work, made, work.interactions, begin, end)
        hidden = pool.submit(_fitted, work, made, work.disguised, begin + CALENDAR_MS, end + CALENDAR_MS)
        try:
            made.test = plain.result()
        except (CandidateFailed, ValueError) as why:
            made.on_test = replace(known, fault=str(why))
            return
        unmasked = _compared(work, made.test, hidden.result)
    made.on_test = replace(known, quality=made.test.mean(METRIC), disguise=unmasked)


def champion_again(work: Work, folder: Path, manifest: Manifest) -> Evaluation | str:
    """The champion's model and settings, fitted and evaluated like a candidate on this snapshot; or why not."""
    name = f"{folder / 'source' / 'model.py'}:{manifest.cls}" if manifest.outside else manifest.cls
    try:
        with start(name, work.settings.train, manifest.seed, manifest.config) as model:
            return _validated(work, model, work.interactions)
    except (CandidateFailed, ValueError) as why:
        return str(why)


def _validate(work: Work, made: Attempt) -> None:
    """Tune, fit and evaluate on validation. CandidateFailed where it cannot even be fitted."""
    with made.timed("start"):
        model = start(made.name, work.settings.train, work.seed)
    with model:
        made.model, made.config = model.shelved.name, settings_of(model)
        if work.trials or work.minutes:
            with made.timed("tune"):
                made.config = _tuned(work, made, model, work.trials)
            model.renew(made.config)
        begin, end = work.windows.validation_start_ms, work.windows.test_start_ms
        with made.timed("fit"):
            model.fit(work.interactions.before(begin))
        try:
            with made.timed("evaluate"):
                made.evaluation = evaluate(model, work.interactions, begin, end)
        except (CandidateFailed, ValueError) as why:
            made.fault = str(why)


def _tuned(work: Work, made: Attempt, model: Candidate, trials: int) -> dict[str, Any]:
    def told(trial: dict[str, Any]) -> None:
        of = f" of {trials}" if trial["number"] < trials else ""  # numbers go on past one that a kill cut off
        value = "" if trial["value"] is None else f": {trial['value']:.4f}"
        work.report(f"{made.model}: trial {trial['number'] + 1}{of} {trial['state'].lower()}{value}")

    known, cls = work.interactions.before(work.windows.test_start_ms), type(model)
    journal = work.tuning / f"{cls.__module__}.{cls.__qualname__} {work.seed}.journal"
    if journal.exists():
        work.report(f"{made.model}: the search goes on where it stopped")
    found = model.tune(known, work.settings.evaluate, trials, work.minutes, told, journal)
    made.trials = found.trials
    return found.config


def _validated(work: Work, model: Recommender, interactions: Interactions) -> Evaluation:
    begin, end = work.windows.validation_start_ms, work.windows.test_start_ms
    model.fit(interactions.before(begin))
    return evaluate(model, interactions, begin, end)


def _fitted(work: Work, made: Attempt, interactions: Interactions, start_ms: int, end_ms: int) -> Evaluation:
    """The candidate in a new process, fitted before a window of a history and evaluated on it."""
    with start(made.name, work.settings.train, work.seed, made.config) as model:
        model.fit(interactions.before(start_ms))
        return evaluate(model, interactions, start_ms, end_ms)


def _disguise(work: Work, made: Attempt, plain: Evaluation) -> Disguise:
    begin, end = work.windows.validation_start_ms + CALENDAR_MS, work.windows.test_start_ms + CALENDAR_MS
    return _compared(work, plain, lambda: _fitted(work, made, work.disguised, begin, end))


def _compared(work: Work, plain: Evaluation, hidden: Callable[[], Evaluation]) -> Disguise:
    """What the disguise cost, viewer by viewer."""
    try:
        found = hidden()
    except (CandidateFailed, ValueError) as why:
        return Disguise(float("nan"), None, str(why))
    real = np.zeros(len(work.interactions.user_ids), np.int32)
    real[work.disguised.users] = work.interactions.users  # the rows of both histories are the same interactions
    found = replace(found, viewers=real[found.viewers])
    return Disguise(found.mean(METRIC), work.difference(plain, found))


def _release(work: Work, made: Attempt, model: Recommender, shelved: Shelved, half_life_days: float) -> None:
    """Build the release of a model fitted on everything, and probe it in fresh processes."""
    try:
        with made.timed("release"):
            made.release = build(
                work.releases,
                model,
                shelved,
                work.snapshot,
                work.interactions,
                work.commit,
                work.key,
                popularity_half_life_days=half_life_days,
                offset=work.offset,
            )
    except (ReleaseError, ValueError) as why:
        made.unreleased = f"no release could be built: {why}"
        return
    with made.timed("probe"):
        made.infra = probe(made.release.folder, work.settings.infra, made.release.digest, {})


def short(name: str) -> str:
    """The name people use: the class of `FILE.py:Class` or `package.Class`."""
    return name.rpartition(":")[2].rpartition(".")[2]


def _quality(made: Attempt) -> str:
    if made.evaluation is None:
        return f"could not be evaluated: {made.fault}"
    return f"NDCG@10 {made.evaluation.mean(METRIC):.4f} on validation"

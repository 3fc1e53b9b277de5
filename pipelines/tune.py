"""Search a model's settings with Optuna on validation: day by day as deployed, hopeless trials stopped early."""

import hashlib
import inspect
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from conf.sections.training import Evaluate
from models import ranking
from models.base import Recommender
from models.interactions import Interactions
from pipelines.evaluate import evaluate

METRIC = "ndcg@10"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
STARTUP_TRIALS = 4  # random ones, before TPE and the pruner have anything to go by
WARMUP_DAYS = 3  # of validation, before a trial may be stopped: single days are noisy


@dataclass(frozen=True)
class Tuned:
    """The best settings, their value on validation (nan where no trial completed: then the defaults), all trials."""

    config: Any
    value: float
    trials: list[FrozenTrial]


def tune(
    cls: type[Recommender],
    interactions: Interactions,
    conf: Evaluate,
    *,
    trials: int,
    minutes: float | None,
    seed: int,
    storage: Path,
    report: Callable[[FrozenTrial], None] | None = None,
) -> Tuned:
    """Try at most `trials` settings (0: no limit but `minutes`), for at most `minutes`; the defaults are tried first.

    `interactions` ends where the test window begins; its last days are validation. A trial that raises, or whose value
    is not finite, is marked failed and the search goes on. Started again with the same `storage`, it goes on where it
    stopped. `report` is told each trial as it ends.
    """
    start_ms = ranking.start_of_last(interactions, conf.validation_days, conf.min_viewers)
    study = _study(cls, interactions, start_ms, seed, storage)
    left = trials - len(study.get_trials(deepcopy=False, states=FINISHED)) if trials else None
    if (left is None and minutes is not None) or (left is not None and left > 0):
        study.optimize(
            lambda trial: _value(cls, interactions, start_ms, seed, trial),
            n_trials=left,
            timeout=None if minutes is None else minutes * 60,
            catch=(Exception,),  # foreign model code runs in a trial and may raise anything
            callbacks=[lambda _, trial: report(trial)] if report else None,
        )
    return _tuned(cls, study)


def _study(cls: type[Recommender], interactions: Interactions, start_ms: int, seed: int, storage: Path) -> optuna.Study:
    """The study of this model on this data; another history in the same file is another study."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage.parent.mkdir(parents=True, exist_ok=True)
    name = f"{cls.__module__}.{cls.__qualname__} {_source(cls)} {start_ms}-{interactions.end_ms} {len(interactions)}"
    study = optuna.create_study(
        study_name=name,
        storage=_journal(storage),
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=WARMUP_DAYS),
        direction="maximize",
        load_if_exists=True,
    )
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(asdict(cls.Config()))
    return study


def _journal(storage: Path) -> JournalStorage:
    """The journal in that file; one that cannot be read is begun anew."""
    lock = JournalFileOpenLock(str(storage))  # plain open(O_EXCL): works where links cannot be made
    try:
        return JournalStorage(JournalFileBackend(str(storage), lock_obj=lock))
    except (ValueError, KeyError, AssertionError):
        storage.unlink()
        return JournalStorage(JournalFileBackend(str(storage), lock_obj=lock))


def _source(cls: type[Recommender]) -> str:
    """Of the model's file, as it is: settings found for other code are found anew."""
    try:
        return hashlib.sha256(inspect.getsource(inspect.getmodule(cls) or cls).encode()).hexdigest()[:12]
    except (OSError, TypeError):
        return "unknown"


def _value(cls: type[Recommender], interactions: Interactions, start_ms: int, seed: int, trial: optuna.Trial) -> float:
    """NDCG@10 on validation of the settings that `trial` suggests; stopped when it trails the median of the others."""

    def after(day: int, so_far: float) -> None:
        trial.report(so_far, day)
        if trial.should_prune():
            raise optuna.TrialPruned

    model = cls(cls.Config.suggest(trial), seed=seed).fit(interactions.before(start_ms))
    value = evaluate(model, interactions, start_ms, interactions.end_ms, each_day=after).mean(METRIC)
    if not math.isfinite(value):
        raise ValueError(f"{METRIC} on validation is {value}: nobody had anything to find there")
    return value


def _tuned(cls: type[Recommender], study: optuna.Study) -> Tuned:
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return Tuned(cls.Config(), math.nan, study.trials)
    best = cls.Config.suggest(optuna.trial.FixedTrial(study.best_params))
    return Tuned(best, study.best_value, study.trials)

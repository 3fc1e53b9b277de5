"""The process in which a candidate's code runs: `python -m pipelines.foreign MODEL SEED MEMORY_MB`.

It is told only what was known at the moment that is evaluated, one JSON line for each request on standard input, and
answers with one line on standard output; what the model prints goes to standard error. It ends with its parent.
"""

import dataclasses
import inspect
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from events.turns import step_aside
from models.base import Recommender, slates
from models.interactions import Catalogue, Histories, Interactions, LiveCounts
from models.shelf import ModelNotFound, Shelved, find
from pipelines.wire import read


def main() -> None:
    step_aside(0)
    name, seed, memory_mb = sys.argv[1:4]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    _live_with_parent()
    resource.setrlimit(resource.RLIMIT_DATA, (int(float(memory_mb) * 2**20),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _serve(Host(name, int(seed)), answers)


def _serve(host: "Host", answers: TextIO) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        number = request.pop("number")  # of the request, in every line that belongs to it: what a model writes has none

        def say(answer: dict[str, Any], number: int = number) -> None:
            answers.write(json.dumps({**answer, "number": number}) + "\n")

        host.tell = say
        try:
            answer = getattr(host, request.pop("do"))(**request)
        except BaseException as why:  # noqa: BLE001 - someone else's code ran and may have raised anything
            answer = {"fault": _explain(why)}
        say(answer)


class Host:
    """Answers the requests of `pipelines.candidate.Candidate`; every method returns plain values."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed = name, seed
        self.tell: Callable[[dict[str, Any]], None] = lambda line: None  # while a request is worked on
        self.catalogues: dict[str, Catalogue] = {}
        self.model: Recommender | None = None
        self._shelved: Shelved | None = None

    @property
    def shelved(self) -> Shelved:
        if self._shelved is None:
            self._shelved = find(self.name)
        return self._shelved

    def describe(self, config: dict[str, Any] | None, device: str) -> dict[str, Any]:
        """Make the model, or make it anew, and say what it is."""
        cls = self.shelved.cls
        cls.device = device
        _check_config(cls.Config)
        made = cls(None if config is None else cls.Config(**_tuples(config)), seed=self.seed)
        self.model = made
        source = self.shelved.source
        if source is None and cls.__module__.split(".")[0] != "models":
            source = Path(inspect.getsourcefile(cls) or "").absolute()
        return {
            "name": self.shelved.name,
            "module": cls.__module__,
            "qualname": cls.__qualname__,
            "source": str(source) if source else None,
            "config": _plain(dataclasses.asdict(made.config)),
        }

    def tune(
        self, history: str, conf: dict[str, Any], trials: int, minutes: float | None, storage: str
    ) -> dict[str, Any]:
        """Search the model's settings on validation; each trial is told as it ends."""
        from conf.sections.training import Evaluate
        from pipelines.tune import FINISHED, tune

        interactions = read(Path(history), Interactions, self.catalogues)
        found = tune(
            self.shelved.cls,
            interactions,
            Evaluate(**conf),
            trials=trials,
            minutes=minutes,
            seed=self.seed,
            storage=Path(storage),
            report=lambda trial: self.tell({"news": trial_facts(trial)}),
        )
        ended = [trial_facts(trial) for trial in found.trials if trial.state in FINISHED]
        return {"config": _plain(dataclasses.asdict(found.config)), "value": found.value, "trials": ended}

    def fit(self, history: str) -> dict[str, Any]:
        model = self._made()
        fitted = model.fit(read(Path(history), Interactions, self.catalogues))
        if fitted is not model:
            raise TypeError(f"fit must return the model itself, got {type(fitted).__name__}")
        half_lives = tuple(float(days) for days in model.half_lives_days)
        if not all(0 < days < float("inf") for days in half_lives):
            raise ValueError(f"half_lives_days must be positive numbers, got {half_lives}")
        curves = {str(name): [float(value) for value in values] for name, values in model.curves.items()}
        return {"half_lives_days": half_lives, "curves": curves}

    def slates(self, histories: str, live: str, now_ms: int, k: int) -> dict[str, Any]:
        """Slates of a batch, left as `items.npy` and `scores.npy` beside the batch."""
        batch = read(Path(histories), Histories, self.catalogues)
        made = slates(self._made(), batch, read(Path(live), LiveCounts, self.catalogues), now_ms, k)
        for name in ("items", "scores"):
            np.save(Path(histories).parent / f"{name}.npy", getattr(made, name), allow_pickle=False)
        return {"non_finite": made.non_finite}

    def save(self, folder: str) -> dict[str, Any]:
        self._made().save(Path(folder))
        return {}

    def _made(self) -> Recommender:
        if self.model is None:
            raise RuntimeError("the model was not made yet")
        return self.model


def trial_facts(trial: Any) -> dict[str, Any]:
    """An Optuna trial as plain values."""
    return {"number": trial.number, "params": trial.params, "value": trial.value, "state": trial.state.name}


def _check_config(config: Any) -> None:
    """TypeError where a model's Config is not what models/base.py asks for."""
    if not (isinstance(config, type) and dataclasses.is_dataclass(config) and _frozen(config)):
        raise TypeError("Config must be a frozen dataclass: put @dataclass(frozen=True) above it")
    missing = dataclasses.MISSING
    bare = [f.name for f in dataclasses.fields(config) if f.init and f.default is f.default_factory is missing]
    if bare:
        raise TypeError(f"Config has no default for {', '.join(bare)}: a model must run without being tuned")


def _frozen(config: Any) -> bool:
    return bool(config.__dataclass_params__.frozen)


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """The settings, which runs and manifests keep as JSON; TypeError names one that JSON does not hold."""
    for name, value in config.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise TypeError(f"Config.{name} = {value!r} is not plain: numbers, strings, lists of them") from None
    return config


def _tuples(value: Any) -> Any:
    """JSON has no tuples: lists of a frozen Config become tuples again."""
    if isinstance(value, list):
        return tuple(_tuples(part) for part in value)
    return {name: _tuples(part) for name, part in value.items()} if isinstance(value, dict) else value


def _explain(why: BaseException) -> str:
    """Kind, message and the place in the model's own file, in one line."""
    if isinstance(why, ModelNotFound):  # a whole sentence
        return " ".join(str(why).split())[:1000]
    message = " ".join(f"{type(why).__name__}: {why}".split())
    frames = [f for f in traceback.extract_tb(why.__traceback__) if Path(f.filename).name != "foreign.py"]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{message}{where}"[:1000]


def _live_with_parent() -> None:
    """End, with everything this process started, when the training is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()

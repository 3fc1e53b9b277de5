"""Where models are found: by short name, by `package.module.Class`, or by `FILE.py:Class`."""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from models.base import Recommender

SHELF = {
    "popularity": "models.popularity.Popularity",
    "ease": "models.ease.EASE",
    "als": "models.als.ALS",
    "ranker": "models.ranker.Ranker",
    "sasrec": "models.sasrec.SASRec",
}


class ModelNotFound(Exception):
    """A model could not be found or loaded; the message names it, what is wrong and what is nearest."""


@dataclass(frozen=True)
class Shelved:
    """A model class with the name people use for it; `source` is its file where it lives outside the tree."""

    name: str
    cls: type[Recommender]
    source: Path | None


def find(name: str) -> Shelved:
    """The model that `name` means. Runs the file it names: name only files that you trust."""
    if name in SHELF:
        return Shelved(name, _member(SHELF[name], name), None)
    file, colon, cls = name.rpartition(":")
    if colon and file.endswith(".py"):
        path = Path(file).absolute()
        return Shelved(cls, _class_in(load_file(path), cls, name), path)
    if "." in name and not name.endswith(".py"):
        return Shelved(name.rpartition(".")[2], _member(name, name), None)
    raise ModelNotFound(_unknown(name))


def load_file(path: Path) -> ModuleType:
    """The module in a file, under a name made of its bytes: the same file is the same module, an edited one is not."""
    try:
        source = path.read_bytes()
    except OSError as why:
        raise ModelNotFound(f"{path}: cannot be read: {why.strerror}") from why
    name = f"outside_model_{hashlib.sha256(source).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelNotFound(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except SyntaxError as why:
        del sys.modules[name]
        where = f"{path}, line {why.lineno}" if why.lineno else f"{path}"
        raise ModelNotFound(f"{where}: {why.msg}") from why
    except ModuleNotFoundError as why:
        del sys.modules[name]
        beside = path.with_name(f"{(why.name or '').partition('.')[0]}.py").exists()
        helps = "; a model is one file, which travels alone: put what it needs from that file into it" if beside else ""
        raise ModelNotFound(f"{path} cannot be loaded: {why}{helps}") from why
    except (Exception, SystemExit) as why:
        del sys.modules[name]
        raise ModelNotFound(f"{path} raised {type(why).__name__} when it was loaded: {why}") from why
    return module


def _member(dotted: str, name: str) -> type[Recommender]:
    module, _, cls = dotted.rpartition(".")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # `package.module.Class` may be in the working directory
    try:
        return _class_in(importlib.import_module(module), cls, name)
    except ModuleNotFoundError as why:
        raise ModelNotFound(f"{_unknown(name)} ({why})") from why
    except SyntaxError as why:
        raise ModelNotFound(f"{why.filename}, line {why.lineno}: {why.msg}") from why


def _class_in(module: ModuleType, cls: str, name: str) -> type[Recommender]:
    found = getattr(module, cls, None)
    if not inspect.isclass(found):
        classes = [
            n for n, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__
        ]
        raise ModelNotFound(f"model {name}: no class {cls!r} there{_nearest(cls, classes)}")
    abstract: frozenset[str] = getattr(found, "__abstractmethods__", frozenset())
    if missing := [m for m in ("fit", "score") if m in abstract or not callable(getattr(found, m, None))]:
        raise ModelNotFound(f"model {name}: {cls} has no method {' and no '.join(missing)}; see models/base.py")
    if not issubclass(found, Recommender):
        raise ModelNotFound(f"model {name}: {cls} must derive from models.base.Recommender")
    return found


def _unknown(name: str) -> str:
    return (
        f"no model {name!r}: name one of {', '.join(SHELF)}, package.module.Class or FILE.py:Class"
        f"{_nearest(name, list(SHELF))}"
    )


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"; did you mean {near[0]}?" if near else ""

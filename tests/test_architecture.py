"""The tree shows the architecture: imports run downward, and each large dependency has its few files."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.latest import SOURCE

ROOT = Path(__file__).parents[1]
ORDER = ("conf", "events", "models", "mlflow_server", "monitoring", "serving", "pipelines", "greenlight", "benchmarks")
ALLOWED = {  # who may import what; a name that ends in / is a folder
    "mlflow": {
        "mlflow_server/app.py",
        "mlflow_server/pages.py",
        "mlflow_server/registry.py",
        "mlflow_server/pyfunc.py",
        "benchmarks/",
    },
    "bentoml": {"serving/service.py", "serving/edge.py", "pipelines/package.py", "benchmarks/"},
    "optuna": {"pipelines/tune.py", "models/"},
    "apsw": {"events/local_log.py", "events/log_file.py"},
    "implicit": {"models/als.py", "benchmarks/"},
    "sklearn": {"models/lift.py"},
    "kafka": {
        "events/kafka_groups.py",
        "events/kafka_link.py",
        "events/kafka_log.py",
        "events/kafka_topics.py",
        "events/kafka_partitions.py",
        "events/producing.py",
        "events/relay.py",
        "events/sources/topic.py",
        "benchmarks/",
    },
    "evidently": {"monitoring/evidently_report.py"},
    "apscheduler": {"pipelines/cron.py"},
    "boto3": {"events/bucket.py", "pipelines/ses.py"},
    "redis": {"serving/redis_link.py"},
    "torch": {"models/sasrec_fit.py"},
}
NEVER = {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}


def sources() -> list[Path]:
    return sorted(p for top in ORDER for p in [*(ROOT / top).rglob("*.py"), ROOT / f"{top}.py"] if p.exists())


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules a file imports, wherever in it, those under TYPE_CHECKING included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the order"
            yield node.module or ""


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downward(path: Path) -> None:
    own = ORDER.index(path.relative_to(ROOT).parts[0].removesuffix(".py"))
    upward = [name for name in imports(path) if name.split(".")[0] in ORDER[own + 1 :]]
    assert not upward, f"{path.relative_to(ROOT)} imports from below: {upward}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_large_dependencies_stay_in_their_files(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    for module in {m.split(".")[0] for m in imports(path)}:
        assert module not in NEVER, f"{name} imports {module}"
        homes = ALLOWED.get(module)
        assert homes is None or any(name == h or (h.endswith("/") and name.startswith(h)) for h in homes), (
            f"{name} imports {module}; allowed in {sorted(homes or ())}"
        )


def test_only_conf_reads_the_environment() -> None:
    for path in sources():
        if path.relative_to(ROOT).parts[0] not in ("conf", "benchmarks"):
            reads = [
                node.lineno
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
            ]
            assert not reads, f"{path.relative_to(ROOT)} reads the environment in lines {reads}"


def test_every_package_is_installed() -> None:
    find = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {pattern.removesuffix("*") for pattern in find} == set(ORDER) - {"greenlight", "benchmarks"}


def test_a_bento_has_every_file_of_ours_that_its_files_import() -> None:
    inside = {path for pattern in SOURCE for path in ROOT.glob(pattern)}
    lacking = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in inside
        if path.suffix == ".py"
        for name in imports(path)
        if name.split(".")[0] in ORDER and not {_file(name), ROOT / Path(*name.split("."), "__init__.py")} & inside
    }
    assert lacking == set()


def _file(name: str) -> Path:
    return ROOT / Path(*name.split(".")).with_suffix(".py")

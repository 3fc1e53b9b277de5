"""What every test may use: an empty home, homes made once for the whole run, real programs or a skip with a reason."""

import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from conf.environment import mlflow_storage
from conf.home import Home
from conf.sections.storage import Storage
from models.shelf import load_file
from pipelines.broker import BrokerError, java
from tests import quarter as quarters
from tests import town

Once = Callable[[str, Callable[[Path], None]], Path]

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test workers share two cores
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:  # under nohup or in the background; what tests start must hear it
        signal.signal(number, lambda *_: None)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").open()


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """`once("town", make)` is a folder that `make` filled, once for all processes of the test run. Read it; do not
    change it. Where `make` fails, the next who asks tries again."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared

    def filled(name: str, make: Callable[[Path], None]) -> Path:
        folder, whole = shared / name, shared / f"{name}.whole"
        with FileLock(shared / f"{name}.lock"):
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                whole.touch()
        return folder

    return filled


@pytest.fixture(scope="session")
def quarter(once: Once) -> Home:
    """`tests/quarter.py`. Copy it (`fresh_home`) where you write."""
    return Home(once("quarter", quarters.make) / "home")


@pytest.fixture
def fresh_home(quarter: Home, tmp_path: Path) -> Callable[[str], Home]:
    """`fresh_home(name)` is a copy of the quarter that a test may train in."""

    def copy(name: str = "home") -> Home:
        shutil.copytree(quarter.root, tmp_path / name)
        return Home(tmp_path / name)

    return copy


@pytest.fixture
def townhome(once: Once, tmp_path: Path) -> Home:
    """A copy of `tests/town.py`: four judged versions, the first in charge."""
    settled = once("town", lambda folder: town.settle(Home(folder / "home").open()))
    shutil.copytree(settled / "home", tmp_path / "town")
    return Home(tmp_path / "town")


@pytest.fixture
def need() -> Callable[[str], str]:
    """`need("strace")` is the program's path, or a skip with a reason; a failure where services are required."""

    def look(program: str) -> str:
        path = shutil.which(program)
        if path is None and os.environ.get("GREENLIGHT_REQUIRE_SERVICES"):
            pytest.fail(f"{program} is not installed and GREENLIGHT_REQUIRE_SERVICES is set")
        if path is None:
            pytest.skip(f"{program} is not installed: `make services` installs it")
        return path

    return look


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a local S3 (moto stands for Amazon's)."""
    s3 = load_file(Path(__file__).parent / "faults" / "s3.py")
    with s3.moto(tmp_path_factory.mktemp("moto") / "moto.log") as url:
        yield url


@pytest.fixture
def storage(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A new bucket in it, and the credentials in the environment."""
    for name, value in (("ACCESS_KEY_ID", "AKIAFORTESTS"), ("SECRET_ACCESS_KEY", "hush-hush")):
        monkeypatch.setenv(f"AWS_{name}", value)
    made = Storage(bucket=f"bucket-{uuid.uuid4()}", endpoint=s3_url, region="us-east-1", timeout_s=20, attempts=3)
    for name in mlflow_storage(made):  # what a training sets for MLflow is taken back after the test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    s3 = load_file(Path(__file__).parent / "faults" / "s3.py")
    s3.client(s3_url).create_bucket(Bucket=made.bucket)
    return made


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running Kafka broker (`tests/faults/broker.py`), one for the whole run: take topic prefixes of your own, and
    never stop it. A skip with a reason where there is no Kafka; a failure where services are required."""
    broker = load_file(Path(__file__).parent / "faults" / "broker.py")
    try:
        java()
    except BrokerError as why:
        if os.environ.get("GREENLIGHT_REQUIRE_SERVICES"):
            pytest.fail(f"{why}; and GREENLIGHT_REQUIRE_SERVICES is set")
        pytest.skip(str(why))
    with broker.Broker(tmp_path_factory.mktemp("kafka")) as running:
        yield running

"""A home with a quarter of MovieTweetings' last viewers: real ratings, seconds to train on."""

import gzip
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conf.home import Home
from conf.settings import Settings
from mlflow_server.registry import make_database
from pipelines.data import import_data
from pipelines.snapshot import cut
from tests.pipelines import town

DATA = Path(__file__).parents[2] / "events" / "sources" / "data" / "movietweetings"
DAYS, SHARE = 60, 4


@pytest.fixture(scope="session")
def quarter(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The home, its snapshot cut. Copy it (`fresh_home`) where you write."""
    folder = tmp_path_factory.mktemp("quarter")
    with gzip.open(DATA / "ratings.dat.gz", "rt") as file:
        rows = [line.rstrip("\n").split("::") for line in file]
    newest = max(int(row[3]) for row in rows)
    kept = [r for r in rows if int(r[3]) > newest - DAYS * 86_400 and _drawn(r[0])]
    seen = {row[1] for row in kept}
    with gzip.open(DATA / "movies.dat.gz", "rt") as file:
        movies = [line for line in file if line.split("::")[0] in seen]
    source = folder / "movietweetings"
    source.mkdir()
    (source / "ratings.dat").write_text("".join("::".join(row) + "\n" for row in kept))
    (source / "movies.dat").write_text("".join(movies))
    home = Home(folder / "home").open()
    import_data(home, Settings(), source, dialect="movietweetings")
    cut(home, Settings())
    make_database(home)
    return home


@pytest.fixture
def fresh_home(quarter: Home, tmp_path: Path) -> Callable[[str], Home]:
    """`fresh_home(name)` is a copy of the quarter that a test may train in; it holds MLflow's empty database."""

    def copy(name: str = "home") -> Home:
        shutil.copytree(quarter.root, tmp_path / name)
        return Home(tmp_path / name)

    return copy


def _drawn(user: str) -> bool:
    return hashlib.blake2b(user.encode(), digest_size=2).digest()[0] % SHARE == 0


@pytest.fixture(scope="session")
def settled(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("town") / "home").open()
    town.settle(home)
    return home


@pytest.fixture
def townhome(settled: Home, tmp_path: Path) -> Home:
    """A copy of `town`: four judged versions, the first in charge."""
    shutil.copytree(settled.root, tmp_path / "town")
    return Home(tmp_path / "town")

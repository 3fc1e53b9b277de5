"""A home with a quarter of MovieTweetings' last viewers: real ratings, seconds to train on."""

import gzip
import hashlib
from pathlib import Path

from conf.home import Home
from conf.settings import Settings
from mlflow_server.registry import make_database
from pipelines.data import import_data
from pipelines.snapshot import cut

DATA = Path(__file__).parents[1] / "events" / "sources" / "data" / "movietweetings"
DAYS, SHARE = 60, 4
# settings of a training on it, for seconds
QUICK = {"train": {"popularity_trials": 2}, "infra": {"golden_requests": 10}, "evaluate": {"bootstrap": 300}}


def make(folder: Path) -> None:
    """The home is `folder / "home"`: its snapshot is cut, and MLflow's database is there and empty."""
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


def _drawn(user: str) -> bool:
    return hashlib.blake2b(user.encode(), digest_size=2).digest()[0] % SHARE == 0

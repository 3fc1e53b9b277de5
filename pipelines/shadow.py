"""A registered version in the shadow: it is opened here and asked for slates that nobody gets and no journal holds."""

import time
from collections.abc import Iterable

from conf.home import Home
from conf.settings import Settings
from events.archive import read_topic
from events.event import CATALOGUE
from events.state import COLUMNS, act_of
from events.store import Store
from mlflow_server import release
from mlflow_server.depot import Depot
from mlflow_server.ledger import SigningKey
from models.base import slates
from pipelines.recorded import Did, Wish
from serving.live import Live


class ShadowError(Exception):
    """The model failed on one request; the message says how, in a few words."""


class Shadow:
    """Live state over a release that follows what it is told of. learned_until_ms: the end of what the release was made
    from: it knows what happened before. ReleaseError where the release is nowhere, or damaged."""

    def __init__(self, home: Home, settings: Settings, digest: str) -> None:
        loaded = release.load(Depot(home, settings.storage).folder(digest), SigningKey(home.keys).public)
        follows = settings.model_copy(update={"clock": "event"})  # whatever the home's is: now is the recorded moment
        self._model = loaded.model
        self._live = Live(loaded.viewers, loaded.live, loaded.popular, loaded.catalogue, loaded.manifest, follows)
        self.model_name, self.learned_until_ms = loaded.manifest.model, loaded.manifest.end_ms

    def open_catalogue(self, store: Store) -> None:
        """Take in the movies whose lines the release does not hold."""
        rows = read_topic(store, CATALOGUE, COLUMNS[CATALOGUE]).sort_by("offset").to_pylist()
        new = [act for row in rows if row["offset"] > self._live.offset and (act := act_of(row["offset"], row))]
        self._live.apply(new)

    def take(self, acts: Iterable[Did]) -> None:
        """What viewers did, in the order of time; what the release holds already changes nothing."""
        self._live.apply([act for did in acts if (act := act_of(did.offset, did.fields))])

    def slate(self, wish: Wish, k: int) -> tuple[list[str], float]:
        """The movies, best first, and how many ms it took. ShadowError where the model fails."""
        begun, live = time.perf_counter(), self._live
        now_ms = max(wish.ts, live.now_ms)
        live.settle(now_ms)
        try:
            made = slates(self._model, live.history(wish.user_id), live.counts, now_ms, k)
        except Exception as why:  # a model's own code runs here and may raise anything
            raise ShadowError(f"the model raised {type(why).__name__}") from why
        names = live.names.ids
        return [names[code] for code in made.items[0].tolist() if code >= 0], 1000 * (time.perf_counter() - begun)

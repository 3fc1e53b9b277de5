"""Live state over one release: histories, seen movies and decayed counts that follow the log.

It starts as the release was built and takes in what viewers did since. One thread applies; requests read at any time:
each viewer's record, the counts and the ranking are replaced whole.
"""

from dataclasses import dataclass

import numpy as np

from mlflow_server.release import Popular
from mlflow_server.viewers import Viewers
from models.interactions import Catalogue, Histories, LiveCounts


@dataclass(frozen=True, eq=False)
class Names:
    """Ids and titles by code, as plain lists that only grow: reading one is ten times faster than from an array."""

    ids: list[str]
    titles: list[str]


class Live:
    """names, counts (fading to `now_ms`), popular (the ranking by them) and, per viewer, history and seen movies.

    offset: of the log, up to which it has followed; now_ms: the newest time of a viewer event, at least the release's
    moment; order: changes when the ranking does.
    """

    def __init__(self, viewers: Viewers, counts: LiveCounts, popular: Popular, catalogue: Catalogue) -> None:
        self._viewers = viewers
        self.counts, self.popular = counts, popular
        self.names = Names(catalogue.ids.tolist(), catalogue.titles.tolist())
        self.offset, self.now_ms, self.order = 0, popular.end_ms, ""

    @property
    def known(self) -> list[str]:
        """Viewers of the release, for warming up."""
        return list(self._viewers.rows)

    def history(self, user_id: str) -> Histories:
        """The history of one viewer, as a batch of one; empty for a viewer never seen."""
        return self._viewers.history(user_id)

    def seen(self, user_id: str) -> np.ndarray:
        """(n,) codes of all the movies that the viewer has interacted with."""
        return self.history(user_id).seen_items

    def seen_ids(self, user_id: str, ids: list[str]) -> set[str]:
        """Those of `ids` that the viewer has interacted with."""
        names = self.names.ids
        return {names[code] for code in self.seen(user_id).tolist()} & set(ids)

    def mark(self, user_id: str) -> str:
        """Changes whenever a slate made earlier for this viewer is out of date."""
        return self.order

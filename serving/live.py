"""Live state over one release: histories, seen movies and decayed counts that follow the log.

It starts as the release was built and takes in what viewers did since; an act that the release holds already changes
nothing. One thread applies; requests read at any time: a pair of viewer and movie, the counts and the ranking are each
replaced whole.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import numpy as np

from conf.settings import Settings
from events.state import Act, Acts
from mlflow_server.release import Manifest, Popular
from mlflow_server.viewers import Met, Viewers
from models.interactions import Catalogue, Histories, LiveCounts
from models.pieces import listed
from serving.pairs import history_with, met_after
from serving.passing import SLATES
from serving.tally import Tally

BATCH = 500  # acts of one `follow`: a few milliseconds
SLICE = 50  # acts between two looks at whether a slate is being made: it waits no longer than for these
MAX_NEW_MOVIES = 10_000  # beyond the release's: a stream of invented ids must not fill the memory
SETTLE_MS = 1_000  # between two publications of counts and ranking
ORDER_MS = 2_000  # between two looks at whether the ranking's order has changed
IDLE_MS = 10_000  # and between two publications while nothing happens but time
RANKED = 100  # places of the ranking whose order is watched

Prepare = Callable[[LiveCounts], object]


def no_one(counts: LiveCounts) -> None:
    """Where nobody has anything to make of new counts."""


@dataclass(frozen=True, eq=False)
class Names:
    """Ids and titles by code, as plain lists that only grow: reading one is ten times faster than from an array."""

    ids: list[str]
    titles: list[str]


@dataclass(eq=False)
class Since:
    """A viewer's pairs that came or changed since the release, the offset of the last change, the history made of them.

    A pair is put in place before the offset is moved, so who reads the offset first never takes a history for newer
    than it is.
    """

    pairs: dict[int, Met] = field(default_factory=dict)
    offset: int = 0
    made: tuple[int, Histories] | None = None  # with the offset it was made at


class Live:
    """names, counts (fading to the home's now), popular (the ranking by them) and, per viewer, history and seen movies.

    offset: of the log, up to which it has followed; now_ms: just after the newest viewer event, at least the release's
    moment; order: changes when the ranking does.
    """

    def __init__(
        self,
        viewers: Viewers,
        counts: LiveCounts,
        popular: Popular,
        catalogue: Catalogue,
        manifest: Manifest,
        settings: Settings,
    ) -> None:
        self._viewers, self._settings = viewers, settings
        self.counts, self.popular = counts, popular
        self.names = Names(listed(catalogue.ids), listed(catalogue.titles))
        self.offset, self.now_ms = manifest.offset, popular.end_ms
        self.began: int | None = None  # the offset from which it has followed a log; the release's may not be of it
        self.order = _order(popular)
        self._tally = Tally(viewers, counts, manifest.popularity_half_life_days)
        self.codes = dict(catalogue.index)  # of each movie id; only grows, as the names do
        self._since: dict[str, Since] = {}
        self._genres: dict[int, tuple[str, ...]] = {}  # of movies whose catalogue line came since
        self._genre_names = list(catalogue.genre_names)
        self._renamed = False
        self._settled_ms = self._ordered_ms = -IDLE_MS

    # What requests read -----------------------------------------------------------------------------------------------

    @property
    def rows(self) -> dict[str, int]:
        """The row of each viewer of the release."""
        return self._viewers.rows

    @property
    def known(self) -> list[str]:
        """Viewers of the release, for warming up."""
        return list(self.rows)

    @property
    def lately(self) -> list[str]:
        """Viewers who did something since the release."""
        return list(self._since)

    def history(self, user_id: str) -> Histories:
        """The history of one viewer, as a batch of one; empty for a viewer never seen.

        It holds no movie that `counts`, read afterwards, do not know.
        """
        catalogue, since = self.counts.catalogue, self._since.get(user_id)
        if since is None:
            made = self._viewers.history(user_id)
            return made if made.catalogue is catalogue else replace(made, catalogue=catalogue)
        offset, made_before = since.offset, since.made
        if made_before is not None and made_before[0] == offset and made_before[1].catalogue is catalogue:
            return made_before[1]
        made = history_with(self._viewers, user_id, since.pairs.copy(), catalogue)
        since.made = offset, made
        return made

    def seen(self, user_id: str) -> np.ndarray:
        """(n,) codes of all the movies that the viewer has interacted with."""
        return self.history(user_id).seen_items

    def seen_ids(self, user_id: str, ids: list[str]) -> set[str]:
        """Those of `ids` that the viewer has interacted with."""
        names = self.names.ids
        return {names[code] for code in self.seen(user_id).tolist()} & set(ids)

    def mark(self, user_id: str) -> str:
        """Changes whenever a slate made earlier for this viewer is out of date. The same in all workers."""
        since = self._since.get(user_id)
        return f"{self.order}:{since.offset if since else 0}"

    # What the thread that follows does --------------------------------------------------------------------------------

    def follow(self, acts: Acts, limit: int = BATCH) -> bool:
        """Take in the next acts; True where there may be more. LogError or StoreError where they cannot be read."""
        if self.began is None:
            begins = acts.start(self.offset)
            if begins is None:
                return False
            self.offset = self.began = begins
        batch = acts.since(self.offset, limit)
        self.apply(batch.acts)
        self.offset = batch.offset
        return batch.more

    def apply(self, acts: list[Act]) -> None:
        """Take in what viewers did and which movies came, in the order of the log."""
        for number, act in enumerate(acts, 1):
            if act.kind == "movie":
                self._movie(act)
            else:
                self.now_ms = max(self.now_ms, act.ts + 1)
                if act.movie_id:
                    self._interaction(act)
            if number % SLICE == 0:
                SLATES.wait()

    def adopt(self, other: "Live", lines: Acts) -> None:
        """Be where `other` is, if it has followed the same log from no later on than this release was made. A pair is
        one step then, however many acts it took; what has changed nothing since then changes nothing here.

        lines: of the catalogue. LogError or StoreError where they cannot be read.
        """
        offset, now_ms = other.offset, other.now_ms  # before its pairs: an act that comes twice makes no difference
        whole = other.began is not None and other.began <= self.offset < offset
        whole = whole and len(other.names.ids) < other._newest_code
        if self.began is not None or not whole or lines.start(self.offset) != self.offset:
            return
        for movie in list(other.names.ids):  # new ones get their codes in the order of the log
            self._code(movie)
        at, more = self.offset, True
        while more and at < offset:
            batch = lines.since(at, BATCH)
            self.apply(batch.acts)
            at, more = batch.offset, batch.more
        for number, (user_id, since) in enumerate(list(other._since.items()), 1):
            if since.offset > self.offset:
                self._adopt(user_id, since, other.names.ids)
            if number % SLICE == 0:
                SLATES.wait()
        self.now_ms, self.began, self.offset = max(self.now_ms, now_ms), self.offset, offset

    def _adopt(self, user_id: str, since: Since, ids: list[str]) -> None:
        mine, row = Since(offset=since.offset), self._viewers.rows.get(user_id)
        for theirs, new in since.pairs.copy().items():
            code = self._code(ids[theirs])
            old = None if row is None or code is None else self._viewers.met(row, code)
            if code is not None and new != old:
                mine.pairs[code] = new
                self._tally.note(code, old, new)
        if mine.pairs:
            self._since[user_id] = mine

    def settle(self, wall_ms: int, prepare: Prepare = no_one) -> None:
        """Publish counts and ranking as of the home's now, where that is due. Cheap where nothing changed.

        prepare: sees the counts before requests do.
        """
        wall = self._settings.clock == "wall"
        as_of_ms = max(wall_ms if wall else self.now_ms, self.counts.as_of_ms)
        news = self._tally.noted or self._renamed or len(self.names.ids) > len(self.counts.catalogue)
        due_ms = SETTLE_MS if news else IDLE_MS
        if abs(wall_ms - self._settled_ms) >= due_ms and (news or as_of_ms > self.counts.as_of_ms):
            self._tally.bring_up(as_of_ms, self._catalogue())
            prepare(self._tally.counts)
            self.counts, self.popular = self._tally.counts, self._tally.popular()
            self._settled_ms = wall_ms
        if abs(wall_ms - self._ordered_ms) >= ORDER_MS:
            self.order, self._ordered_ms = _order(self.popular), wall_ms

    def _interaction(self, act: Act) -> None:
        code = self._code(act.movie_id)
        if code is None:
            return
        since, row = self._since.get(act.user_id), self._viewers.rows.get(act.user_id)
        old = since.pairs.get(code) if since else None
        if old is None and row is not None:
            old = self._viewers.met(row, code)
        new = met_after(old, act, self._settings.snapshot)
        if new is None or new is old:
            return
        if since is None:
            since = self._since[act.user_id] = Since()
        since.pairs[code] = new
        since.offset = act.offset
        self._tally.note(code, old, new)

    def _movie(self, act: Act) -> None:
        """A line of the catalogue: the newest one counts."""
        code = self._code(act.movie_id)
        if code is None:
            return
        self.names.titles[code] = act.title
        self._genres[code] = act.genres
        self._genre_names += [genre for genre in dict.fromkeys(act.genres) if genre not in self._genre_names]
        self._renamed = True

    def _code(self, movie_id: str) -> int | None:
        """The movie's code, a new one for a new movie; None where there are too many new ones."""
        code = self.codes.get(movie_id)
        if code is None and len(self.names.ids) < self._newest_code:
            code = len(self.names.ids)
            self.names.titles.append("")
            self.names.ids.append(movie_id)
            self.codes[movie_id] = code  # last: who finds the code finds its names
        return code

    @property
    def _newest_code(self) -> int:
        return len(self._viewers.histories.catalogue) + MAX_NEW_MOVIES

    def _catalogue(self) -> Catalogue:
        """Today's catalogue: the one that is published where nothing has changed."""
        last, ids = self.counts.catalogue, self.names.ids
        if not self._renamed and len(ids) == len(last):
            return last
        genres = np.zeros((len(ids), len(self._genre_names)), bool)
        genres[: len(last), : len(last.genre_names)] = last.genres
        place = {name: column for column, name in enumerate(self._genre_names)}
        for code, names in self._genres.items():
            genres[code] = False
            genres[code, [place[name] for name in names]] = True
        self._genres, self._renamed = {}, False
        return last.extended(ids[len(last) :], self.names.titles, genres, tuple(self._genre_names))


def _order(popular: Popular) -> str:
    return blake2b(np.ascontiguousarray(popular.codes[:RANKED], np.int32).tobytes(), digest_size=8).hexdigest()

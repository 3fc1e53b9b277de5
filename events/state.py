"""What live state is made of: what viewers did and which movies came, in the order in which the log stored it.

`Acts` reads the archive where the log has dropped what it holds, or begins later, and then the log. It is made for
speed: stored bodies are parsed as they are, and one that is no whole act is passed over: the archive puts it into the
dead letter.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import orjson

from conf.home import Home
from conf.settings import Settings
from events.event import CATALOGUE, EVENTS
from events.local_log import LocalLog
from events.reading import opened, reading_log
from events.store import history_store

if TYPE_CHECKING:
    import pyarrow as pa

TOPICS = (EVENTS, CATALOGUE)
COLUMNS = {
    EVENTS: ("offset", "kind", "ts", "user_id", "movie_id", "minute", "rating", "scale"),
    CATALOGUE: ("offset", "kind", "ts", "movie_id", "title", "genres"),
}
LAST_MINUTE = 100_000

Kind = Literal["rating", "watch", "click", "account", "movie"]
KINDS = frozenset(get_args(Kind))


class Act(NamedTuple):
    """One event in brief. value: a rating's strength, a watch's minute, else 0. An account has no movie, a movie no
    user; title and genres are a movie's. ts in ms."""

    offset: int
    kind: Kind
    ts: int
    user_id: str
    movie_id: str
    value: float = 0
    title: str = ""
    genres: tuple[str, ...] = ()


class Batch(NamedTuple):
    """Acts by offset, and the offset up to which there are no others. `more`: there may be more beyond it now."""

    acts: list[Act]
    offset: int
    more: bool


class Acts:
    """Reads a home's acts from any offset on, of all topics or some. For one thread. A log that is not there yet holds
    none."""

    def __init__(self, home: Home, settings: Settings, topics: tuple[str, ...] = TOPICS) -> None:
        self._home, self._settings, self._topics = home, settings, topics
        self._log: LocalLog | None = None
        self._archived: pa.Table | None = None  # what the log has dropped, by offset
        self._span = (0, 0)  # of offsets, of which the archive was read

    def start(self, offset: int) -> int | None:
        """Where to begin for one who knows what was stored up to an offset: there, or, where that is not an offset of
        this log, at the beginning. None while there is no log. An act that comes twice must make no difference."""
        log = self._opened()
        if log is None:
            return None
        return offset if log.gave(offset) else 0

    def since(self, after: int, limit: int) -> Batch:
        """The next acts after an offset, at most `limit` (of the log; a few more where the archive fills gaps).

        LogError or StoreError where it cannot be read; asking again tries again.
        """
        log = self._opened()
        if log is None:
            return Batch([], after, False)
        newest = log.newest()
        if newest <= after:
            return Batch([], after, False)
        rows = log.raw(self._topics, after, newest, limit)
        offset = rows[-1][0] if len(rows) == limit else newest
        if (dropped := self._dropped(after, offset)) > after:
            return self._with_archive(after, dropped, limit)
        self._archived = None
        return Batch(_acts(rows), offset, offset < newest)

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def _opened(self) -> LocalLog | None:
        if self._log is None or self._log.gone:
            self._log = opened(reading_log(self._home, self._settings), self._log)
        return self._log

    def _dropped(self, after: int, to: int) -> int:
        """The last offset up to which the log may have dropped something between the two; `after` where it has not.

        Offsets have no gaps: where as many records stand there as there are offsets, nothing was dropped.
        """
        assert self._log is not None
        firsts = [self._log.first(topic) for topic in self._topics]
        end = min(to, max(to if first is None else first - 1 for first in firsts))
        if end <= after or self._log.held(after, end + 1) == end - after:
            return after
        return end

    def _with_archive(self, after: int, to: int, limit: int) -> Batch:
        """Acts up to an offset from the archive, and from the log what is there: an act that both hold comes once."""
        assert self._log is not None
        if self._archived is None or not self._span[0] <= after < to <= self._span[1]:
            self._span = after, self._log.newest()
            self._archived = _archived(self._home, self._settings, self._topics, after)
        offsets = self._archived["offset"].to_numpy()
        start, stop = offsets.searchsorted([after, to], side="right").tolist()
        part = self._archived.slice(start, min(stop - start, limit))
        offset = to if start + len(part) == stop else int(offsets[start + len(part) - 1])
        found = {act.offset: act for act in _acts_of_rows(part)}
        found |= {act.offset: act for act in _acts(self._log.raw(self._topics, after, offset, limit=offset - after))}
        return Batch([found[n] for n in sorted(found)], offset, True)


def _archived(home: Home, settings: Settings, topics: tuple[str, ...], after: int) -> "pa.Table":
    """The acts of the archive after an offset, by offset."""
    import pyarrow as pa  # a server that never needs the archive is spared its memory
    import pyarrow.compute as pc

    from events.archive import read_topic

    store = history_store(home, settings.storage)
    parts = [read_topic(store, topic, COLUMNS[topic]) for topic in topics]
    whole = pa.concat_tables(parts, promote_options="default")
    return whole.filter(pc.greater(whole["offset"], after)).sort_by("offset")


def _acts_of_rows(table: "pa.Table") -> Iterable[Act]:
    for row in table.to_pylist():
        if act := act_of(row["offset"], row):
            yield act


def _acts(rows: Iterable[tuple[int, bytes]]) -> list[Act]:
    acts = []
    for offset, body in rows:
        try:
            act = act_of(offset, orjson.loads(body))
        except orjson.JSONDecodeError:
            continue
        if act is not None:
            acts.append(act)
    return acts


def act_of(offset: int, fields: Any) -> Act | None:
    """The act of one record's fields; None where they are not whole."""
    try:
        kind, ts, user, movie = fields["kind"], fields["ts"], fields.get("user_id"), fields.get("movie_id")
        if kind == "movie":
            act = Act(offset, kind, ts, "", movie, 0, fields["title"] or "", tuple(fields["genres"] or ()))
        elif kind == "rating":
            act = Act(offset, kind, ts, user, movie, fields["rating"] / fields["scale"])
        elif kind == "watch":
            act = Act(offset, kind, ts, user, movie, fields["minute"])
        else:
            act = Act(offset, kind, ts, user, movie or "")
        return act if _whole(act) else None
    except (KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None


def _whole(act: Act) -> bool:
    kind, user, movie = act.kind, act.user_id, act.movie_id
    if type(act.ts) is not int or act.ts < 0 or type(user) is not str or type(movie) is not str or kind not in KINDS:
        return False
    if not movie if kind != "account" else movie:
        return False
    if kind == "movie":
        return type(act.title) is str and all(type(genre) is str for genre in act.genres)
    return bool(user) and 0 <= act.value <= (LAST_MINUTE if kind == "watch" else 1)

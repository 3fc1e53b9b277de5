"""Viewers who come by day, act by themselves, and react to the slates they are served; and the truth about them.

A movie is clicked when the viewer looks at its place and it appeals: the position-based click model of Craswell,
Zoeter, Taylor and Ramsey (2008), whose examination falls with the place p as p^-bias (Joachims, Swaminathan and
Schnabel 2017). What it appeals by is how much it is talked about and the viewer's taste; whether it is then liked, by
taste, its quality and the viewer's generosity. So the best slate for a viewer is known, and what any slate is worth.

    audience = Audience.fitted(movies, acts, settings.audience, seed=1)
    for day in range(28):
        post(audience.organic(day))                        # new movies, and viewers who ask for no slate
        for visit in audience.visits(day):
            request_id, slate = get_slate(visit.user_id)   # from the real API
            post(audience.react(visit.user_id, slate, visit.ts, request_id))
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple, Self

import numpy as np

from conf.errors import PlainError
from conf.sections.audience import AudienceConf
from events.event import AnyEvent, Movie, content_id
from events.sources.audience import fitted, fresh
from events.sources.audience.acting import DRAWS, NAME, STEP_MS, Chunk, Deed, account, deeds, ends, in_order
from events.sources.audience.chance import draws, uniforms
from events.sources.audience.choosing import Crowd, choose
from events.sources.audience.shift import RATING_LOGITS, TASTE_LOGITS, Shift
from events.sources.audience.world import DAY_MS, LIKE_OF_TASTE, SHOCK_DAYS, SLOTS, Movies, World, joined
from events.state import Act

APPEAL = 0.35  # logits of a click for each factor e by which a movie is talked about more
TALKED_ABOUT = 20  # so many movies, the most met ones of a day, are what the others are measured by
LEVELLED = 300  # viewers, the busiest, over whom the level of popular movies is measured
BUSY = 1.25  # how much busier the day of a shock is
BATCH = 2000  # visits worked on at once
SHOCK_HALF_LIFE_DAYS = 3.0


class AudienceError(PlainError):
    """The audience does not know this viewer, or a history has nobody in it."""


class Visit(NamedTuple):
    """A viewer comes and wants a slate. ts in ms."""

    ts: int
    user_id: str


class _Day(NamedTuple):
    """What everyone can know of a day. weights: (m,) how many meet each movie; appeal: (m,) logits of a click."""

    weights: np.ndarray
    appeal: np.ndarray


class Audience:
    """For one thread. Whatever is asked, in whatever order, the answer is the same: it depends on what is asked and
    the seed alone. Memory grows with the viewers and movies that ever were, not with what they do."""

    def __init__(self, world: World, conf: AudienceConf, shift: Shift | None = None, past_days: int = 0) -> None:
        """past_days: day 0 is so many days after the world's first."""
        if shift:
            shift.check(world.genre_names)
        self.conf, self.shift, self._world = conf, shift, world
        self._first = world.first_day + past_days
        self._movies, self._viewers = world.movies, world.viewers
        self._grown = world.first_day - 1  # the last day whose newcomers are among them
        self._movie_rows = {name: row for row, name in enumerate(world.movies.ids.tolist())}
        self._viewer_rows = {name: row for row, name in enumerate(world.viewers.ids.tolist())}
        self._days: dict[int, _Day] = {}
        self._like = np.log(conf.attraction / (1 - conf.attraction))
        self._look = np.arange(1, 1001) ** -conf.position_bias
        self._turn = np.zeros(world.movies.features.shape[1], np.float32)  # of a taste that shifts, by feature
        self._level = 0.0  # how much better popular movies would suit those whose taste has shifted
        if shift:
            self._turn[: len(world.genre_names)] = [(g in shift.gains) - (g in shift.loses) for g in world.genre_names]
            self._level = _level(world, self._turn * (shift.strength * TASTE_LOGITS))
        self._grow(self._first - 1)

    @classmethod
    def fresh(cls, conf: AudienceConf, seed: int, shift: Shift | None = None) -> Self:
        """A world from nothing; day 0 begins at `conf.start`."""
        return cls(fresh.world(conf, seed), conf, shift)

    @classmethod
    def fitted(
        cls, movies: Sequence[Movie], acts: Iterable[Act], conf: AudienceConf, seed: int, shift: Shift | None = None
    ) -> Self:
        """Fitted to a history: day 0 begins where it ends. AudienceError where nobody did anything in it."""
        history = fitted.read(movies, acts)
        if not len(history.users):
            raise AudienceError(
                "the history holds nothing that a viewer did: import ratings first, or make a new world"
            )
        return cls(fitted.world(history, conf, seed), conf, shift)

    def after(self, days: int, shift: Shift | None = None) -> Self:
        """The same audience, so many days later: that is its day 0."""
        return type(self)(self._world, self.conf, shift, self._first - self._world.first_day + days)

    @property
    def begins_ms(self) -> int:
        """When day 0 begins."""
        return max(self._world.begins_ms, self._first * DAY_MS)

    @property
    def movies(self) -> list[Movie]:
        """The catalogue where day 0 begins."""
        return _lines(self._movies, np.flatnonzero(self._movies.released < self._first))

    @property
    def viewers(self) -> list[str]:
        """Who is there where day 0 begins."""
        here = (self._viewers.arrives < self._first) & (self._viewers.leaves > self._first)
        return self._viewers.ids[here].tolist()

    @property
    def genres(self) -> tuple[str, ...]:
        return self._world.genre_names

    def releases(self, day: int) -> list[Movie]:
        """The movies that come out that day."""
        new = self._world.new_movies(self._first + day)
        return _lines(new, np.arange(len(new)))

    def visits(self, day: int) -> list[Visit]:
        """Who comes that day and wants a slate, by time."""
        rows, times, alone = self._coming(self._first + day)
        names = self._viewers.ids[rows[~alone]].tolist()
        return [Visit(ts, name) for ts, name in zip(times[~alone].tolist(), names, strict=True)]

    def organic(self, day: int) -> Iterator[AnyEvent]:
        """What happens that day without any slate, by time: movies come out, viewers arrive and choose alone."""
        return in_order(self._chunks(day, everyone=False))

    def simulate(self, days: int) -> Iterator[AnyEvent]:
        """What happens from day 0 on while nobody recommends anything, by time: all visits are like `organic`."""
        return in_order(chain.from_iterable(self._chunks(day, everyone=True) for day in range(days)))

    def react(self, user_id: str, slate: Sequence[str], ts: int, request_id: str | None = None) -> list[Deed]:
        """What the viewer does with a slate served at `ts` (ms), by time. Movies nobody knows are passed over."""
        row, codes = self._row(user_id, ts), self._codes(slate, ts)
        click, like = self._odds(row, codes, ts // DAY_MS)
        luck = uniforms(int(self._viewers.keys[row]), ts, 1 + DRAWS, len(slate))
        found: list[Deed] = []
        free = ts
        for place in np.flatnonzero(luck[0] < click * self._looked_at(len(slate))).tolist():
            clicked = ts + (place + 1) * STEP_MS
            free = max(free, clicked + STEP_MS)
            found += deeds(
                (self._world.seed, user_id),
                slate[place],
                free,
                float(like[place]),
                luck[1:, place].tolist(),
                self.conf.heartbeat_minutes,
                self.conf.rating_share,
                click=(clicked, request_id),
            )
            free = ends(found)
        return sorted(found, key=lambda deed: deed.ts)

    def value(self, user_id: str, slate: Sequence[str], ts: int) -> float:
        """The truth: how many movies of a slate served at `ts` the viewer is expected to watch and like."""
        row = self._row(user_id, ts)
        click, like = self._odds(row, self._codes(slate, ts), ts // DAY_MS)
        return float(np.sum(self._looked_at(len(slate)) * click * _chance(like)))

    def best(self, user_id: str, ts: int, k: int, without: Container[str] = ()) -> list[str]:
        """The slate of the most value for the viewer at `ts`, `without` some movies: what an oracle would serve."""
        row = self._row(user_id, ts)
        weights = self._day(ts // DAY_MS).weights
        click, like = self._odds(row, np.arange(len(weights)), ts // DAY_MS)
        order = np.argsort(-click * _chance(like) * (weights > 0), kind="stable")
        names = (str(self._movies.ids[code]) for code in order[: int((weights > 0).sum())].tolist())
        return [name for name, _ in zip((name for name in names if name not in without), range(k), strict=False)]

    def popular(self, ts: int, k: int) -> list[str]:
        """The movies that most viewers meet at `ts`, in truth."""
        weights = self._day(ts // DAY_MS).weights
        return self._movies.ids[np.argsort(-weights, kind="stable")[:k]].tolist()

    # who comes, and what they choose alone

    def _coming(self, day: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row, time and whether they ask for no slate, of each visit of a day, by time."""
        self._grow(day)
        who = self._viewers
        here = np.flatnonzero((who.arrives <= day) & (who.leaves > day))
        rates = who.rate[here] * self._world.rhythm.factor(day) * (1 if self._shock(day) is None else BUSY)
        rates *= 1 + self._moved("activity", here, day)
        luck = draws(who.keys[here], day, 3 * SLOTS)
        comes = luck[:, :SLOTS] < -np.expm1(-rates / SLOTS)[:, None]
        comes[:, 0] |= who.arrives[here] == day
        times = day * DAY_MS + self._world.rhythm.moments(luck[:, SLOTS : 2 * SLOTS])
        found, slot = np.nonzero(comes & (times >= self._world.begins_ms))
        order = np.lexsort((here[found], times[found, slot]))
        found, slot = found[order], slot[order]
        return here[found], times[found, slot], luck[found, 2 * SLOTS + slot] < self.conf.own_share

    def _chunks(self, day: int, everyone: bool) -> Iterator[Chunk]:
        """What happens on a day without any slate, some visits after the other."""
        rows, times, alone = self._coming(self._first + day)
        begins = (self._first + day) * DAY_MS
        yield begins, [*self.releases(day), *self._arrivals(self._first + day, rows, times)]
        if not everyone:
            rows, times = rows[alone], times[alone]
        for start in range(0, len(rows), BATCH):
            part = slice(start, start + BATCH)
            bound = int(times[start + BATCH]) if start + BATCH < len(rows) else begins + DAY_MS
            yield bound, self._chosen_alone(rows[part], times[part], self._first + day)

    def _arrivals(self, day: int, rows: np.ndarray, times: np.ndarray) -> list[AnyEvent]:
        """An account for each viewer who comes for the first time."""
        new = self._viewers.arrives[rows] == day
        first = dict(zip(rows[new][::-1].tolist(), times[new][::-1].tolist(), strict=True))
        return [account(self._world.seed, str(self._viewers.ids[row]), ts - STEP_MS) for row, ts in first.items()]

    def _chosen_alone(self, rows: np.ndarray, times: np.ndarray, day: int) -> list[AnyEvent]:
        """What viewers do who come at these times and ask for no slate."""
        weights, tastes = self._day(day).weights, self._tastes(rows, day)
        crowd = Crowd(self._movies, self._viewers, self._world.seen, weights, day, rows, times, tastes)
        chosen = choose(crowd)
        rows, times = rows[chosen.visits], times[chosen.visits]
        like = self._liking(rows, chosen.movies, chosen.appeal, day)
        who, names = self._viewers.ids[rows].tolist(), self._movies.ids[chosen.movies].tolist()
        found: list[AnyEvent] = []
        for n, ts in enumerate(times.tolist()):
            found += deeds(
                (self._world.seed, who[n]),
                names[n],
                ts,
                float(like[n]),
                chosen.luck[n].tolist(),
                self.conf.heartbeat_minutes,
                self._world.habits.rated,
                self._world.habits.watched,
            )
        return found

    # the truth

    def _odds(self, row: int, codes: np.ndarray, day: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each movie: the chance that a viewer who looks at it clicks; and logits that they then like it."""
        appeal = self._movies.features[codes] @ self._tastes(_one(row), day)[0]
        click = _chance(self._like - self._lift(_one(row), day) + self._day(day).appeal[codes] + appeal)
        click[codes < 0] = 0.0
        return click, self._liking(_one(row), codes, appeal, day)

    def _liking(self, rows: np.ndarray, codes: np.ndarray, appeal: np.ndarray, day: int) -> np.ndarray:
        viewer = self._world.like + self._viewers.generosity[rows] + self._moved("rating", rows, day) * RATING_LOGITS
        return viewer + self._movies.quality[codes] + LIKE_OF_TASTE * appeal

    def _tastes(self, rows: np.ndarray, day: int) -> np.ndarray:
        """(n, f) tastes of viewers on a day."""
        moved = self._moved("taste", rows, day)
        tastes = self._viewers.tastes[rows]
        return tastes if isinstance(moved, float) else tastes + np.outer(moved * TASTE_LOGITS, self._turn)

    def _lift(self, rows: np.ndarray, day: int) -> np.ndarray | float:
        """(n,) logits of a click taken from everything where a viewer's taste has shifted: they turn elsewhere, but do
        not click more than they did on what is popular."""
        return self._moved("taste", rows, day) * (self._level / self.shift.strength if self.shift else 0.0)

    def _moved(self, kind: str, rows: np.ndarray, day: int) -> np.ndarray | float:
        """(n,) how strongly a shift of that kind has moved each viewer; 0 before it and for the others."""
        shift = self.shift
        if shift is None or shift.kind != kind or day < self._first + shift.day:
            return 0.0
        return shift.strength * (draws(self._viewers.keys[rows], _SHIFT, 1)[:, 0] < shift.share)

    def _looked_at(self, places: int) -> np.ndarray:
        if places > len(self._look):
            self._look = np.arange(1, places + 1) ** -self.conf.position_bias
        return self._look[:places]

    def _day(self, day: int) -> _Day:
        if day not in self._days:
            self._grow(day)
            weights = self._movies.weights(day, self._world.half_life_days)
            for ago in range(SHOCK_DAYS):
                if (hit := self._shock(day - ago)) is not None:
                    weights[hit] += weights.max() * 2.0 ** (-ago / SHOCK_HALF_LIFE_DAYS)
            usual = np.sort(weights)[-TALKED_ABOUT:].mean()
            if len(self._days) > 8:
                self._days.clear()
            self._days[day] = _Day(weights, APPEAL * np.log(np.maximum(weights / usual, 1e-9)))
        return self._days[day]

    def _shock(self, day: int) -> int | None:
        return self._world.shock(day, self.conf) if day >= self._world.first_day else None

    def _row(self, user_id: str, ts: int) -> int:
        self._grow(ts // DAY_MS)
        try:
            return self._viewer_rows[user_id]
        except KeyError:
            raise AudienceError(f"viewer {user_id!r} is not in this audience, which has {len(self._viewers)}") from None

    def _codes(self, slate: Sequence[str], ts: int) -> np.ndarray:
        """(k,) rows of the movies; -1 where one is not known, or not out at `ts`."""
        known = len(self._day(ts // DAY_MS).weights)
        codes = np.array([self._movie_rows.get(name, -1) for name in slate], np.int64)
        codes[codes >= known] = -1
        codes[self._movies.released[codes] > ts // DAY_MS] = -1
        return codes

    def _grow(self, day: int) -> None:
        """Take in who arrives and what comes out up to a day."""
        if day <= self._grown:
            return
        coming = range(self._grown + 1, day + 1)
        self._movies = joined(self._movies, *map(self._world.new_movies, coming))
        self._viewers = joined(self._viewers, *(self._world.newcomers(d, self.conf) for d in coming))
        for rows, ids in ((self._movie_rows, self._movies.ids), (self._viewer_rows, self._viewers.ids)):
            rows.update(zip(ids[len(rows) :].tolist(), range(len(rows), len(ids)), strict=True))
        self._grown = day


def _lines(movies: Movies, rows: np.ndarray) -> list[Movie]:
    """Catalogue events of some movies."""
    return [_line(str(movies.ids[row]), str(movies.titles[row]), movies.genres[row]) for row in rows.tolist()]


def _line(movie_id: str, title: str, genres: tuple[str, ...]) -> Movie:
    content = f"movie\x00{movie_id}\x00{title}\x00{'|'.join(genres)}"
    return Movie(event_id=content_id(NAME, content), movie_id=movie_id, title=title, genres=genres)


_SHIFT = int.from_bytes(b"shift")  # the moment of which the share of moved viewers is drawn


def _level(world: World, turn: np.ndarray) -> float:
    """How much more the movies that are then the most popular appeal, when every taste turns so."""
    met = world.movies.hot + world.movies.steady
    viewers = world.viewers.rate.argsort()[::-1][:LEVELLED]
    before = world.viewers.tastes[viewers] @ world.movies.features.T  # (viewers, movies)
    found = []
    for appeal in (before, before + world.movies.features @ turn):
        popular = np.argsort(-met * np.exp(appeal).mean(axis=0))[:TALKED_ABOUT]
        found.append(float(appeal[:, popular].mean()))
    return found[1] - found[0]


def _one(row: int) -> np.ndarray:
    return np.array([row])


def _chance(logits: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-logits))

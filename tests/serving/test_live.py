"""Live state: whatever came in whichever order, it is what a release built over the same events would be."""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conf.home import Home
from conf.sections.kafka import Kafka
from conf.settings import Settings
from events.event import TOPICS, Account, AnyEvent, Click, Movie, Rating, Watch
from events.local_log import LocalLog
from events.reading import mirror_of
from events.state import Acts
from mlflow_server import release
from mlflow_server.building import build
from mlflow_server.ledger import SigningKey
from mlflow_server.release import Checked, Release
from models.base import slates
from models.interactions import DAY_MS, RECENT
from models.popularity import Popularity, PopularityConfig
from models.shelf import Shelved
from pipelines.snapshot import cut
from serving import live as live_module
from serving.live import Live

START = 1_700_000_000_000
CONF = Settings.model_validate({"snapshot": {"full_watch_minutes": 4}})
POPULARITY_DAYS = 2.0
numbers = itertools.count()


def rating(user: str, movie: str, when: int = 0, value: float = 5) -> Rating:
    event_id = f"e{next(numbers)}"
    return Rating(event_id=event_id, ts=START + when, user_id=user, movie_id=movie, rating=value, scale=5)


def watch(user: str, movie: str, minute: int, when: int = 0) -> Watch:
    return Watch(event_id=f"e{next(numbers)}", ts=START + when, user_id=user, movie_id=movie, minute=minute)


def click(user: str, movie: str, when: int = 0) -> Click:
    return Click(event_id=f"e{next(numbers)}", ts=START + when, user_id=user, movie_id=movie)


def movie(movie_id: str, title: str, *genres: str) -> Movie:
    return Movie(event_id=f"e{next(numbers)}", movie_id=movie_id, title=title, genres=genres)


class World:
    """A home with a log, releases of what it holds, and live states over them."""

    def __init__(self, root: Path, conf: Settings = CONF) -> None:
        self.home, self.conf = Home(root / "home").open(), conf
        self.key = SigningKey(self.home.keys)
        self.log = LocalLog(self.home.log)

    def add(self, *events: AnyEvent) -> None:
        self.log.append_all(events)

    def release(self) -> Release:
        snapshot = cut(self.home, self.conf)
        model = Popularity(PopularityConfig(half_life_days=1.0)).fit(snapshot.interactions)
        return build(
            self.home.releases,
            model,
            Shelved("popularity", Popularity, None),
            snapshot.id,
            snapshot.interactions,
            "abc123",
            self.key,
            popularity_half_life_days=POPULARITY_DAYS,
            offset=snapshot.statistics["offset"],
        )

    def live(self, of: Release, offset: int | None = None, batch: int = 500) -> Live:
        """The release's live state, having followed the log to its end."""
        made = opened(of, self.conf)
        if offset is not None:
            made.offset = offset
        acts = Acts(self.home, self.conf)
        while True:
            found = acts.since(made.offset, batch)
            made.apply(found.acts)
            made.offset = found.offset
            if not found.more:
                break
        acts.close()
        made.settle(START)
        return made


def opened(of: Release, conf: Settings) -> Live:
    checked = Checked(of.folder)
    catalogue = release.load_catalogue(checked)
    viewers, counts = release.load_viewers(checked, catalogue), release.load_counts(checked, catalogue)
    return Live(viewers, counts, release.load_popular(of.folder), catalogue, checked.manifest, conf)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.log.close()


def pairs_of(live: Live, user: str) -> list[tuple[str, int, float]]:
    """A viewer's recent history, oldest first: movie, time since START, strength."""
    made, ids = live.history(user), live.names.ids
    rows = zip(made.items.tolist(), made.times.tolist(), made.strengths.tolist(), strict=True)
    return [(ids[item], time - START, round(strength, 4)) for item, time, strength in rows]


def same(found: Live, fresh: Live, users: Sequence[str]) -> None:
    """The two say the same of everything that a request reads."""
    assert found.names.ids == fresh.names.ids
    assert found.names.titles == fresh.names.titles
    today, expected = found.counts.catalogue, fresh.counts.catalogue
    assert today.ids.tolist() == expected.ids.tolist()
    assert today.titles.tolist() == expected.titles.tolist()
    assert today.genre_names == expected.genre_names
    assert np.array_equal(today.genres, expected.genres)
    assert np.array_equal(today.tie_breaks, expected.tie_breaks)
    for user in users:
        one, other = found.history(user), fresh.history(user)
        assert pairs_of(found, user) == pairs_of(fresh, user)
        for name in ("indptr", "items", "times", "strengths", "seen_indptr", "seen_items"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), (user, name)
    assert found.counts.as_of_ms == fresh.counts.as_of_ms
    assert np.allclose(found.counts.counts, fresh.counts.counts, rtol=1e-9, atol=1e-12)
    assert np.array_equal(found.counts.counts == 0, fresh.counts.counts == 0)
    assert np.allclose(found.popular.scores, fresh.popular.scores, rtol=1e-9, atol=1e-12)
    assert set(found.popular.ids) == set(fresh.popular.ids)
    assert dict(zip(found.popular.ids, found.popular.titles, strict=True)) == dict(
        zip(fresh.popular.ids, fresh.popular.titles, strict=True)
    )
    if len(set(np.round(fresh.popular.scores, 9))) == len(fresh.popular.scores):
        assert found.popular.ids == fresh.popular.ids


USERS, MOVIES = ("u0", "u1", "u2"), ("m0", "m1", "m2", "m3", "m4")
moments = st.sampled_from([0, 0, 1, 2, 3, DAY_MS // 2, DAY_MS, 5 * DAY_MS, -DAY_MS])
who, what = st.sampled_from(USERS), st.sampled_from(MOVIES)
acts_of_viewers = st.one_of(
    st.builds(rating, who, what, moments, st.sampled_from([1, 3, 3.5, 5])),
    st.builds(watch, who, what, st.integers(0, 6), moments),
    st.builds(click, who, what, moments),
)
lines_of_catalogue = st.builds(movie, what, st.sampled_from(["", "One", "Other"]), st.sampled_from(["Drama", "New"]))
events = st.one_of(acts_of_viewers, acts_of_viewers, acts_of_viewers, lines_of_catalogue)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    first=st.lists(events, max_size=15),
    then=st.lists(events, max_size=25),
    again=st.integers(0, 40),
    batch=st.sampled_from([1, 3, 500]),
)
def test_it_is_what_a_release_of_the_same_events_would_be(
    first: list[AnyEvent], then: list[AnyEvent], again: int, batch: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        world.add(rating("u0", "m0"), *first)
        before = world.release()
        world.add(*then)
        world.add(*(event.model_copy(update={"event_id": f"{event.event_id}x"}) for event in then[:again]))
        found, replayed = world.live(before, batch=batch), world.live(before, offset=0)
        fresh = opened(world.release(), CONF)
        assert fresh.now_ms <= found.now_ms <= replayed.now_ms == world.log.now_ms() + 1
        for one in (found, fresh):  # a snapshot ends with the newest interaction that counts
            one.now_ms = replayed.now_ms
            one.settle(START + 20_000)
        same(found, fresh, USERS)
        same(replayed, fresh, USERS)
        world.log.close()


def follow(world: World, live: Live, batches: int | None = None) -> Live:
    """The live state, having followed the log to its end, or that many batches of it, as a worker lets it."""
    acts = Acts(world.home, world.conf)
    while live.follow(acts, 3) and (batches is None or (batches := batches - 1) > 0):
        pass
    acts.close()
    return live


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    first=st.lists(events, max_size=8),
    between=st.lists(events, max_size=12),
    then=st.lists(events, max_size=25),
    batches=st.integers(1, 12),
    swapped=st.booleans(),
)
def test_what_another_one_has_taken_in_already_can_be_adopted(
    first: list[AnyEvent], between: list[AnyEvent], then: list[AnyEvent], batches: int, swapped: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        world.add(rating("u0", "m0"), *first)
        older = world.release()
        world.add(*between)
        newer = world.release()
        if swapped:  # back to a release that is older than what the other has followed
            older, newer = newer, older
        world.add(*then)
        other, found = follow(world, opened(older, CONF), batches), opened(newer, CONF)
        lines, began = Acts(world.home, CONF, ("catalogue",)), found.offset
        found.adopt(other, lines)
        lines.close()
        assert found.offset >= began, "one that is behind has nothing to give"
        whole = follow(world, opened(newer, CONF))
        follow(world, found)
        assert found.offset == whole.offset
        assert whole.now_ms <= found.now_ms <= world.log.now_ms() + 1
        for one in (found, whole):  # a snapshot ends with the newest interaction that counts
            one.now_ms = world.log.now_ms() + 1
            one.settle(START + 20_000)
        same(found, whole, USERS)
        assert [found.mark(user).split(":")[1] for user in USERS] == [whole.mark(user).split(":")[1] for user in USERS]
        world.log.close()


def test_adopting_leaves_nothing_to_be_read_but_the_catalogue(world: World) -> None:
    world.add(rating("a", "x", 1))
    first = world.release()
    world.add(rating("a", "y", 2), watch("b", "x", 1, 3), movie("z", "Z", "Drama"))
    second = world.release()
    world.add(*(watch("b", "x", minute, 4 + minute) for minute in range(2, 5)), rating("c", "z", 20))
    other, found = follow(world, opened(first, CONF)), opened(second, CONF)
    lines = Acts(world.home, CONF, ("catalogue",))
    found.adopt(other, lines)
    assert found.offset == other.offset
    assert found.lately == ["b", "c"], "a did nothing since the release"
    assert pairs_of(found, "b") == [("x", 8, 1.0)]
    back = opened(first, CONF)
    back.adopt(found, lines)
    assert back.offset < found.offset, "what came before the other's release is not among its news"
    fresh, behind = opened(second, CONF), opened(first, CONF)
    behind.began = behind.offset  # of which the thread that follows has not taken in anything yet
    before = fresh.offset
    fresh.adopt(behind, lines)
    assert (fresh.offset, fresh.began) == (before, None)
    lines.close()


def test_a_restart_is_as_if_there_had_been_none(world: World) -> None:
    world.add(rating("a", "x", 1), watch("a", "y", 1, 2))
    before = world.release()
    world.add(watch("a", "y", 2, 3), rating("b", "z", 4))
    running = world.live(before)
    mark, other = running.mark("a"), running.mark("b")
    world.add(watch("a", "y", 2, 5), watch("a", "y", 3, 6), rating("b", "x", 7, 1))
    acts = Acts(world.home, CONF)
    assert not running.follow(acts)
    assert running.mark("a") != mark
    assert running.mark("b") != other
    running.settle(START + 10_000)
    restarted = world.live(before)
    same(running, restarted, ["a", "b"])
    assert [running.mark(user) for user in "ab"] == [restarted.mark(user) for user in "ab"]
    assert pairs_of(running, "a") == [("x", 1, 1.0), ("y", 6, 0.75)]


def test_what_the_release_holds_already_changes_nothing(world: World) -> None:
    world.add(rating("a", "x", 1, 3.5), watch("a", "y", 1, 2), click("a", "z", 3), movie("x", "X", "Drama"))
    before = world.release()
    untouched = opened(before, CONF)
    replayed = world.live(before, offset=0)
    same(replayed, untouched, ["a"])
    assert replayed.mark("a") == untouched.mark("a")


def test_a_late_event_does_not_undo_a_newer_one(world: World) -> None:
    world.add(rating("a", "x", 10, 5), watch("a", "y", 1, 10), click("a", "z", 10))
    before = world.release()
    mark = opened(before, CONF).mark("a")
    world.add(rating("a", "x", 5, 1), watch("a", "y", 1, 5), click("a", "y", 11), click("a", "z", 5))
    late = world.live(before)
    assert pairs_of(late, "a") == pairs_of(opened(before, CONF), "a")
    assert late.mark("a") == mark
    world.add(watch("a", "x", 1, 12), rating("a", "y", 1, 2), watch("a", "z", 1, 9))
    later = world.live(before)  # ratings go before what was watched, and that before clicks, whichever is newer
    assert pairs_of(later, "a") == [("y", 1, 0.4), ("z", 9, 0.25), ("x", 10, 1.0)]
    assert later.mark("a") != mark


def test_a_new_viewer_and_a_new_movie_are_there_at_once(world: World) -> None:
    world.add(rating("a", "x", 1), rating("b", "x", 2), movie("x", "X", "Drama"))
    before = world.release()
    world.add(movie("new", "Brand New", "Comedy"), rating("c", "new", 3), rating("d", "new", 4), rating("e", "new", 5))
    live = world.live(before)
    assert live.names.titles == ["X", "Brand New"]
    assert live.counts.catalogue.genre_names == ("Drama", "Comedy")
    assert live.counts.catalogue.genres.tolist() == [[True, False], [False, True]]
    assert live.popular.ids == ("new", "x")
    assert live.popular.titles == ("Brand New", "X")
    assert pairs_of(live, "c") == [("new", 3, 1.0)]
    made = slates(Popularity(PopularityConfig(half_life_days=1.0)), live.history("a"), live.counts, live.now_ms, 5)
    assert [live.names.ids[code] for code in made.items[0] if code >= 0] == ["new"]


def test_the_newest_line_of_the_catalogue_counts(world: World) -> None:
    world.add(rating("a", "x", 1), movie("x", "Old", "Drama", "Comedy"))
    before = world.release()
    world.add(movie("x", "New", "Comedy", "Horror"), rating("b", "x", 2))
    live = world.live(before)
    today = live.counts.catalogue
    assert (today.titles.tolist(), live.names.titles, live.popular.titles) == (["New"], ["New"], ("New",))
    assert (today.genre_names, today.genres.tolist()) == (("Drama", "Comedy", "Horror"), [[False, True, True]])


def test_nobody_is_shown_what_no_counts_know_yet(world: World) -> None:
    """A movie that came a moment ago is in no history before it is in the counts that a model reads beside it."""
    world.add(rating("a", "x", 1))
    live = world.live(world.release())
    world.add(rating("a", "new", 2), rating("a", "x", 3, 1))
    acts = Acts(world.home, CONF)
    live.follow(acts)
    assert len(live.counts.catalogue) == 1
    assert pairs_of(live, "a") == [("x", 3, 0.2)]
    live.settle(START + 10_000)
    assert pairs_of(live, "a") == [("new", 2, 1.0), ("x", 3, 0.2)]
    acts.close()


def test_of_invented_movies_only_so_many_are_taken(world: World) -> None:
    world.add(rating("a", "x", 1))
    before = world.release()
    limit = live_module.MAX_NEW_MOVIES
    world.add(*(rating(f"v{n % 50}", f"invented{n}", n) for n in range(limit + 5)))
    live = world.live(before)
    assert len(live.names.ids) == len(live.counts.catalogue) == limit + 1
    assert live.now_ms == START + limit + 5


def test_a_history_keeps_the_last_fifty_and_all_that_was_seen(world: World) -> None:
    world.add(*(rating("a", f"m{n}", n) for n in range(RECENT + 5)))
    before = world.release()
    world.add(rating("a", "late", 2), rating("a", "m0", 1000), rating("a", "new", 1001))
    live = world.live(before)
    names = [name for name, _, _ in pairs_of(live, "a")]
    assert len(names) == RECENT
    assert names[-2:] == ["m0", "new"]
    assert names[0] == "m7"
    assert len(live.seen("a")) == RECENT + 7
    assert live.seen_ids("a", ["late", "nobody", "m3"]) == {"late", "m3"}


def test_counts_fade_with_the_wall_clock(tmp_path: Path) -> None:
    world = World(tmp_path, CONF.model_copy(update={"clock": "wall"}))
    world.add(rating("a", "x", 0), rating("b", "y", 0, 1))
    live = opened(world.release(), world.conf)
    live.settle(START + DAY_MS)
    assert live.counts.as_of_ms == START + DAY_MS
    assert live.counts.decayed(1.0)[0] == pytest.approx(0.5)
    assert live.counts.decayed(POPULARITY_DAYS)[0] == pytest.approx(2**-0.5)
    assert live.popular.scores[0] == pytest.approx(2**-0.5)
    order = live.order
    world.add(rating("c", "y", DAY_MS + 2000), rating("d", "y", DAY_MS + 90_000_000))
    acts = Acts(world.home, world.conf)
    live.follow(acts)
    live.settle(START + DAY_MS + 4000)
    assert live.counts.decayed(1.0)[1] == pytest.approx(1, rel=1e-3)  # the other one is not there before its time
    live.settle(START + 3 * DAY_MS)
    assert live.counts.decayed(1.0)[1] == pytest.approx(2**-2 + 2 ** -(2 - 90 / 86.4), rel=1e-3)
    assert live.order != order
    acts.close()
    world.log.close()


def test_the_ranking_is_published_at_most_once_a_second(world: World) -> None:
    world.add(rating("a", "x", 1))
    before = world.release()
    world.add(rating("b", "x", 2))
    live = world.live(before)  # settled at START
    world.add(rating("b", "y", 2), rating("c", "y", 3))
    acts = Acts(world.home, CONF)
    live.follow(acts)
    counts = live.counts
    live.settle(START + 900)
    assert live.counts is counts
    live.settle(START + 1000)
    assert live.counts is not counts
    counts = live.counts
    live.settle(START + 20_000)
    assert live.counts is counts, "nothing happened, and on the event clock no time passed"
    acts.close()


def test_an_account_moves_the_clock_and_nothing_else(world: World) -> None:
    world.add(rating("a", "x", 1))
    before = world.release()
    world.add(Account(event_id="account", ts=START + DAY_MS, user_id="n"))
    live = world.live(before)
    assert live.now_ms == START + DAY_MS + 1
    assert len(live.history("n").items) == 0
    assert live.counts.decayed(1.0)[0] == pytest.approx(0.5)


def test_kafka_switched_on_changes_nothing_but_what_is_new(world: World) -> None:
    """The mirror gets again what the spool still held: the release's offset is none of its own."""
    world.add(rating("a", "x", 1, 5), watch("a", "y", 1, 2), movie("x", "X", "Drama"), rating("b", "x", 2))
    before = world.release()
    news = [rating("a", "z", 5), watch("b", "y", 1, 6), movie("z", "Z", "Comedy"), rating("c", "x", 7)]
    world.add(*news[:2])
    with mirror_of(world.home) as mirror:
        mirror.append_all(record.event for topic in TOPICS for record in world.log.iterate(topic))
        mirror.append_all(news[2:])
    world.conf = CONF.model_copy(update={"kafka": Kafka(servers="127.0.0.1:9")})
    live = opened(before, world.conf)
    acts = Acts(world.home, world.conf)
    while live.follow(acts):
        pass
    acts.close()
    fresh = opened(world.release(), CONF)
    for one in (live, fresh):
        one.now_ms = START + DAY_MS
        one.settle(START + 20_000)
    same(live, fresh, ["a", "b", "c"])

"""What slates brought: by hand, and against slow obvious counting."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.sections.data import Snapshot
from conf.sections.experiment import Experiment
from events.archive import SCHEMAS
from events.event import EVENTS, IMPRESSIONS, AnyEvent, Click, Impression, Rating, Watch
from monitoring.outcomes import Brought, Viewers, brought, per_rung, per_viewer

HOUR, DAY = 3_600_000, 86_400_000
T = 20_000 * DAY
ids = (f"e{n}" for n in itertools.count())


def slate(user: str, *items: str, at: int = 0, request: str = "", arm: str = "champion", **more: Any) -> Impression:
    fields = {"rung": "model", "release": "d", "k": 20, "latency_ms": 1.0} | more
    return Impression(
        event_id=request or next(ids), ts=T + at, wall_ts=T, user_id=user, arm=arm, items=items,
        propensities=(1.0,) * len(items), **fields,
    )  # fmt: skip


def click(user: str, movie: str, at: int, request: str | None = None, event_id: str = "") -> Click:
    return Click(event_id=event_id or next(ids), ts=T + at, user_id=user, movie_id=movie, request_id=request)


def watch(user: str, movie: str, at: int, minute: int = 0) -> Watch:
    return Watch(event_id=next(ids), ts=T + at, user_id=user, movie_id=movie, minute=minute)


def rating(user: str, movie: str, at: int, value: float) -> Rating:
    return Rating(event_id=next(ids), ts=T + at, user_id=user, movie_id=movie, rating=value, scale=5)


def by_day(topic: str, events: Iterable[AnyEvent]) -> Callable[[Sequence[str]], Iterable[pa.Table]]:
    """The events as the archive gives them: stored in this order, read day by day."""
    days = defaultdict(list)
    for offset, event in enumerate(events, 1):
        days[event.ts // DAY].append({"offset": offset, **event.model_dump()})
    return lambda columns: [
        pa.Table.from_pylist(days[day], schema=SCHEMAS[topic]).select(columns) for day in sorted(days)
    ]


def of(slates: list[Impression], acts: list[Any], **conf: Any) -> Brought:
    read = by_day(IMPRESSIONS, slates), by_day(EVENTS, acts)
    return brought(*read, Experiment(**conf), Snapshot(full_watch_minutes=10))


def counts(*args: Any, **conf: Any) -> list[tuple[int, int, int]]:
    found = of(*args, **conf)
    return [*zip(found.clicks.tolist(), found.watch_minutes.tolist(), found.likes.tolist(), strict=True)]


def test_an_event_counts_for_the_latest_slate_before_it_that_showed_the_viewer_the_movie() -> None:
    slates = [slate("u", "a", "b"), slate("v", "a", at=1), slate("u", "b", at=10), slate("u", "a", at=30)]
    acts = [click("u", "a", 20), click("u", "b", 20), click("u", "b", 9), click("u", "c", 20), click("w", "a", 20)]
    assert counts(slates, acts) == [(2, 0, 0), (0, 0, 0), (1, 0, 0), (0, 0, 0)]


def test_what_came_before_the_slate_never_counts_and_what_came_at_its_moment_does() -> None:
    slates = [slate("u", "a", at=10, request="q")]
    assert counts(slates, [click("u", "a", 9)]) == [(0, 0, 0)]
    assert counts(slates, [click("u", "a", 9, "q")]) == [(0, 0, 0)]
    assert counts(slates, [click("u", "a", 10)]) == [(1, 0, 0)]


def test_of_slates_of_one_moment_the_last_one_counts() -> None:
    assert counts([slate("u", "a"), slate("u", "a")], [click("u", "a", 1)]) == [(0, 0, 0), (1, 0, 0)]


def test_the_window_bounds_what_names_no_request() -> None:
    slates = [slate("u", "a", request="q")]
    assert counts(slates, [click("u", "a", 2 * HOUR)], window_hours=2) == [(1, 0, 0)]
    assert counts(slates, [click("u", "a", 2 * HOUR + 1)], window_hours=2) == [(0, 0, 0)]
    assert counts(slates, [click("u", "a", 2 * HOUR + 1, "q")], window_hours=2) == [(1, 0, 0)]


@pytest.mark.parametrize("request_id", ["none-such", "of-another", "without-it"])
def test_what_names_a_request_counts_for_that_slate_or_for_none(request_id: str) -> None:
    slates = [slate("u", "a"), slate("v", "a", request="of-another"), slate("u", "b", request="without-it")]
    assert counts(slates, [click("u", "a", 5, request_id), click("u", "b", 5)]) == [(0, 0, 0), (0, 0, 0), (1, 0, 0)]


def test_a_named_slate_wins_over_a_later_one() -> None:
    slates = [slate("u", "a", request="q"), slate("u", "a", at=5)]
    assert counts(slates, [click("u", "a", 9, "q")]) == [(1, 0, 0), (0, 0, 0)]


def test_an_event_id_that_comes_twice_counts_once_even_on_another_day() -> None:
    slates = [slate("u", "a"), slate("u", "a", at=DAY)]
    acts = [click("u", "a", 1, event_id="same"), click("u", "a", DAY + 1, event_id="same")]
    assert counts(slates, acts) == [(1, 0, 0), (0, 0, 0)]
    assert counts(slates, acts[::-1]) == [(0, 0, 0), (1, 0, 0)], "the one that was stored first"


def test_a_movie_is_clicked_once_and_a_minute_watched_once() -> None:
    slates = [slate("u", "a", "b"), slate("u", "a", at=100)]
    acts = [click("u", "a", 1), click("u", "a", 2), click("u", "b", 3), click("u", "a", 101)]
    acts += [watch("u", "a", 5, 0), watch("u", "a", 6, 0), watch("u", "a", 7, 1), watch("u", "a", 105, 1)]
    assert counts(slates, acts) == [(2, 2, 0), (1, 0, 0)]


def test_a_like_is_a_positive_last_rating_or_a_long_watch() -> None:
    one = [slate("u", "a")]
    assert counts(one, [rating("u", "a", 1, 3.5)]) == [(0, 0, 1)]
    assert counts(one, [rating("u", "a", 1, 3.4)]) == [(0, 0, 0)]
    assert counts(one, [rating("u", "a", 2, 1), rating("u", "a", 1, 5)]) == [(0, 0, 0)], "the last one counts"
    assert counts(one, [watch("u", "a", n, n) for n in range(7)]) == [(0, 7, 1)]
    assert counts(one, [watch("u", "a", n, n) for n in range(6)]) == [(0, 6, 0)]
    watched_but_rated = [*(watch("u", "a", n, n) for n in range(30)), rating("u", "a", 40, 2)]
    assert counts(one, watched_but_rated) == [(0, 30, 0)]


def test_slates_of_the_site_and_failures_are_none() -> None:
    slates = [slate("u", "a"), slate("u", "a", arm="site", rung="unknown", at=1), slate("u", at=2, failure="500")]
    assert counts(slates, [click("u", "a", 5)]) == [(1, 0, 0)]


def test_fallback_answers_stay_in_their_arm() -> None:
    slates = [slate("u", "a"), slate("u", "a", at=5, rung="popularity"), slate("u", "b", at=6, rung="stale")]
    viewers = per_viewer(of(slates, []), Experiment())
    assert (viewers.arms.tolist(), viewers.exposures.tolist(), viewers.fallbacks.tolist()) == (["champion"], [3], [2])


def test_who_asks_too_often_is_left_out_of_every_arm_whatever_came_of_it() -> None:
    bots = [slate("bot", "a", at=n) for n in range(6)] + [slate("idle bot", "a", at=DAY + n) for n in range(6)]
    people = [slate("u", "a", at=n * DAY // 2) for n in range(12)] + [slate("v", "a", arm="challenger")]
    found = of(bots + people, [click("bot", "a", 50), click("u", "a", 60)], max_slates_per_user_day=5)
    viewers = per_viewer(found, Experiment(max_slates_per_user_day=5))
    assert viewers.users.tolist() == ["u", "v"]
    assert viewers.clicks.tolist() == [1, 0]
    assert (viewers.left_out.bots, viewers.left_out.bot_slates) == (2, 12)


def test_who_was_in_two_arms_is_left_out() -> None:
    slates = [slate("u", "a"), slate("u", "a", arm="challenger", at=4), slate("v", "a")]
    viewers = per_viewer(of(slates, [click("u", "a", 1)]), Experiment())
    assert viewers.users.tolist() == ["v"]
    assert (viewers.left_out.crossed, viewers.left_out.crossed_slates) == (1, 2)


def test_means_are_per_viewer_by_their_first_slate() -> None:
    slates = [slate("late", "a", at=9), slate("u", "a", "b"), slate("u", "c", at=1)]
    means = per_viewer(of(slates, [click("u", "a", 5), watch("u", "c", 6, 3)]), Experiment()).means("clicks")
    assert means.users.tolist() == ["u", "late"]
    assert means.mean.tolist() == [0.5, 0.0]
    assert means.exposures.tolist() == [2, 1]
    assert means.first_ms.tolist() == [T, T + 9]


def test_rates_of_each_rung_in_each_arm() -> None:
    slates = [
        slate("u", "a", "b"), slate("u", "a", at=50), slate("v", "a", rung="popularity"),
        slate("w", "a", arm="challenger"), *(slate("bot", "z") for _ in range(101)),
    ]  # fmt: skip
    acts = [click("u", "a", 1), click("u", "b", 2), watch("v", "a", 3), rating("w", "a", 4, 5)]
    assert [tuple(rates) for rates in per_rung(of(slates, acts), Experiment())] == [
        ("challenger", "model", 1, 1, 0.0, 0.0, 1.0),
        ("champion", "model", 2, 1, 0.5, 0.0, 0.0),
        ("champion", "popularity", 1, 1, 0.0, 1.0, 0.0),
    ]


@pytest.mark.parametrize("slates", [[], [slate("u")], [slate("u", "a")]])
@pytest.mark.parametrize("acts", [[], [click("v", "a", 3)], [click("u", "b", 3)]])
def test_where_nothing_came_of_anything_there_are_zeros(slates: list[Impression], acts: list[Click]) -> None:
    found = of(slates, acts)
    viewers = per_viewer(found, Experiment())
    assert viewers.users.tolist() == ["u"] * len(slates)
    for metric in ("likes", "clicks", "watch_minutes", "fallbacks"):
        assert viewers.means(metric).mean.tolist() == [0.0] * len(slates)
    assert len(per_rung(found, Experiment())) == len(slates)


# Against slow obvious counting ----------------------------------------------------------------------------------------

users, movies = st.sampled_from("uvw"), st.sampled_from("abcd")
moments = st.one_of(st.integers(0, 12), st.integers(0, 3).map(lambda n: n * DAY), st.integers(0, 60).map(HOUR.__mul__))
some_slates = st.builds(
    slate, users, *[movies] * 2, at=moments, arm=st.sampled_from(["champion", "challenger", "site"]),
    rung=st.sampled_from(["model", "stale"]), failure=st.sampled_from(["", "", "", "500"]),
    request=st.sampled_from(["", "q", "r", "s"]),
)  # fmt: skip
some_acts = st.one_of(
    st.builds(click, users, movies, moments, st.sampled_from([None, None, "q", "r", "x"])),
    st.builds(lambda user, at: click(user, "a", at, event_id=f"twice-{user}"), users, moments),
    st.builds(watch, users, movies, moments, st.integers(0, 9)),
    st.builds(rating, users, movies, moments, st.sampled_from([1, 3.5, 5])),
)


def slowly(slates: list[Impression], acts: list[Any], window_ms: int) -> dict[str, list[int]]:
    """Clicks, minutes and likes of each slate by its request id: one event after the other."""
    ours = [s for s in slates if s.arm != "site" and not s.failure]
    place, seen = [], set()
    for stored, act in enumerate(acts):
        if act.event_id in seen:
            continue
        seen.add(act.event_id)
        before = [
            (s.ts, n)
            for n, s in enumerate(ours)
            if s.user_id == act.user_id and act.movie_id in s.items and s.ts <= act.ts
        ]
        named = getattr(act, "request_id", None)
        if named is not None:
            before = [(ts, n) for ts, n in before if ours[n].event_id == named]
        elif before and act.ts - max(before)[0] > window_ms:
            before = []
        if before:
            place.append((act.ts, stored, ours[max(before)[1]].event_id, act))
    place.sort(key=lambda row: row[:2])
    found = {s.event_id: [0, 0, 0] for s in ours}
    for request in found:
        found[request][0] = len({act.movie_id for *_, q, act in place if q == request and act.kind == "click"})
    for pair in {(act.user_id, act.movie_id) for *_, act in place}:
        of_pair = [(q, act) for *_, q, act in place if (act.user_id, act.movie_id) == pair]
        minutes = {}
        for q, act in of_pair:
            if act.kind == "watch":
                minutes.setdefault(act.minute, q)
        for q in minutes.values():
            found[q][1] += 1
        ratings = [(q, act) for q, act in of_pair if act.kind == "rating"]
        if ratings:
            found[ratings[-1][0]][2] += ratings[-1][1].strength >= 0.7
        elif len(minutes) >= 7:
            found[[*minutes.values()][-1]][2] += 1
    return found


@given(st.lists(some_slates, max_size=12, unique_by=lambda s: s.event_id), st.lists(some_acts, max_size=40))
@settings(max_examples=300, deadline=None)
def test_it_counts_as_slow_obvious_counting_does(slates: list[Impression], acts: list[Any]) -> None:
    slates.sort(key=lambda s: s.ts // DAY)  # so that reading by day keeps the order
    found = of(slates, acts, window_hours=1)
    expected = slowly(slates, acts, HOUR)
    assert [*zip(found.clicks.tolist(), found.watch_minutes.tolist(), found.likes.tolist(), strict=True)] == [
        tuple(row) for row in expected.values()
    ]
    assert_sums(per_viewer(found, Experiment()), slates, expected)


def assert_sums(viewers: Viewers, slates: list[Impression], expected: dict[str, list[int]]) -> None:
    ours = [s for s in slates if s.event_id in expected]
    arms = defaultdict(set)
    for s in ours:
        arms[s.user_id].add(s.arm)
    assert {*viewers.users.tolist()} == {user for user, names in arms.items() if len(names) == 1}
    for n, user in enumerate(viewers.users.tolist()):
        mine = [s for s in ours if s.user_id == user]
        sums = np.sum([expected[s.event_id] for s in mine], axis=0).tolist()
        assert [viewers.clicks[n], viewers.watch_minutes[n], viewers.likes[n]] == sums
        assert viewers.first_ms[n] == min(s.ts for s in mine)
        assert viewers.fallbacks[n] == sum(s.rung != "model" for s in mine)

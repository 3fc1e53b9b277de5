"""The simulated audience: the same whatever the order of the questions, and true to what it says of itself."""

import tracemalloc
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import pytest

from conf.sections.audience import AudienceConf
from events.event import AnyEvent, Click, Movie, Rating, Watch
from events.sources.audience import Audience, AudienceError, Shift, ShiftError
from events.state import Act

DAY_MS = 86_400_000
CONF = AudienceConf(viewers=400, movies=300, shocks_per_month=0)


@pytest.fixture(scope="module")
def audience() -> Audience:
    return Audience.fresh(CONF, 1).after(10)


@pytest.fixture(scope="module")
def past() -> list[AnyEvent]:
    """Forty days of a world of a thousand viewers."""
    return list(Audience.fresh(CONF.model_copy(update={"viewers": 1000}), 5).simulate(40))


def acts(events: Iterable[AnyEvent]) -> list[Act]:
    """As live state reads the log."""
    found = []
    for offset, event in enumerate(events, 1):
        match event:
            case Rating():
                found.append(Act(offset, "rating", event.ts, event.user_id, event.movie_id, event.strength))
            case Watch():
                found.append(Act(offset, "watch", event.ts, event.user_id, event.movie_id, event.minute))
            case Movie():
                found.append(Act(offset, "movie", 0, "", event.movie_id, 0, event.title, event.genres))
    return found


def ratings(events: Iterable[AnyEvent]) -> list[Rating]:
    return [event for event in events if isinstance(event, Rating)]


def genre_shares(events: Iterable[AnyEvent], movies: Iterable[Movie]) -> dict[str, float]:
    known = {movie.movie_id: movie.genres for movie in movies}
    counts = Counter[str]()
    for rating in ratings(events):
        for genre in known[rating.movie_id]:
            counts[genre] += 1 / len(known[rating.movie_id])
    return {genre: count / counts.total() for genre, count in counts.items()}


def worth(audience: Audience, slates: Iterable[tuple[str, int, Sequence[str]]]) -> float:
    return float(np.mean([audience.value(user, slate, ts) for user, ts, slate in slates]))


# Nobody's luck depends on anybody else


def test_the_same_question_has_the_same_answer_in_any_order() -> None:
    one, other = Audience.fresh(CONF, 1).after(10), Audience.fresh(CONF, 1)
    slate = [movie.movie_id for movie in one.movies[:20]]
    visits = one.visits(3)
    answers = [one.react(visit.user_id, slate, visit.ts, "r") for visit in visits]
    list(other.simulate(2))
    other.visits(40), other.best(visits[0].user_id, visits[0].ts, 5)
    assert other.visits(13) == visits
    again = [other.react(visit.user_id, slate, visit.ts, "r") for visit in reversed(visits)]
    assert again[::-1] == answers
    assert any(answers)
    assert list(one.organic(2)) == list(other.after(10).organic(2))
    assert other.releases(12) == one.releases(2)


def test_another_seed_is_another_audience(audience: Audience) -> None:
    assert [v.ts for v in Audience.fresh(CONF, 2).after(10).visits(0)] != [v.ts for v in audience.visits(0)]


def test_what_happens_comes_by_time_with_ids_of_its_own(past: list[AnyEvent]) -> None:
    assert len({event.event_id for event in past}) == len(past)
    times = [event.ts for event in past if not isinstance(event, Movie)]
    assert all(one <= next_ for one, next_ in pairwise(times))
    met = set()
    for event in past:
        if isinstance(event, Movie):
            met.add(event.movie_id)
    new = {event.movie_id for event in past if isinstance(event, Rating) and event.movie_id not in met}
    assert new <= {movie.movie_id for movie in Audience.fresh(CONF, 5).movies}


def test_a_reaction_is_a_click_that_names_the_request_then_minutes_then_perhaps_a_rating(audience: Audience) -> None:
    visit = audience.visits(0)[0]
    slate = audience.best(visit.user_id, visit.ts, 20)
    for step in range(50):
        found = audience.react(visit.user_id, slate, visit.ts + step, "request-7")
        assert [deed.ts for deed in found] == sorted(deed.ts for deed in found)
        clicks = [deed for deed in found if isinstance(deed, Click)]
        assert {click.request_id for click in clicks} <= {"request-7"}
        assert {deed.movie_id for deed in found} == {click.movie_id for click in clicks} <= set(slate)
        assert all(visit.ts < deed.ts for deed in found)
        assert all(rating.scale == 10 and 1 <= rating.rating <= 10 for rating in ratings(found))
        assert sum(isinstance(deed, Watch) for deed in found) <= 6 * len(clicks)


@pytest.mark.parametrize("slate", [[], ["no-such-movie"], ["no-such-movie", "sim-00001", "sim-00001"]])
def test_slates_of_anything(audience: Audience, slate: list[str]) -> None:
    visit = audience.visits(0)[0]
    assert {deed.movie_id for deed in audience.react(visit.user_id, slate, visit.ts)} <= {"sim-00001"}
    assert audience.value(visit.user_id, slate, visit.ts) >= 0
    assert audience.value(visit.user_id, ["no-such-movie"], visit.ts) == 0


def test_a_long_slate(audience: Audience) -> None:
    visit = audience.visits(0)[0]
    slate = [movie.movie_id for movie in audience.movies] * 20
    assert audience.react(visit.user_id, slate, visit.ts)
    assert audience.value(visit.user_id, slate, visit.ts) > audience.value(visit.user_id, slate[:300], visit.ts)


def test_a_movie_that_is_not_out_yet_is_passed_over(audience: Audience) -> None:
    visit = audience.visits(0)[0]
    coming = next(movie for day in range(5, 60) for movie in audience.releases(day))
    audience.visits(61)
    assert audience.value(visit.user_id, [coming.movie_id], visit.ts) == 0
    assert audience.value(visit.user_id, [coming.movie_id], visit.ts + 62 * DAY_MS) > 0


def test_a_stranger_is_refused_by_name(audience: Audience) -> None:
    with pytest.raises(AudienceError, match="viewer 'nobody' is not in this audience"):
        audience.react("nobody", ["sim-00001"], audience.begins_ms)


# What it says of itself holds


def test_reactions_are_worth_what_value_says(audience: Audience) -> None:
    visits = audience.visits(0)
    viewer, ts = visits[0].user_id, visits[0].ts
    slate = audience.best(viewer, ts, 20)
    tries = 4000
    conf = CONF.model_copy(update={"rating_share": 1.0})
    sure = Audience.fresh(conf, 1).after(10)  # every liking is told
    liked = sum(sum(r.rating >= 7 for r in ratings(sure.react(viewer, slate, ts + n))) for n in range(tries))
    expected = sure.value(viewer, slate, ts)
    assert liked / tries == pytest.approx(expected, abs=4 * np.sqrt(expected / tries))


def test_places_are_looked_at_less_the_lower_they_are(audience: Audience) -> None:
    """The same movie in every place: clicks by place are the examination curve."""
    visit = audience.visits(0)[0]
    movie = audience.best(visit.user_id, visit.ts, 1)
    clicks = Counter[int]()
    for n in range(6000):
        for deed in audience.react(visit.user_id, movie * 20, visit.ts + 100_000 * n):
            if isinstance(deed, Click):
                clicks[(deed.ts - visit.ts) % 100_000 // 2000] += 1
    counts = np.array([clicks[place] for place in range(1, 21)])
    expected = counts[0] * np.arange(1, 21) ** -CONF.position_bias
    assert np.all(np.abs(counts - expected) < 6 * np.sqrt(expected) + 0.1 * expected)


def test_the_oracle_beats_taste_alone_beats_popularity_beats_chance(audience: Audience) -> None:
    rng = np.random.default_rng(0)
    ids = [movie.movie_id for movie in audience.movies]
    visits = audience.visits(1)
    oracle, personal, popular, random = [], [], [], []
    for ts, user in visits:
        hot = audience.popular(ts, 60)
        order = audience.best(user, ts, len(ids))
        oracle.append((user, ts, order[:20]))
        personal.append((user, ts, [movie for movie in order if movie in hot][:20]))
        popular.append((user, ts, hot[:20]))
        random.append((user, ts, rng.choice(ids, 20).tolist()))
    values = [worth(audience, slates) for slates in (oracle, personal, popular, random)]
    assert values[0] > 1.15 * values[1]
    assert values[1] > 1.5 * values[2]
    assert values[2] > 1.5 * values[3]


def test_somebody_elses_best_slate_is_worth_less(audience: Audience) -> None:
    visits = audience.visits(1)
    slates = [audience.best(user, ts, 20) for ts, user in visits]
    own = worth(audience, [(user, ts, slate) for (ts, user), slate in zip(visits, slates, strict=True)])
    others = slates[1:] + slates[:1]
    other = worth(audience, [(user, ts, slate) for (ts, user), slate in zip(visits, others, strict=True)])
    assert own > 1.5 * other


def test_taste_has_structure_within_genres() -> None:
    """With genres alone switched off, tastes still differ; with both off, everyone's best slate is worth the same."""
    for weights, differs in (((0.0, 0.8), True), ((0.8, 0.0), True), ((0.0, 0.0), False)):
        conf = CONF.model_copy(update={"genre_weight": weights[0], "factor_weight": weights[1]})
        found = Audience.fresh(conf, 1)
        slates = {tuple(found.best(user, found.begins_ms, 1)) for user in found.viewers[:50]}
        assert (len(slates) > 5) == differs


def test_popularity_has_a_tail_and_news_fade(audience: Audience, past: list[AnyEvent]) -> None:
    counts = sorted(Counter(rating.movie_id for rating in ratings(past)).values(), reverse=True)
    assert sum(counts[:15]) > 0.17 * sum(counts)  # a twentieth of the movies
    assert len(counts) > 250
    new = next(movie.movie_id for day in range(30) for movie in audience.releases(day))
    ranks = [audience.popular(audience.begins_ms + day * DAY_MS, 1000).index(new) for day in (30, 60, 120)]
    assert ranks == sorted(ranks)
    assert ranks[0] < ranks[2]


def test_weeks_have_a_rhythm_and_days_too(past: list[AnyEvent]) -> None:
    days = np.array([rating.ts // DAY_MS for rating in ratings(past)])
    weekday = np.bincount((days + 3) % 7, minlength=7)
    assert weekday[4:].mean() > 1.15 * weekday[:4].mean()
    hours = np.bincount([watch.ts % DAY_MS // 3_600_000 for watch in past if isinstance(watch, Watch)], minlength=24)
    assert hours[19:23].mean() > 5 * hours[3:7].mean()


def test_likings_are_a_sensible_share(past: list[AnyEvent]) -> None:
    assert 0.45 < np.mean([rating.rating >= 7 for rating in ratings(past)]) < 0.8
    begun = sum(isinstance(event, Watch) and event.minute == 0 for event in past)
    assert len(ratings(past)) / begun == pytest.approx(CONF.rating_share, abs=0.05)


def test_hardly_anyone_chooses_the_same_movie_twice(past: list[AnyEvent]) -> None:
    pairs = Counter((rating.user_id, rating.movie_id) for rating in ratings(past))
    assert sum(count > 1 for count in pairs.values()) < 0.1 * len(pairs)


def test_viewers_and_movies_come_and_viewers_go() -> None:
    conf = CONF.model_copy(update={"lifetime_days": 30.0})
    first = Audience.fresh(conf, 1)
    later = first.after(60)
    stayed = set(first.viewers) & set(later.viewers)
    assert 0.05 < len(stayed) / len(first.viewers) < 0.3
    assert len(later.viewers) == pytest.approx(len(first.viewers), rel=0.2)
    assert 30 < len(later.movies) - len(first.movies) < 90
    accounts = [event for event in first.simulate(20) if event.kind == "account"]
    assert len({event.user_id for event in accounts}) == len(accounts) == pytest.approx(20 * 400 / 30, rel=0.25)
    assert later.viewers == first.after(20).after(40).viewers


def test_a_shock_is_one_movie_in_the_news_and_a_busy_day() -> None:
    conf = CONF.model_copy(update={"shocks_per_month": 30.0})
    calm, shocked = Audience.fresh(CONF, 1), Audience.fresh(conf, 1)
    assert len(shocked.visits(0)) > 1.05 * len(calm.visits(0))
    assert calm.popular(calm.begins_ms, 1) != shocked.popular(calm.begins_ms, 1)


def test_a_year_has_seasons_where_they_are_asked_for() -> None:
    still, moved = (Audience.fresh(CONF.model_copy(update={"yearly": y}), 1) for y in (0.0, 0.5))
    days = range(0, 21)
    assert sum(len(moved.visits(d)) for d in days) > 1.25 * sum(len(still.visits(d)) for d in days)  # in January
    assert sum(len(moved.visits(d + 182)) for d in days) < 0.8 * sum(len(still.visits(d + 182)) for d in days)


def test_memory_does_not_grow_with_what_happens() -> None:
    found = Audience.fresh(CONF.model_copy(update={"lifetime_days": 1000.0}), 1)
    next(iter(found.simulate(1)))
    tracemalloc.start()
    peaks = []
    for days in (20, 80):
        tracemalloc.reset_peak()
        events = sum(1 for _ in found.simulate(days))
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert events > 10_000
    assert peaks[1] < 2 * peaks[0]


# Shifts


def shares(shift: Shift | None, days: range) -> tuple[dict[str, float], float, int]:
    """Genre shares, the share of likings and the number of ratings on some days of a world that shifts."""
    found = Audience.fresh(CONF.model_copy(update={"viewers": 1200}), 3, shift)
    events = [event for day in days for event in found.organic(day)]
    told = ratings(events)
    movies = [*found.movies, *(movie for day in range(60) for movie in found.releases(day))]
    return genre_shares(events, movies), float(np.mean([r.rating >= 7 for r in told])), len(told)


BEFORE, AFTER = range(0, 20), range(20, 40)


@pytest.fixture(scope="module")
def calm() -> dict[range, tuple[dict[str, float], float, int]]:
    return {days: shares(None, days) for days in (BEFORE, AFTER)}


def test_taste_shifts_from_its_day_on_and_nothing_else(calm: dict) -> None:
    shift = Shift.parse("day=20 from=Drama to=Comedy strength=0.8")
    assert shares(shift, BEFORE) == calm[BEFORE]
    genres, liked, count = shares(shift, AFTER)
    was, liked_before, count_before = calm[AFTER]
    assert genres["Drama"] < 0.6 * was["Drama"]
    assert genres["Comedy"] > 1.5 * was["Comedy"]
    others = [name for name in was if name not in ("Drama", "Comedy")]
    assert sum(genres[n] for n in others) == pytest.approx(sum(was[n] for n in others), rel=0.2)
    assert count == pytest.approx(count_before, rel=0.05)
    assert liked == pytest.approx(liked_before, abs=0.15)


def test_fewer_viewers_move_the_shares_less(calm: dict) -> None:
    whole, half = (shares(Shift.parse(f"day=20 from=Drama to=Comedy share={s}"), AFTER)[0]["Drama"] for s in (1, 0.4))
    assert whole < half < calm[AFTER][0]["Drama"]


def test_ratings_shift_and_nothing_else(calm: dict) -> None:
    shift = Shift.parse("day=20 kind=rating strength=-0.5")
    assert shares(shift, BEFORE) == calm[BEFORE]
    genres, liked, count = shares(shift, AFTER)
    assert liked < calm[AFTER][1] - 0.12
    assert genres == pytest.approx(calm[AFTER][0], abs=1e-9)
    assert count == calm[AFTER][2]


def test_activity_shifts_and_nothing_else(calm: dict) -> None:
    shift = Shift.parse("day=20 kind=activity strength=-0.5")
    assert shares(shift, BEFORE) == calm[BEFORE]
    genres, liked, count = shares(shift, AFTER)
    assert count == pytest.approx(0.5 * calm[AFTER][2], rel=0.15)  # newcomers come once in any case
    assert liked == pytest.approx(calm[AFTER][1], abs=0.03)
    assert sum(abs(genres[n] - calm[AFTER][0][n]) for n in genres) < 0.12


def test_the_truth_shifts_too() -> None:
    shift = Shift.parse("day=5 from=Drama strength=1")
    calm, moved = Audience.fresh(CONF, 1), Audience.fresh(CONF, 1, shift)
    drama = [movie.movie_id for movie in calm.movies if movie.genres == ("Drama",)][:20]
    other = [movie.movie_id for movie in calm.movies if "Drama" not in movie.genres][:20]
    user, day_4, day_5 = calm.viewers[0], calm.begins_ms + 4 * DAY_MS, calm.begins_ms + 5 * DAY_MS
    assert moved.value(user, drama, day_4) == calm.value(user, drama, day_4)
    assert moved.value(user, drama, day_5) < 0.2 * calm.value(user, drama, day_5)
    assert moved.value(user, other, day_5) == pytest.approx(calm.value(user, other, day_5), rel=0.3)


def test_a_shift_of_taste_does_not_make_everything_popular_better() -> None:
    """Before and after, slates of what is popular by then are about as good: viewers turn, they do not swell."""
    shift = Shift.parse("day=0 from=Drama to=Comedy strength=0.8")
    calm, moved = Audience.fresh(CONF, 1), Audience.fresh(CONF, 1, shift)
    values = []
    for found in (calm, moved):
        told = [rating for day in range(20) for rating in ratings(found.organic(day)) if rating.rating >= 7]
        popular = [movie for movie, _ in Counter(rating.movie_id for rating in told).most_common(20)]
        values.append(worth(found, [(user, ts, popular) for ts, user in found.visits(20)]))
    assert values[1] == pytest.approx(values[0], rel=0.35)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "does not say when"),
        ("from=Drama", "does not say when"),
        ("day=ten from=Drama", "day=ten"),
        ("day=1.5 from=Drama", "whole number of days"),
        ("day=99999999999 from=Drama", "whole number of days"),
        ("day=1 form=Drama", "did you mean from="),
        ("day=1 from", "needs one value"),
        ("day=1 day=2 from=Drama", "needs one value"),
        ("day=1 from=Drama strength=nan", "is not a number"),
        ("day=1 from=Drama strength=1e999", "is not a number"),
        ("day=1 from=Drama strength=0", "above 0, at most 1"),
        ("day=1 from=Drama strength=-1", "above 0, at most 1"),
        ("day=1 kind=rating strength=-2", "from -1 to 1"),
        ("day=1 from=Drama share=0", "above 0, at most 1"),
        ("day=1 from=Drama share=lots", "is not a number"),
        ("day=1 kind=weather", "taste, rating or activity"),
        ("day=1 kind=activity from=Drama", "no other shift does"),
        ("day=1", "names genres"),
        ("day=1 from=Drama to=Drama", "from Drama to itself"),
    ],
)
def test_a_shift_that_is_none_is_one_plain_sentence(text: str, says: str) -> None:
    with pytest.raises(ShiftError, match=says.replace("(", r"\(")):
        Shift.parse(text)


def test_a_genre_that_no_movie_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(ShiftError, match="no movie is of genre 'drama'; did you mean Drama"):
        Audience.fresh(CONF, 1, Shift.parse("day=1 from=drama"))


# Fitted to a history


def test_a_fitted_world_goes_on_as_its_history_was(past: list[AnyEvent]) -> None:
    first = Audience.fresh(CONF.model_copy(update={"viewers": 1000}), 5)
    movies = [*first.movies, *(event for event in past if isinstance(event, Movie))]
    fitted = Audience.fitted(movies, acts(past), CONF, 9)
    assert {movie.movie_id for movie in movies} == {movie.movie_id for movie in fitted.movies}
    assert 0 < fitted.begins_ms - max(event.ts for event in past) <= DAY_MS
    assert fitted.visits(0)[0].ts >= fitted.begins_ms
    went_on = list(fitted.simulate(28))
    movies += [event for event in went_on if isinstance(event, Movie)]
    recent = [rating for rating in ratings(past) if rating.ts > past[-1].ts - 28 * DAY_MS]
    assert len(ratings(went_on)) == pytest.approx(len(recent), rel=0.25)
    was, now = genre_shares(recent, movies), genre_shares(went_on, movies)
    assert sum(abs(was.get(name, 0) - now.get(name, 0)) for name in {*was, *now}) / 2 < 0.12
    liked = [np.mean([rating.rating >= 7 for rating in some]) for some in (recent, ratings(went_on))]
    assert liked[0] == pytest.approx(liked[1], abs=0.08)
    known = {rating.user_id for rating in ratings(past)}
    assert 0.6 < np.mean([rating.user_id in known for rating in ratings(went_on)]) < 0.99
    again = {(r.user_id, r.movie_id) for r in ratings(past)} & {(r.user_id, r.movie_id) for r in ratings(went_on)}
    assert not again


def test_fitted_tastes_are_those_of_the_history(past: list[AnyEvent]) -> None:
    """By the fitted truth, busy viewers' next choices in the true world are worth more to them than to others."""
    true = Audience.fresh(CONF.model_copy(update={"viewers": 1000}), 5)
    movies = [*true.movies, *(event for event in past if isinstance(event, Movie))]
    fitted = Audience.fitted(movies, acts(past), CONF, 9)
    busy = [user for user, n in Counter(r.user_id for r in ratings(past)).most_common(60) if user in fitted.viewers]
    then = true.begins_ms + 40 * DAY_MS
    slates = [true.best(user, then, 20) for user in busy]
    own = worth(fitted, [(u, fitted.begins_ms, s) for u, s in zip(busy, slates, strict=True)])
    other = worth(fitted, [(u, fitted.begins_ms, s) for u, s in zip(busy, slates[1:] + slates[:1], strict=True)])
    assert own > 1.1 * other


def test_a_history_of_ratings_goes_on_as_ratings(past: list[AnyEvent]) -> None:
    fitted = Audience.fitted((), [act for act in acts(past) if act.kind == "rating"], CONF, 9)
    assert {event.kind for event in fitted.simulate(3)} <= {"rating", "account", "movie"}


@pytest.mark.parametrize("viewers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["rating", "watch", "click"])
def test_the_smallest_histories(viewers: int, kind: str) -> None:
    few = [Act(n, kind, 1_700_000_000_000 + n, f"u{n % viewers}", f"m{n}", 0.5) for n in range(1, 5)]  # type: ignore[arg-type]
    fitted = Audience.fitted((), few, CONF, 1)
    assert len(fitted.movies) == 4
    list(fitted.simulate(5))
    assert fitted.value("u0", ["m1"], fitted.begins_ms) > 0


def test_a_history_in_which_nobody_did_anything_is_refused() -> None:
    with pytest.raises(AudienceError, match="import ratings first"):
        Audience.fitted((), [Act(1, "account", 1_700_000_000_000, "u", "")], CONF, 1)

"""Exploration: who is explored, what is drawn, and that what the journal says of it is so."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2

from conf.home import Home
from conf.sections.serving import Cache, Door
from conf.sections.serving import Serving as Conf
from conf.settings import Settings
from events.event import IMPRESSIONS, Impression
from events.local_log import LocalLog
from mlflow_server.release import Release
from pipelines.package import package
from pipelines.serve import serve
from serving.exploration import TOP, Draw, explored, is_explored, own_propensities, random_order

STRICT = 1e-4  # the seeds are fixed: a test that passes once passes always


def fits(observed: np.ndarray, probability: np.ndarray, draws: int) -> bool:
    """Chi-square of counts over all outcomes against their probabilities; an impossible one must not have happened."""
    if observed[probability == 0].any():
        return False
    seen, expected = observed[probability > 0], draws * probability[probability > 0]
    statistic = float(((seen - expected) ** 2 / expected).sum())
    return statistic == 0 or chi2.sf(statistic, len(seen) - 1) > STRICT


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_the_declared_share_is_explored(share: float) -> None:
    count = sum(is_explored(f"3f6c-{n:x}", share) for n in range(100_000))
    assert binomtest(count, 100_000, share).pvalue > STRICT


@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 3), (100, 20), (12, 12)])
def test_each_of_the_best_is_as_likely_as_any_other_on_each_place(n: int, k: int) -> None:
    draws = np.array([random_order(f"3f6c-{number:x}", n, k) for number in range(100_000)])
    for place in range(k):
        assert fits(np.bincount(draws[:, place], minlength=n), np.full(n, 1 / n), len(draws))


def test_each_order_is_as_likely_as_any_other() -> None:
    orders = Counter(tuple(random_order(f"q{n}", 4, 3)) for n in range(100_000))
    assert len(orders) == 24
    assert fits(np.array([*orders.values()]), np.full(24, 1 / 24), 100_000)


def test_the_order_says_nothing_of_who_is_explored() -> None:
    firsts = [random_order(f"q{n}", 5, 1)[0] for n in range(100_000) if is_explored(f"q{n}", 0.1)]
    assert fits(np.bincount(firsts, minlength=5), np.full(5, 0.2), len(firsts))


def test_a_journaled_draw_can_be_done_again() -> None:
    """The draws of ids that were journaled once: what was written down then must hold for ever."""
    assert [n for n in range(300) if is_explored(f"00c0ffee-{n:x}", 0.02)] == [30, 63, 294]
    assert random_order("00c0ffee-1", 100, 8) == [74, 14, 35, 80, 89, 17, 98, 12]


def draw(request_id: str, share: float, k: int, best: int) -> Draw:
    """What the ladder shows of a request, explored or not."""
    return explored(request_id, share, k, best) or Draw(range(min(k, best)), own_propensities(share, k, best))


@given(st.text(max_size=20), st.floats(0, 1), st.integers(1, 150), st.integers(1, 150))
def test_a_draw_shows_no_movie_twice_and_as_many_as_there_are(request_id: str, share: float, k: int, best: int) -> None:
    request_id = request_id.encode("utf-8", "ignore").decode()
    found = draw(request_id, share, k, best)
    assert len({*found.places}) == len(found.places) == len(found.propensities) == min(k, best)
    assert {*found.places} <= {*range(max(min(k, best), min(best, TOP)))}
    assert all(0 < p <= 1 for p in found.propensities)
    assert list(found.places[TOP:]) == [*range(TOP, min(k, best))], "beyond the top, the model's own order"
    if not is_explored(request_id, share):
        assert [*found.places] == [*range(min(k, best))]


@pytest.mark.parametrize(("share", "k", "best"), [(0.02, 3, 100), (0.3, 8, 4)])
def test_propensities_are_what_100_000_draws_show(share: float, k: int, best: int) -> None:
    assert_propensities(100_000, share, k, best)


@pytest.mark.parametrize(("share", "k", "best"), [(0.3, 5, 5), (1.0, 2, 9), (0.5, 103, 103), (0.5, 1, 1)])
def test_propensities_of_short_long_and_whole_slates(share: float, k: int, best: int) -> None:
    assert_propensities(5_000, share, k, best)


def assert_propensities(draws: int, share: float, k: int, best: int) -> None:
    """For each place: how often each movie stood there, against the propensity that was journaled with it."""
    shown = min(k, best)
    counts, propensity = np.zeros((shown, best)), np.zeros((shown, best))
    for number in range(draws):
        found = draw(f"3f6c-{number:x}", share, k, best)
        rows = range(shown)
        counts[rows, found.places] += 1
        assert not (propensity[rows, found.places] - found.propensities)[propensity[rows, found.places] > 0].any()
        propensity[rows, found.places] = found.propensities
    assert np.allclose(propensity.sum(axis=1), 1)
    for place in range(shown):
        assert fits(counts[place], propensity[place], draws)


# Through the edge ---------------------------------------------------------------------------------------------------


def told(answer: Any) -> tuple[tuple[str, ...], bool]:
    assert (answer.status_code, answer.headers["x-rung"]) == (200, "model")
    return tuple(answer.text.split(",")), "x-explored" in answer.headers


def journaled(home: Home) -> dict[str, Impression]:
    with LocalLog(home.log) as log:
        return {r.event.event_id: r.event for r in log.iterate(IMPRESSIONS)}  # type: ignore[misc]


def test_propensities_of_real_answers_are_what_they_show(client: Callable, home: Home) -> None:
    """Some from the cache, some new: 3,000 answers of a third of which the order is random."""
    call = client(home=home, exploration_share=1 / 3, cache=Cache(entries=2))
    wishes = [("GET", f"/recommend/u{n % 4}?k=3", {}) for n in range(3000)]
    answers = [answer for start in range(0, 3000, 100) for answer in call.all(*wishes[start : start + 100])]
    greedy = told_greedy(call)
    call.edge.stop()
    found = journaled(home)
    for viewer in range(4):
        mine = [a for n, a in enumerate(answers) if n % 4 == viewer]
        unseen = [f"m{n}" for n in range(30) if not viewer <= n <= viewer + 2]
        for place in range(3):
            base = np.array([1 / 3 / 27 + 2 / 3 * (movie == greedy[viewer][place]) for movie in unseen])
            shown = Counter(told(answer)[0][place] for answer in mine)
            assert {*shown} <= {*unseen}, "nothing that the viewer has seen"
            observed = np.array([shown[movie] for movie in unseen])
            assert abs(observed - len(mine) * base).max() < 5 * np.sqrt(len(mine) * base.max())
    for answer in answers:
        impression, (movies, flag) = found[answer.headers["x-request-id"]], told(answer)
        viewer = int(impression.user_id[1:])
        assert (impression.items, impression.explored) == (movies, flag)
        assert impression.explored == is_explored(impression.event_id, 1 / 3), "it can be done again"
        for place, (movie, propensity) in enumerate(zip(movies, impression.propensities, strict=True)):
            assert propensity == pytest.approx(1 / 3 / 27 + 2 / 3 * (movie == greedy[viewer][place]))
    assert call.metric("greenlight_slates_explored_total") >= sum(told(answer)[1] for answer in answers)


def told_greedy(call: Any) -> list[tuple[str, ...]]:
    """The model's own slates, of answers that were not explored."""
    slates = []
    for viewer in range(4):
        while True:
            movies, flag = told(call("GET", f"/recommend/u{viewer}?k=3"))
            if not flag:
                slates.append(movies)
                break
    return slates


def test_scores_and_titles_stay_with_their_movies(client: Callable) -> None:
    call = client(exploration_share=1.0)
    items = call("POST", "/v1/recommend", json={"user_id": "u0", "k": 30}).json()["items"]
    assert len(items) == 27
    assert [item["movie_id"] for item in items] != sorted((i["movie_id"] for i in items), key=lambda m: -int(m[1:]))
    for item in items:
        number = int(item["movie_id"][1:])
        assert item["score"] == number + 1000 * (number in (20, 21))
        assert item["title"].startswith(f"Movie {number},")


def test_it_sticks_to_no_viewer(client: Callable) -> None:
    call = client(exploration_share=0.5)
    flags = [told(call("GET", "/recommend/u0?k=3"))[1] for _ in range(40)]
    assert {*flags} == {True, False}


def test_lower_rungs_and_the_popularity_arm_are_never_explored(client: Callable, home: Home) -> None:
    call = client("Moody", home=home, exploration_share=1.0)
    answers = [call("GET", "/recommend/raises?k=4") for _ in range(3)]
    opened = call.edge.shelf.champion
    call("GET", "/recommend/u0?k=4")
    opened.ready = None
    answers += [call("GET", "/recommend/u0?k=4"), call("GET", "/recommend/u1?k=4")]
    arm = client(home=home, exploration_share=1.0, popularity_share=1.0)
    answers += [arm("GET", f"/recommend/u{n}?k=4") for n in range(5)]
    call.edge.stop(), arm.edge.stop()
    found = journaled(home)
    assert Counter(a.headers["x-rung"] for a in answers) == {"popularity": 8, "stale": 1, "precomputed": 1}
    for answer in answers:
        impression = found[answer.headers["x-request-id"]]
        assert "x-explored" not in answer.headers
        assert (impression.explored, impression.propensities) == (False, (1.0,) * 4)


def test_a_stale_slate_is_the_models_own_and_is_filled_up(client: Callable) -> None:
    call = client(exploration_share=0.0001)
    slate = told(call("GET", "/recommend/u0?k=5"))[0]
    call.edge.shelf.champion.ready = None
    stale = call("GET", "/recommend/u0?k=5")
    assert (stale.headers["x-rung"], tuple(stale.text.split(","))) == ("stale", slate)


@pytest.mark.server
def test_a_served_bento_explores_its_share_and_journals_it(built: Callable[[str], Release], home: Home) -> None:
    import httpx

    settings = Settings(serving=Conf(exploration_share=0.2, workers=1), door=Door(anonymous_per_minute=1_000_000))
    package(home, settings, built("Tiny"), {"median_ms": 0.1})
    with serve(home, settings, port=0) as server, httpx.Client(base_url=server.url, timeout=30) as site:
        answers = [site.get(f"/recommend/viewer{n % 50}?k=5") for n in range(1000)]
        until = time.monotonic() + 60
        while len(found := journaled(home)) < 1000 and time.monotonic() < until:
            time.sleep(0.2)
    model = [a for a in answers if a.headers["x-rung"] == "model"]
    marked = [a for a in model if "x-explored" in a.headers]
    assert len(found) == 1000
    assert binomtest(len(marked), len(model), 0.2).pvalue > 1e-9  # ids are random here
    own = ("m21", "m20", "m29", "m28", "m27")
    for answer in model:
        impression = found[answer.headers["x-request-id"]]
        assert impression.explored == ("x-explored" in answer.headers)
        chosen = [movie == there for movie, there in zip(impression.items, own, strict=True)]
        assert impression.propensities == pytest.approx([0.2 / 30 + 0.8 * is_own for is_own in chosen])
        assert impression.explored or all(chosen)

"""The ladder: each rung broken in turn, by a bad model, by damaged files, by time."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf.settings import Settings
from events.state import Act
from mlflow_server.release import ReleaseError
from serving.edge import Edge


def served(answer: Any) -> str:
    return answer.headers["x-rung"]


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("user", ["raises", "exits", "shape", "text"])
def test_whatever_a_model_does_the_next_rung_answers(client: Callable, user: str, inline: bool) -> None:
    call = client("Moody", inline)
    answer = call("GET", f"/recommend/{user}?k=4")
    assert (answer.status_code, served(answer), len(answer.text.split(","))) == (200, "popularity", 4)
    assert served(call("GET", "/recommend/u0")) == "model"
    assert call.metric('greenlight_rung_unavailable_total{reason="fault",rung="model"}') == 1


@pytest.mark.parametrize("inline", [True, False])
def test_srv_03_nan_and_infinity_take_no_place_and_are_counted(client: Callable, inline: bool) -> None:
    call = client("NotANumber", inline)
    answer = call("POST", "/v1/recommend", json={"user_id": "new", "k": 2})
    assert [(i["movie_id"], i["score"]) for i in answer.json()["items"]] == [("m27", 0.9), ("m28", 0.8)]
    assert "NaN" not in answer.text
    assert "Infinity" not in answer.text
    assert call.metric("greenlight_non_finite_scores_total") == 2


def test_srv_03_nothing_but_nan_is_answered_from_below(client: Callable) -> None:
    call = client("AllNotANumber")
    answer = call("GET", "/recommend/u0?k=2")
    assert (served(answer), answer.status_code) == ("popularity", 200)
    assert call.metric("greenlight_non_finite_scores_total") == 30


def test_a_model_that_takes_too_long_is_left_and_the_slate_made_ahead_is_served(client: Callable) -> None:
    call = client("Moody", inline=False)
    answer = call("GET", "/recommend/sleeps", headers={"X-Deadline-Ms": "50"})
    assert served(answer) == "popularity"
    assert call.metric('greenlight_rung_unavailable_total{reason="timed_out",rung="model"}') == 1


def test_the_callers_deadline_is_bounded(client: Callable) -> None:
    call = client("Moody", inline=False, max_deadline_ms=100)
    assert served(call("GET", "/recommend/sleeps", headers={"X-Deadline-Ms": "60000"})) == "popularity"
    call = client("Moody", inline=False)
    assert served(call("GET", "/recommend/sleeps", headers={"X-Deadline-Ms": "60000"})) == "model"


def test_a_full_pool_steps_down_and_recovers(client: Callable) -> None:
    call = client("Moody", inline=False, pool_threads=2)
    answers = call.all(*(("GET", f"/recommend/sleeps{n}", {}) for n in range(9)))
    assert [a.status_code for a in answers] == [200] * 9
    turned_down = call.metric('greenlight_rung_unavailable_total{reason="pool_full",rung="model"}')
    assert 5 <= turned_down <= 7  # 2 wait and 2 run, as far as the threads were awake in time
    assert _within(10, lambda: served(call("GET", "/recommend/u0")) == "model")


def test_a_model_that_turns_slow_on_the_loop_is_moved_to_the_pool(client: Callable) -> None:
    call = client("Moody")
    for number, still_inline in enumerate((True, True, False)):
        call("GET", f"/recommend/sleeps{number}", headers={"X-Deadline-Ms": "50"})
        assert call.edge.shelf.champion.inline is still_inline


@pytest.mark.parametrize("harm", ["taken away", "damaged"])
def test_srv_01_without_its_weights_a_worker_says_fallback_only_and_comes_back(client: Callable, harm: str) -> None:
    whole = client()
    folder: Path = whole.edge.shelf.champion.folder
    weights = folder / "weights"
    shutil.copytree(weights, folder.parent / "kept")
    if harm == "taken away":
        shutil.rmtree(weights)
    else:
        (weights / "base.npy").write_bytes(b"\x93NUMPY garbage")
    assert served(whole("GET", "/recommend/u0")) == "model"  # it has them in memory

    started = _another(whole)
    try:
        ready = started("GET", "/readyz")
        assert (ready.status_code, ready.json()["state"], ready.headers["x-state"]) == (
            200,
            "fallback-only",
            "fallback-only",
        )
        assert "weights" in ready.json()["reason"]
        answer = started("GET", "/recommend/u0?k=5")
        assert (served(answer), answer.text, answer.headers["x-state"]) == (
            "precomputed",
            "m21,m20,m29,m28,m27",
            "fallback-only",
        )
        assert served(started("GET", "/recommend/nobody")) == "popularity"
        shutil.rmtree(weights, ignore_errors=True)
        shutil.copytree(folder.parent / "kept", weights)
        assert _within(20, lambda: started("GET", "/readyz").json()["state"] == "ready")
        assert served(started("GET", "/recommend/u0")) == "model"
    finally:
        started.edge.stop()


def test_each_lost_part_costs_one_rung_and_no_more(client: Callable) -> None:
    whole = client()
    folder: Path = whole.edge.shelf.champion.folder
    (folder / "topk" / "items.npy").unlink()
    without_topk = _another(whole)
    assert served(without_topk("GET", "/recommend/u0")) == "model"
    (folder / "weights" / "base.npy").unlink()
    assert served(_another(whole)("GET", "/recommend/u0")) == "popularity"
    (folder / "manifest.json").write_text("{}")
    answer = _another(whole)("GET", "/recommend/u0?k=3")
    assert (served(answer), len(answer.text.split(","))) == ("popularity", 3)
    (folder / "popularity.json").unlink()
    with pytest.raises(ReleaseError, match=r"popularity\.json: missing"):
        _another(whole)


def test_popularity_leaves_out_what_the_viewer_has_seen(client: Callable) -> None:
    whole = client()
    shutil.rmtree(whole.edge.shelf.champion.folder / "weights")
    (whole.edge.shelf.champion.folder / "topk" / "items.npy").unlink()
    call = _another(whole)
    items = call("GET", "/recommend/u5?k=30").text.split(",")
    assert len(items) == 27
    assert not {"m5", "m6", "m7"} & set(items)


def test_what_a_viewer_has_just_watched_no_rung_shows_again(client: Callable) -> None:
    call = client()
    opened, watched = call.edge.shelf.champion, {"m21", "m20", "m29"}
    assert set(call("GET", "/recommend/u0?k=3").text.split(",")) == watched
    opened.live.apply([Act(1, "watch", 0, user, movie, 1) for user in ("u0", "u1", "u2") for movie in watched])
    for rung, user in (("model", "u0"), ("stale", "u0"), ("precomputed", "u1"), ("popularity", "u2")):
        answer = call("GET", f"/recommend/{user}?k=20")
        assert (served(answer), len(answer.text.split(","))) == (rung, 20)
        assert not watched & set(answer.text.split(","))
        opened.ready, opened.ahead = None, None if rung == "precomputed" else opened.ahead


def _another(first: Any) -> Any:
    """A new worker on the same folder."""
    edge = first.edge
    return type(first)(Edge(edge.inner, edge.open_shelf, None, Settings()))


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.1)
    return False

"""Kept slates: fresh ones spare the model, older ones stand in for it, and what comes from elsewhere is checked."""

import asyncio
import math
import time
from array import array
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.sections.serving import Cache
from serving.cache import Kept, Key, Memory, name, pack, unpack
from serving.exploration import TOP
from serving.metrics import Metrics

KEY = Key("release", 3, "viewer é")
SLATE = Kept(["m1", "m2"], array("d", [0.9, 0.1]), "mark", 0.0)
KNOWN = {"m1", "m2", "m3"}


def rung(answer: Any) -> str:
    assert answer.status_code == 200
    return answer.headers["x-rung"]


def test_a_second_wish_is_answered_with_the_same_slate_and_its_age(client: Callable) -> None:
    call = client()
    first, second = call("GET", "/recommend/u0?k=5"), call("GET", "/recommend/u0?k=5")
    assert (rung(first), rung(second)) == ("model", "model")
    assert "age" not in first.headers
    assert second.headers["age"] == "0"
    assert first.text == second.text
    assert call.metric('greenlight_cache_total{result="hit"}') == 1
    told = [call("POST", "/v1/recommend", json={"user_id": "u1", "k": 5}).json()["items"] for _ in range(2)]
    assert told[0] == told[1]


def test_nobody_gets_the_slate_of_another_viewer_length_or_release(client: Callable) -> None:
    call = client()
    for path in ("u0?k=5", "u1?k=5", "u0?k=6"):
        call("GET", f"/recommend/{path}")
    assert call.metric('greenlight_cache_total{result="miss"}') == 3
    assert call.metric('greenlight_cache_total{result="hit"}') == 0
    names = {name(key) for key in (KEY, KEY._replace(release="r2"), KEY._replace(k=4), KEY._replace(user_id="other"))}
    assert len(names) == 4


def test_after_its_hour_a_slate_is_made_anew_and_stands_in_only_where_the_model_is_out(client: Callable) -> None:
    call = client("Moody", inline=False, cache=Cache(ttl_s=0.01, stale_s=60))
    assert rung(call("GET", "/recommend/sleeps?k=3", headers={"X-Deadline-Ms": "2000"})) == "model"
    time.sleep(0.05)
    late = call("GET", "/recommend/sleeps?k=3", headers={"X-Deadline-Ms": "100"})
    assert rung(late) == "stale"
    assert "age" in late.headers
    assert rung(call("GET", "/recommend/u0", headers={"X-Deadline-Ms": "2000"})) == "model"


def test_what_is_too_old_does_not_even_stand_in(client: Callable) -> None:
    call = client("Moody", inline=False, cache=Cache(ttl_s=0.01, stale_s=0.02))
    assert rung(call("GET", "/recommend/sleeps", headers={"X-Deadline-Ms": "2000"})) == "model"
    time.sleep(0.05)
    assert rung(call("GET", "/recommend/sleeps", headers={"X-Deadline-Ms": "100"})) == "popularity"


def test_many_who_ask_for_one_viewer_at_once_are_one_piece_of_work(client: Callable) -> None:
    call = client("Moody", inline=False, pool_threads=1)
    wish = ("GET", "/recommend/sleeps", {"headers": {"X-Deadline-Ms": "2000"}})
    answers = call.all(*[wish] * 12)
    assert {rung(answer) for answer in answers} == {"model"}  # each on its own, most would have found the pool full
    assert len({answer.text for answer in answers}) == 1


def test_memory_keeps_the_last_used_and_no_more() -> None:
    memory = Memory(Cache(entries=2), Metrics())
    keys = [KEY._replace(user_id=str(n)) for n in range(3)]
    for key in keys:
        memory.put(key, SLATE._replace(made_s=time.monotonic()))
    assert [memory.last(key) is not None for key in keys] == [False, True, True]


@pytest.mark.parametrize("mark", ["mark", "other"])
def test_a_slate_is_fresh_only_while_nothing_has_happened_to_it(mark: str) -> None:
    memory = Memory(Cache(), Metrics())
    memory.put(KEY, SLATE._replace(made_s=time.monotonic()))
    found = asyncio.run(memory.fresh(KEY, mark, KNOWN, 1.0))
    assert (found is not None) == (mark == "mark")
    assert memory.last(KEY) is not None


def test_what_is_packed_is_unpacked_with_its_age() -> None:
    made = SLATE._replace(made_s=time.monotonic() - 100)
    found = unpack(KEY, pack(KEY, made), KNOWN)
    assert found._replace(made_s=0) == SLATE
    assert math.isclose(found.age_s, 100, abs_tol=5)
    assert "viewer" not in name(KEY)


def test_the_best_of_the_rest_are_kept_too_up_to_a_hundred() -> None:
    """Exploration draws from them, whichever worker made the slate."""
    known = [f"m{n}" for n in range(TOP + 1)]
    whole = Kept(known[:TOP], array("d", range(TOP)), "mark", time.monotonic())
    assert unpack(KEY, pack(KEY, whole), known)._replace(made_s=whole.made_s) == whole
    too_many = Kept(known, array("d", range(TOP + 1)), "mark", time.monotonic())
    with pytest.raises(ValueError, match="too many"):
        unpack(KEY, pack(KEY, too_many), known)


@pytest.mark.parametrize("raw", [b"", b"\x80\x04N.", b"null", b"[]", b'{"name": 1}'], ids=repr)
def test_what_is_no_slate_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any that says so
        unpack(KEY, raw, KNOWN)


@pytest.mark.parametrize(
    "other",
    [
        {"name": "another"},
        {"ids": ["m1", "m1"]},
        {"ids": ["m1", "unknown"]},
        {"ids": []},
        {"ids": "m1"},
        {"scores": [1.0]},
        {"ids": ["m1", "m2", "m3", "m1"], "scores": [1.0] * 4},
        {"scores": ["NaN", 1.0]},
        {"scores": [None, 1.0]},
        {"made_ms": 10**15},
        {"more": 1},
    ],
    ids=str,
)
def test_a_slate_with_one_thing_wrong_is_refused(other: dict[str, Any]) -> None:
    whole = orjson.loads(pack(KEY, SLATE._replace(made_s=time.monotonic())))
    assert unpack(KEY, orjson.dumps(whole), KNOWN)
    with pytest.raises(ValueError):  # noqa: PT011 - any that says so
        unpack(KEY, orjson.dumps(whole | other), KNOWN)


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_be_refused(junk: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any that says so
        unpack(KEY, junk, KNOWN)

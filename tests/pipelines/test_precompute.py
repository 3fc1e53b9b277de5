"""Slates made anew beside a release: as the model would answer now, whole or refused, and taken up while it serves."""

import json
import time
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest

from conf.home import Home
from conf.sections.jobs import Schedule
from conf.sections.serving import Serving
from conf.settings import Settings
from events.event import CATALOGUE, EVENTS, Movie, Rating
from events.local_log import LocalLog
from mlflow_server import refreshed
from mlflow_server.building import build
from mlflow_server.ledger import Ledger, SigningKey
from mlflow_server.release import Release, ReleaseError
from models.base import slates
from models.shelf import find, load_file
from pipelines.package import package
from pipelines.precompute import PrecomputeError, precompute
from pipelines.serve import serve
from serving.feed import Feed
from serving.opened import Opened, Packaged
from serving.refreshing import Refreshing
from serving.report import reports
from tests.town import TINY, made

SETTINGS = Settings(serving=Serving(popularity_share=0.0))
tiny = load_file(TINY)


@pytest.fixture
def site(home: Home) -> Release:
    """A champion that learned from the tiny world, and what viewers did since."""
    shelved, key = find("ease"), SigningKey(home.keys)
    model = shelved.cls().fit(tiny.world())
    release = build(home.releases, model, shelved, "snap1", tiny.world(), "abc123", key)
    ledger = Ledger(home.ledger, key)
    facts = {"version": 1, "model": "ease", "release": release.digest, "run_id": "r", "snapshot": "snap1"}
    ledger.append("registered", facts, actor="ada", ts=1)
    ledger.append("promotion", {"version": 1, "release": release.digest, "alias": "champion"}, actor="ada", ts=1)
    happened(home, "u1", "m7")
    happened(home, "newcomer", "m3")
    with LocalLog(home.log) as log:
        log.append(
            CATALOGUE, [Movie(event_id="new", ts=tiny.END_MS, movie_id="brand-new", title="New", genres=("Drama",))]
        )
    happened(home, "newcomer", "brand-new")
    return release


def happened(home: Home, user: str, movie: str) -> None:
    rated = Rating(event_id=f"{user}-{movie}", ts=tiny.END_MS + 60_000, user_id=user, movie_id=movie, rating=5, scale=5)
    with LocalLog(home.log) as log:
        log.append(EVENTS, [rated])


@pytest.fixture
def opened(home: Home, site: Release) -> Iterator[Opened]:
    """The release as a worker has it that has followed the log."""
    one = Opened(site.folder, Packaged(site.digest, SigningKey(home.keys).public, {}), SETTINGS)
    feed = Feed(home, SETTINGS)
    feed.follow(one.live, 60)
    yield one
    feed.close()
    one.close()


def within(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_each_slate_is_what_the_model_would_answer_now(home: Home, site: Release, opened: Opened) -> None:
    (ahead,) = precompute(home, SETTINGS).arms
    assert (ahead.alias, ahead.viewers, ahead.of, ahead.movies) == ("champion", 13, 13, tiny.ITEMS + 1)
    opened.take_up(refreshed.read(home.live / site.digest))
    live = opened.live
    for user in ("newcomer", *live.known):
        fresh = slates(opened.ready.model, live.history(user), live.counts, opened.now_ms(), 50)
        found, row = opened.made_ahead(user)
        assert found.topk.items[row].tolist() == fresh.items[0].tolist(), user
        assert found.topk.scores[row] == pytest.approx(fresh.scores[0].astype(np.float32), abs=1e-6)
    assert opened.newer[1].ids == live.popular.ids
    assert "brand-new" in opened.newer[1].ids


def test_what_is_damaged_is_refused_and_the_floor_serves(home: Home, site: Release, opened: Opened) -> None:
    floor = opened.made_ahead("u2")
    precompute(home, SETTINGS)
    whole = refreshed.read(home.live / site.digest)
    for name in ("items.npy", "viewers.json", "popularity.json"):
        path = next((home.live / site.digest).glob(f"part-*/{name}"))
        kept = path.read_bytes()
        path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        look = Refreshing(home)
        look.look([opened])
        assert name in look.trouble
        assert "greenlight precompute" in look.trouble
        assert opened.made_ahead("u2") == floor
        path.unlink()
        with pytest.raises(ReleaseError, match=name):
            refreshed.read(home.live / site.digest)
        path.write_bytes(kept)
    manifest = home.live / site.digest / "manifest.json"
    for spoilt in (b"", b"[]", manifest.read_bytes().replace(b'"note":"all', b'"note":"not')):
        kept = manifest.read_bytes()
        manifest.write_bytes(spoilt)
        with pytest.raises(ReleaseError, match="damaged"):
            refreshed.read(home.live / site.digest)
        manifest.write_bytes(kept)
    look = Refreshing(home)
    look.look([opened])
    assert look.trouble == ""
    assert opened.made_ahead("u2")[0].rows == {user: row for row, user in enumerate(whole.viewers)}


def test_one_part_is_kept_and_a_damaged_one_made_anew(home: Home, site: Release) -> None:
    precompute(home, SETTINGS)
    next((home.live / site.digest).glob("part-*/items.npy")).write_bytes(b"gone")
    happened(home, "u5", "m20")
    precompute(home, SETTINGS)
    assert len(list((home.live / site.digest).glob("part-*"))) == 1
    found = refreshed.read(home.live / site.digest)
    slate = found.items[found.viewers.index("u5")]
    assert "m20" not in {found.movies[code] for code in slate if code >= 0}


def test_a_viewer_without_a_new_slate_keeps_the_releases(home: Home, site: Release, opened: Opened) -> None:
    short = SETTINGS.model_copy(update={"schedule": Schedule(precompute_minutes=1e-9)})
    with pytest.raises(PrecomputeError, match="too slow"):
        precompute(home, short)
    assert refreshed.stamp(home.live / site.digest) is None
    assert opened.made_ahead("u2") is not None


def test_a_model_that_fails_leaves_what_was_made_before(townhome: Home) -> None:
    first = precompute(townhome, SETTINGS)
    assert first.arms[0].version == 1
    before = refreshed.stamp(townhome.live / made(townhome, 1)["release"])
    with LocalLog(townhome.log) as log:  # the tiny model cannot do with a movie that it did not learn
        log.append(CATALOGUE, [Movie(event_id="new", ts=tiny.END_MS, movie_id="new", title="New", genres=())])
    happened(townhome, "u1", "new")
    with pytest.raises(PrecomputeError, match="version 1: 0 of"):
        precompute(townhome, SETTINGS)
    assert refreshed.stamp(townhome.live / made(townhome, 1)["release"]) == before


def test_with_nobody_in_charge_there_is_nothing_to_do(home: Home) -> None:
    done = precompute(home, SETTINGS)
    assert (done.arms, "greenlight train" in done.sentence) == ((), True)


@pytest.mark.server
@pytest.mark.timeout(600)
def test_running_workers_take_it_up(home: Home, site: Release) -> None:
    package(home, SETTINGS, site, {"median_ms": 0.1})
    with serve(home, SETTINGS, port=0) as server:

        def answered(user: str) -> tuple[str, str]:
            """When there is no time for the model."""
            found = httpx.get(f"{server.url}/recommend/{user}?k=5", headers={"X-Deadline-Ms": "0.0001"}, timeout=60)
            return found.headers["x-rung"], found.text.strip()

        assert {answered("newcomer")[0] for _ in range(10)} == {"popularity"}, "the release does not know them"
        precompute(home, SETTINGS)
        within(lambda: {answered("newcomer")[0] for _ in range(10)} == {"precomputed"})
        found = refreshed.read(home.live / site.digest)
        slate = found.items[found.viewers.index("newcomer")][:5]
        assert answered("newcomer")[1] == ",".join(found.movies[code] for code in slate)
        manifest = home.live / site.digest / "manifest.json"
        kept = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**kept, "sha256": "0" * 64}))
        within(lambda: all("greenlight precompute" in report.trouble for report in reports(home)))
        assert answered("newcomer")[0] == "precomputed", "what was there before goes on"

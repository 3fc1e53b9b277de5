"""An event that comes late: the day that it belongs to, and what rests on that day, are made anew, and nothing else."""

import pytest

from conf.home import Home
from conf.sections.serving import Serving
from conf.settings import Settings
from events.archive import archive, read_between
from events.event import EVENTS, Impression, Rating
from events.local_log import LocalLog
from events.store import FolderStore
from mlflow_server import refreshed
from mlflow_server.building import build
from mlflow_server.ledger import Ledger, SigningKey
from models.shelf import find, load_file
from pipelines.outcomes import rates
from pipelines.precompute import precompute
from pipelines.snapshot import cut
from tests.town import TINY

tiny = load_file(TINY)
DAY = 86_400_000
FIRST = tiny.END_MS // DAY * DAY + DAY  # the beginning of the first of three days
CONF = Settings(serving=Serving(popularity_share=0.0))


def rating(user: str, movie: str, day: int) -> Rating:
    ts = FIRST + day * DAY + DAY // 2
    return Rating(event_id=f"{user}-{movie}", ts=ts, user_id=user, movie_id=movie, rating=5, scale=5)


@pytest.fixture
def site(home: Home) -> Home:
    """Three days of events, all archived; a champion, and slates made ahead as of the third day."""
    key = SigningKey(home.keys)
    release = build(
        home.releases, find("ease").cls().fit(tiny.world()), find("ease"), "snap1", tiny.world(), "abc123", key
    )
    ledger, facts = Ledger(home.ledger, key), {"version": 1, "model": "ease", "release": release.digest}
    ledger.append("registered", {**facts, "run_id": "r", "snapshot": "snap1"}, actor="ada", ts=1)
    ledger.append("promotion", {**facts, "alias": "champion"}, actor="ada", ts=1)
    slate = Impression(
        event_id="slate", ts=FIRST, wall_ts=FIRST, user_id="u1", arm="champion", release=release.digest, rung="model",
        items=("m7",), propensities=(1.0,), k=1, latency_ms=1,
    )  # fmt: skip
    with LocalLog(home.log) as log:
        log.append_all([slate, *(rating(f"u{day}", "m5", day) for day in range(3))])
        archive(log, FolderStore(home.history))
    precompute(home, CONF)
    return home


def days(home: Home) -> dict[str, bytes]:
    return {file.parent.name: file.read_bytes() for file in (home.history / EVENTS).glob("day=*/events.parquet")}


def slate_of(home: Home, user: str) -> list[str]:
    ledger = Ledger.to_read(home.ledger, home.keys)
    made = refreshed.read(home.live / next(iter(ledger.entries("promotion"))).body["release"])
    return [made.movies[item] for item in made.items[made.viewers.index(user)].tolist() if item >= 0]


def test_a_late_event_makes_its_day_anew_and_all_that_rests_on_it(site: Home) -> None:
    before, cut_before = days(site), cut(site, CONF)
    assert "m7" in slate_of(site, "u1")
    period = {"since_ms": FIRST, "until_ms": FIRST + DAY - 1}
    assert [found.likes for found in rates(site, CONF, **period)] == [0]
    with LocalLog(site.log) as log:
        log.append(EVENTS, [rating("u1", "m7", 0), rating("u1", "m7", 0)])
    cut_after = cut(site, CONF)
    after = days(site)
    late = min(after)
    assert {day for day in after if after[day] != before[day]} == {late}
    (rows,) = read_between(FolderStore(site.history), EVENTS, ["ts", "event_id"], **period)
    assert sorted(rows["event_id"].to_pylist()) == ["u0-m5", "u1-m7"]
    assert cut_after.id != cut_before.id
    assert len(cut_after.interactions) == len(cut_before.interactions) + 1
    assert cut(site, CONF).id == cut_after.id, "and then it stays"
    assert [found.likes for found in rates(site, CONF, **period)] == [1]
    precompute(site, CONF)
    assert "m7" not in slate_of(site, "u1"), "seen by now, whenever that was"

"""Snapshots: what models see, named by content, whole or not there."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from conf.home import Home
from conf.settings import Settings
from events.event import Account, AnyEvent, Click, Impression, Movie, Rating, Watch, content_id
from events.local_log import LocalLog
from pipelines.data import import_data
from pipelines.snapshot import FILES, Snapshot, SnapshotError, cut, load

SETTINGS = Settings()
START = 1_700_000_000_000

CUTTER = """
import sys
from pathlib import Path
from conf.home import Home
from conf.settings import Settings
from pipelines.snapshot import SnapshotError, cut
try:
    cut(Home(Path(sys.argv[1])), Settings())
except SnapshotError as why:
    sys.exit(f"refused: {why}")
"""


def rating(user: str, movie: str, when: int, value: float = 5.0) -> Rating:
    event_id = f"{user}-{movie}-{when}-{value}"
    return Rating(event_id=event_id, ts=START + when, user_id=user, movie_id=movie, rating=value, scale=5)


def watch(user: str, movie: str, when: int, minute: int) -> Watch:
    event_id = f"{user}-{movie}-{when}-m{minute}"
    return Watch(event_id=event_id, ts=START + when, user_id=user, movie_id=movie, minute=minute)


def click(user: str, movie: str, when: int) -> Click:
    return Click(event_id=f"{user}-{movie}-{when}-c", ts=START + when, user_id=user, movie_id=movie)


def movie(movie_id: str, title: str, *genres: str) -> Movie:
    return Movie(event_id=content_id(movie_id, title), movie_id=movie_id, title=title, genres=genres)


def append(home: Home, events: Iterable[AnyEvent]) -> None:
    with LocalLog(home.log) as log:
        log.append_all(events)


def snapshot_of(home: Home, *events: AnyEvent) -> Snapshot:
    append(home, events)
    return cut(home, SETTINGS)


def rows(snapshot: Snapshot) -> list[tuple[str, str, int, float]]:
    seen = snapshot.interactions
    return [
        (str(seen.user_ids[u]), str(seen.catalogue.ids[i]), int(t) - START, round(float(s), 4))
        for u, i, t, s in zip(seen.users, seen.items, seen.times, seen.strengths, strict=True)
    ]


def test_rows_are_oldest_first_and_strengths_are_shares_of_the_scale(home: Home) -> None:
    snapshot = snapshot_of(home, rating("b", "x", 20, 3.5), rating("a", "y", 10, 0.5))
    assert rows(snapshot) == [("a", "y", 10, 0.1), ("b", "x", 20, 0.7)]
    seen = snapshot.interactions
    assert (seen.users.dtype, seen.items.dtype, seen.times.dtype, seen.strengths.dtype) == ("i4", "i4", "i8", "f4")
    assert (seen.user_ids.tolist(), seen.catalogue.ids.tolist()) == (["b", "a"], ["x", "y"])
    assert seen.end_ms == START + 21
    assert (seen.strengths >= 0.7).tolist() == [False, True]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_imp_05_the_latest_re_rating_counts_whatever_the_order(home: Home, tmp_path: Path, order: tuple) -> None:
    lines = ["3,9001,2.0,1600000000", "3,9001,5.0,1700000000", "3,9001,5.0,1700000000"]
    file = tmp_path / "ratings.csv"
    file.write_text("\n".join(["userId,movieId,rating,timestamp", *(lines[n] for n in order)]))
    assert import_data(home, SETTINGS, file).duplicates == 1
    snapshot = cut(home, SETTINGS)
    assert [strength for _, _, _, strength in rows(snapshot)] == [0.4, 1.0]
    assert snapshot.interactions.latest().strengths.tolist() == [1.0]
    assert snapshot.interactions.matrix().toarray().tolist() == [[1.0]]
    assert (snapshot.statistics["interactions"], snapshot.statistics["pairs"]) == (2, 1)


def test_watched_minutes_are_distinct_and_stand_at_the_last_one(home: Home) -> None:
    minutes = [watch("a", "x", 60 * n, n % 15) for n in range(30)]
    snapshot = snapshot_of(home, *minutes, *(watch("b", "x", n, n) for n in range(90)))
    assert rows(snapshot) == [("b", "x", 89, 1.0), ("a", "x", 60 * 29, 0.25)]


def test_a_rating_wins_over_watching_and_watching_over_clicks(home: Home) -> None:
    snapshot = snapshot_of(
        home,
        *(rating("a", "x", 1, 2), watch("a", "x", 2, 0), click("a", "x", 3)),
        *(watch("b", "x", 4, 0), click("b", "x", 5)),
        *(click("c", "x", 6), click("c", "x", 7), click("a", "y", 8)),
    )
    assert rows(snapshot) == [
        ("a", "x", 1, 0.4),
        ("b", "x", 4, round(1 / 60, 4)),
        ("c", "x", 7, 0.3),
        ("a", "y", 8, 0.3),
    ]


def test_the_catalogue_is_all_movies_and_the_newest_line_of_each_counts(home: Home) -> None:
    snapshot = snapshot_of(
        home,
        *(movie("x", "Old", "Drama"), movie("lonely", "Nobody saw it")),
        *(rating("a", "unlisted", 1), rating("a", "x", 2)),
        movie("x", "New", "War", "Drama"),
    )
    catalogue = snapshot.interactions.catalogue
    assert catalogue.ids.tolist() == ["x", "lonely", "unlisted"]
    assert catalogue.titles.tolist() == ["New", "Nobody saw it", ""]
    assert catalogue.genre_names == ("Drama", "War")
    assert catalogue.genres.tolist() == [[True, True], [False, False], [False, False]]


def test_later_snapshots_only_append_to_users_movies_and_genres(home: Home) -> None:
    before = snapshot_of(home, movie("x", "X", "Drama"), rating("b", "unlisted", 50), rating("a", "x", 60))
    after = snapshot_of(home, movie("new", "N", "Action"), movie("unlisted", "U", "War"), rating("0", "00", 1))
    for ids in (lambda s: s.user_ids.tolist(), lambda s: s.catalogue.ids.tolist(), lambda s: s.catalogue.genre_names):
        old, new = ids(before.interactions), ids(after.interactions)
        assert new[: len(old)] == old
        assert len(new) > len(old)


def test_the_same_history_has_the_same_id_and_another_one_another(home: Home, tmp_path: Path) -> None:
    events = [movie("x", "X"), rating("a", "x", 1), rating("b", "x", 2), watch("b", "y", 3, 1)]
    first = snapshot_of(home, *events)
    assert cut(home, SETTINGS).id == first.id
    other = Home(tmp_path / "other").open()
    for event in events:  # archived in four pieces
        if isinstance(event, Movie):
            append(other, [event])
        else:
            second = snapshot_of(other, event)
    assert second.id == first.id
    assert len(list(other.snapshots.glob("[0-9a-f]*"))) == 3
    assert snapshot_of(home, rating("c", "x", 9)).id != first.id


def test_load_gives_what_cut_gave(home: Home) -> None:
    kept = snapshot_of(home, movie("x", "X", "Drama"), rating("a", "x", 1), rating("b", "y", 2))
    again = load(kept.folder)
    assert rows(again) == rows(kept)
    assert again.statistics == kept.statistics == json.loads((kept.folder / "statistics.json").read_text())
    assert again.id == kept.folder.name


def test_one_user_and_one_movie_are_enough_to_cut(home: Home) -> None:
    snapshot = snapshot_of(home, rating("a", "x", 1))
    assert rows(snapshot) == [("a", "x", 1, 1.0)]
    assert snapshot.interactions.catalogue.genres.shape == (1, 0)


@pytest.mark.parametrize("events", [[], [movie("x", "X")], [Account(event_id="a", ts=START, user_id="a")]])
def test_an_empty_snapshot_is_an_error_that_says_what_to_do(home: Home, events: list[AnyEvent]) -> None:
    append(home, events)
    with pytest.raises(SnapshotError, match="nothing that a viewer did: import ratings first"):
        cut(home, SETTINGS)


def test_a_home_without_data_is_an_error_that_says_what_to_do(home: Home) -> None:
    with pytest.raises(SnapshotError, match="holds no data yet"):
        cut(home, SETTINGS)
    assert not home.log.exists()


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("damage", ["altered", "cut short", "missing"])
def test_a_damaged_snapshot_is_named_and_cut_again(home: Home, name: str, damage: str) -> None:
    kept = snapshot_of(home, movie("x", "X", "Drama"), rating("a", "x", 1))
    file = kept.folder / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content.replace(b"3", b"4") + b" " if damage == "altered" else content[: len(content) // 2])
    with pytest.raises(SnapshotError, match=name.replace(".", r"\.")):
        load(kept.folder)
    assert cut(home, SETTINGS).id == kept.id
    assert load(kept.folder).id == kept.id


def test_a_folder_that_is_no_snapshot_is_named(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="is no snapshot"):
        load(tmp_path)


def test_a_cut_that_was_killed_anywhere_succeeds_afterwards(home: Home, need: Callable[[str], str]) -> None:
    strace = need("strace")
    append(home, [movie("x", "X"), *(rating(f"u{n}", "x", n * 86_400_000) for n in range(3))])
    for nth in (1, 4):  # while archiving, while writing the files
        inject = f"inject=rename:signal=KILL:when={nth}"
        command = [strace, "-f", "-o", "/dev/null", "-e", "trace=rename", "-e", inject, sys.executable, "-c", CUTTER]
        done = subprocess.run([*command, str(home.root)], timeout=60)
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        for folder in home.snapshots.glob("[0-9a-f]*"):
            assert len(load(folder).interactions) == 3
    snapshot = cut(home, SETTINGS)
    assert len(snapshot.interactions) == 3
    assert sorted(path.name for path in home.snapshots.iterdir()) == [".lock", snapshot.id]


def test_a_full_disk_is_named_and_leaves_no_half_snapshot(home: Home, need: Callable[[str], str]) -> None:
    append(home, [rating("a", "x", 1)])
    command = [need("strace"), "-f", "-o", "/dev/null", "-e", "inject=fsync:error=ENOSPC:when=7+", sys.executable]
    done = subprocess.run([*command, "-c", CUTTER, str(home.root)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert [path.name for path in home.snapshots.iterdir()] == [".lock"]
    assert len(cut(home, SETTINGS).interactions) == 1


def slate(user: str, when: int, *movies: str, arm: str = "champion", failure: str = "") -> Impression:
    return Impression(
        event_id=f"{user}-{when}", ts=START + when, wall_ts=START, user_id=user, arm=arm, release="r", rung="model",
        items=movies, propensities=(1.0,) * len(movies), k=10, latency_ms=1.0, failure=failure,
    )  # fmt: skip


def test_the_offset_is_that_of_the_newest_event_whatever_else_is_logged(home: Home) -> None:
    first = snapshot_of(home, movie("x", "X"), rating("a", "x", 1), rating("b", "x", 2))
    assert first.statistics["offset"] == 3
    assert snapshot_of(home, slate("a", 0, "x")).statistics["offset"] == 3
    assert snapshot_of(home, click("a", "x", 3)).statistics["offset"] == 5


def test_what_a_slate_brought_is_known(home: Home) -> None:
    day = 86_400_000
    found = snapshot_of(
        home,
        *(movie(name, name.upper()) for name in "xyz"),
        slate("a", 0, "x", "y"),
        slate("a", 1000, "y", "gone"),
        slate("b", 0, "x"),
        rating("a", "x", 5000, 2.0),
        rating("a", "y", 6000),
        rating("a", "z", 7000),
        rating("b", "x", day + 1),  # too late
        rating("c", "x", 0),
    ).interactions
    assert found.shown is not None
    assert found.brought_by is not None
    codes = found.catalogue.index
    assert found.shown.items[:, :3].tolist() == [
        [codes["x"], codes["y"], -1],
        [codes["x"], -1, -1],
        [codes["y"], -1, -1],
    ]
    who, what = found.user_ids[found.users].tolist(), found.catalogue.ids[found.items].tolist()
    by = zip(who, what, found.brought_by.tolist(), strict=True)
    assert {(user, item): slate for user, item, slate in by} == {
        ("c", "x"): -1,
        ("a", "x"): 0,
        ("a", "y"): 2,
        ("a", "z"): -1,
        ("b", "x"): -1,
    }
    assert found.own.sum() == 3
    assert np.argwhere(found.liked_places).tolist() == [[2, 0]]  # two stars are no liking
    past = found.before(START + 6000)
    assert not past.liked_places.any()
    assert len(found.before(START + 1000).shown.times) == 2


def test_slates_of_others_of_bots_and_of_strangers_are_left_out(home: Home) -> None:
    bot = [slate("bot", when, "x") for when in range(101)]
    failed = [slate("a", 1, failure="no answer"), slate("a", 2, "x", arm="site"), slate("nobody", 3, "x")]
    kept = snapshot_of(home, movie("x", "X"), *bot, *failed, *(rating(name, "x", 200) for name in ("bot", "a")))
    assert kept.interactions.shown is not None
    assert not len(kept.interactions.shown.times)
    assert kept.interactions.own.all()


def test_statistics(home: Home) -> None:
    found = snapshot_of(
        home,
        *(movie("x", "X", "Drama"), movie("y", "Y"), movie("z", "", "Drama", "War")),
        *(rating("a", "x", 0, 5), rating("b", "x", 3_600_000, 2.5), rating("b", "y", 3_600_000, 5)),
        rating("a", "x", 0, 4),
    ).statistics
    assert (found["interactions"], found["users"], found["movies"], found["movies_seen"]) == (4, 2, 3, 2)
    assert (found["pairs"], found["same_moment"], found["events"], found["unreadable"]) == (3, 1, 7, 0)
    assert (found["start_ms"], found["newest_ms"], found["end_ms"]) == (START, START + 3_600_000, START + 3_600_001)
    assert found["offset"] == 7
    assert found["missing"] == {"title": 1 / 3, "genres": 1 / 3, "either": 2 / 3, "strength": 0}
    assert found["strength"]["quantiles"]["0"] == 0.5
    assert sum(found["strength"]["histogram"]) == 4
    assert found["genres"] == {"Drama": 0.75, "War": 0}
    assert np.flatnonzero(found["hours"]).tolist() == [22, 23]


def test_what_strengths_without_a_rating_come_from_is_kept(home: Home) -> None:
    """Minutes as runs: x has two, y follows upon the last of x and begins one of its own, z was only clicked."""
    seen = snapshot_of(
        home,
        *(watch("a", "x", when, minute) for when, minute in enumerate([7, 3, 4, 3])),
        watch("a", "y", 5, 8),
        click("a", "z", 6),
        click("a", "x", 7),
        watch("b", "r", 8, 1),
        rating("b", "r", 9),
    ).interactions
    assert seen.unrated is not None
    names = seen.catalogue.ids
    runs = [seen.unrated.runs[s:e].tolist() for s, e in zip(seen.unrated.indptr, seen.unrated.indptr[1:], strict=False)]
    pairs = [
        (str(seen.user_ids[u]), str(names[i])) for u, i in zip(seen.unrated.users, seen.unrated.items, strict=True)
    ]
    assert list(zip(pairs, runs, strict=True)) == [(("a", "x"), [3, 5, 7, 8]), (("a", "y"), [8, 9]), (("a", "z"), [])]
    assert seen.before(START + 4).unrated is None, "a part of a history would tell its future"
    assert seen.before(seen.end_ms).unrated is seen.unrated

"""One contract for the history's places: folders of the home, and a bucket (moto stands for S3)."""

from collections.abc import Callable
from pathlib import Path

import pytest

from conf.environment import encryption
from conf.home import Home
from conf.sections.storage import Storage
from events.archive import archive, find, read_topic
from events.bucket import BucketStore
from events.event import EVENTS, Rating
from events.local_log import LocalLog
from events.store import FolderStore, Missing, Store, StoreError, history_store
from models.shelf import load_file

s3 = load_file(Path(__file__).parents[1] / "faults" / "s3.py")
NOON = 1_700_000_000_000
DAY = 86_400_000


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, home: Home) -> Store:
    if request.param == "folder":
        return FolderStore(home.history)
    return BucketStore(request.getfixturevalue("storage"), "history", home)


def ratings(first: int, last: int) -> list[Rating]:
    return [
        Rating(event_id=f"e{n}", ts=NOON + n % 3 * DAY, user_id=f"u{n}", movie_id="m", rating=1, scale=5)
        for n in range(first, last)
    ]


# The contract ---------------------------------------------------------------------------------------------------------


def test_a_piece_comes_back_as_it_was_written_last(store: Store) -> None:
    with store.alone():
        store.write("a/b/c.parquet", b"one")
        store.write("a/b/c.parquet", memoryview(b"two, longer"))
        store.write("empty", b"")
    assert store.read("a/b/c.parquet") == b"two, longer"
    assert (store.size("a/b/c.parquet"), store.size("empty"), store.size("a/b")) == (11, 0, None)
    assert store.read("empty") == b""
    assert "c.parquet" in store.place("a/b/c.parquet")


def test_names_are_those_below_a_folder(store: Store) -> None:
    assert list(store.names()) == []
    pieces = {f"day=1/{n}" for n in range(12)} | {"day=10/x", "other"}
    with store.alone():
        for name in pieces:
            store.write(name, b"x")
    assert sorted(store.names()) == sorted(pieces)
    assert sorted(store.names("day=1")) == sorted(p for p in pieces if p.startswith("day=1/"))
    assert list(store.names("nothing")) == []


def test_what_is_missing_is_named_and_removing_it_twice_is_nothing(store: Store) -> None:
    with store.alone():
        store.write("a/b", b"x")
        store.delete("a/b")
        store.delete("a/b")
    assert store.size("a/b") is None
    with pytest.raises(Missing, match="a/b is missing"):
        store.read("a/b")


def test_an_archive_there_holds_each_event_once(store: Store, tmp_path: Path) -> None:
    with LocalLog(tmp_path / "log.db") as log:
        for part in range(2):
            log.append(EVENTS, ratings(part * 10, part * 10 + 10))
            assert archive(log, store) == 10
        assert archive(log, store) == 0
    assert sorted(read_topic(store, EVENTS, ["event_id"])["event_id"].to_pylist()) == sorted(f"e{n}" for n in range(20))
    assert find(store, EVENTS, "e13") == ratings(13, 14)[0]
    assert len(list(store.names(EVENTS))) == 3


# The bucket alone -----------------------------------------------------------------------------------------------------


def test_more_pieces_than_one_answer_lists(storage: Storage, home: Home) -> None:
    store, outside = BucketStore(storage, "history", home), s3.client(storage.endpoint)
    for n in range(1005):  # S3 lists 1,000 at most in one answer
        outside.put_object(Bucket=storage.bucket, Key=f"greenlight/history/p/{n}", Body=b"")
    assert len(set(store.names("p"))) == 1005


@pytest.mark.parametrize(
    ("asked", "stored"),
    [
        ({}, {"ServerSideEncryption": "AES256"}),
        ({"kms_key": "alias/unused"}, {"ServerSideEncryption": "AES256"}),
        (
            {"encryption": "aws:kms", "kms_key": "alias/greenlight"},
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/greenlight"},
        ),
        ({"encryption": "", "kms_key": "alias/unused"}, {}),
    ],
)
def test_every_object_asks_to_be_encrypted(
    storage: Storage, home: Home, asked: dict[str, str], stored: dict[str, str]
) -> None:
    storage = storage.model_copy(update=asked)
    assert encryption(storage) == stored
    store, outside = BucketStore(storage, "history", home), s3.client(storage.endpoint)
    with store.alone():
        store.write("a/b", b"x")
    for key in ("greenlight/history/a/b", "greenlight/home.json"):
        head = outside.head_object(Bucket=storage.bucket, Key=key)
        assert {name: head[name] for name in ("ServerSideEncryption", "SSEKMSKeyId") if head.get(name)} == stored


def test_a_piece_that_was_changed_in_the_bucket_is_named(storage: Storage, home: Home) -> None:
    store, outside = BucketStore(storage, "history", home), s3.client(storage.endpoint)
    with store.alone():
        store.write("a/b", b"whole")
    kept = outside.head_object(Bucket=storage.bucket, Key="greenlight/history/a/b")["Metadata"]
    outside.put_object(Bucket=storage.bucket, Key="greenlight/history/a/b", Body=b"short", Metadata=kept)
    with pytest.raises(StoreError, match=r"history/a/b is damaged.*restore it from a backup"):
        store.read("a/b")
    outside.put_object(Bucket=storage.bucket, Key="greenlight/history/a/b", Body=b"put back by hand")
    assert store.read("a/b") == b"put back by hand"


def test_a_bucket_that_is_not_there_is_named(storage: Storage, home: Home) -> None:
    store = BucketStore(storage.model_copy(update={"bucket": "no-such-bucket"}), "history", home)
    with pytest.raises(StoreError, match=r"s3://no-such-bucket/.*there is no such bucket: make it, or set storage"):
        list(store.names())


# Whose place it is ----------------------------------------------------------------------------------------------------


def test_a_prefix_belongs_to_the_home_that_came_first(storage: Storage, home: Home, tmp_path: Path) -> None:
    """Another home may read there. It has noted nothing and may begin elsewhere."""
    first, other = BucketStore(storage, "history", home), Home(tmp_path / "other").open()
    with first.alone():
        first.write("a", b"x")
    second = BucketStore(storage, "history", other)
    assert second.read("a") == b"x"
    for _ in range(2):
        with (
            pytest.raises(StoreError, match="another home keeps its history there: set"),
            second.alone(),
        ):
            pass
    elsewhere = BucketStore(storage.model_copy(update={"prefix": "elsewhere"}), "history", other)
    with elsewhere.alone():
        elsewhere.write("a", b"y")
    assert (first.read("a"), elsewhere.read("a")) == (b"x", b"y")


@pytest.mark.parametrize("began", ["folders", "bucket"])
def test_a_home_stays_where_it_began(storage: Storage, home: Home, began: str, tmp_path: Path) -> None:
    places: dict[str, Callable[[], Store]] = {
        "folders": lambda: history_store(home, Storage()),
        "bucket": lambda: history_store(home, storage),
    }
    with LocalLog(tmp_path / "log.db") as log:
        log.append(EVENTS, ratings(0, 3))
        archive(log, places.pop(began)())
    (other,) = places.values()
    with pytest.raises(StoreError, match=r"was begun with .* and the settings say .*: set storage\.bucket"):
        other()

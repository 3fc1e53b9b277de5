"""What the bucket's link and keeper do wrong: nothing is lost, nothing wrong is believed, and it is said plainly.

moto's server stands for S3; a proxy before it cuts, swallows, throttles.
"""

import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conf.home import Home
from conf.sections.storage import Storage
from events.archive import GROUP, archive, read_topic
from events.bucket import BucketStore
from events.event import EVENTS, Rating
from events.local_log import LocalLog
from events.store import StoreError
from models.shelf import load_file

pytestmark = pytest.mark.server
s3 = load_file(Path(__file__).parent / "s3.py")
NOON, DAY = 1_700_000_000_000, 86_400_000
SLOW = "503 SlowDown"
CONTENT = bytes(range(256)) * 400


@pytest.fixture
def proxy(storage: Storage) -> Iterator[Any]:
    with s3.Proxy(storage.endpoint) as running:
        yield running


@pytest.fixture
def store(storage: Storage, proxy: Any, home: Home) -> BucketStore:
    made = BucketStore(storage.model_copy(update={"endpoint": proxy.url}), "history", home)
    with made.alone():
        made.write("a/b", CONTENT)
    proxy.seen.clear()
    return made


def first(fault: str, times: int = 1) -> Callable[[int, str, str], str]:
    return lambda number, method, path: fault if number <= times else ""


@pytest.mark.parametrize("fault", [SLOW, "cut", "lost"])
def test_a_read_is_repeated_until_it_is_whole(store: BucketStore, proxy: Any, fault: str) -> None:
    proxy.fault = first(fault, 2)
    assert store.read("a/b") == CONTENT
    assert proxy.calls("GET") == 3


@pytest.mark.parametrize("fault", [SLOW, "cut-up", "lost"])
def test_a_write_is_repeated_until_it_is_acknowledged(store: BucketStore, proxy: Any, fault: str) -> None:
    proxy.fault = first(fault, 2)
    store.write("a/b", CONTENT[::-1])
    assert proxy.calls("PUT") == 3
    assert store.read("a/b") == CONTENT[::-1]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (SLOW, r"S3 asked to slow down, also after 3 attempts: repeat it later$"),
        ("cut", r"S3 cannot be reached or the link broke, 3 times: repeat it when it is back"),
        ("lost", r"S3 cannot be reached or the link broke, 3 times: repeat it when it is back"),
    ],
)
def test_after_its_attempts_it_is_one_plain_sentence(store: BucketStore, proxy: Any, fault: str, says: str) -> None:
    proxy.fault = lambda number, method, path: fault
    with pytest.raises(
        StoreError, match=rf"^s3://{store.storage.bucket}/greenlight/history/a/b cannot be read: {says}"
    ):
        store.read("a/b")
    assert proxy.calls("GET") == 3
    if fault != "cut":  # an answer to a write or a listing that lost its end is still an answer
        with pytest.raises(StoreError, match=f"cannot be written: {says}"):
            store.write("a/c", CONTENT)
        with pytest.raises(StoreError, match=f"cannot be listed: {says}"):
            list(store.names())
        with pytest.raises(StoreError, match=r"cannot be looked up: .*3 "):
            store.size("a/b")


def test_a_wait_for_nothing_ends(storage: Storage, store: BucketStore, proxy: Any, home: Home) -> None:
    hasty = storage.model_copy(update={"endpoint": proxy.url, "timeout_s": 0.3, "attempts": 2})
    proxy.fault = lambda number, method, path: "hole"
    impatient = BucketStore(hasty, "history", home)
    with pytest.raises(StoreError, match="the link broke, 2 times"):
        impatient.read("a/b")
    with pytest.raises(StoreError, match="the link broke, 2 times"):
        impatient.write("a/b", b"other")
    proxy.fault = first("")
    assert store.read("a/b") == CONTENT


def test_nobody_listens(storage: Storage, home: Home) -> None:
    with s3.Proxy(storage.endpoint) as stopped:
        pass
    store = BucketStore(storage.model_copy(update={"endpoint": stopped.url}), "history", home)
    with pytest.raises(StoreError, match="S3 cannot be reached or the link broke, 3 times"):
        store.read("a/b")


def test_a_byte_that_changes_on_the_way_is_never_taken_for_the_piece(store: BucketStore, proxy: Any) -> None:
    proxy.fault = lambda number, method, path: "flipped"
    with pytest.raises(StoreError, match="is damaged: its content does not match its SHA-256"):
        store.read("a/b")


def test_a_home_whose_claim_was_stored_but_not_acknowledged_owns_the_prefix(
    storage: Storage, proxy: Any, home: Home
) -> None:
    proxy.fault = first("lost")
    store = BucketStore(storage.model_copy(update={"endpoint": proxy.url}), "history", home)
    with store.alone():
        store.write("a", b"x")
    assert store.read("a") == b"x"


@pytest.mark.parametrize("fault", [SLOW, "cut-up", "lost"])
@pytest.mark.parametrize("at", [2, 5])
def test_an_archive_that_fails_midway_loses_nothing_and_goes_on(
    storage: Storage, proxy: Any, home: Home, fault: str, at: int
) -> None:
    events = [
        Rating(event_id=f"e{n}", ts=NOON + n % 8 * DAY, user_id=f"u{n}", movie_id="m", rating=1, scale=5)
        for n in range(80)
    ]
    there = storage.model_copy(update={"endpoint": proxy.url, "attempts": 2})
    store = BucketStore(there, "history", home)
    with LocalLog(home.log) as log:
        log.append(EVENTS, events[:40])
        archive(log, store)
        log.append(EVENTS, events[40:])
        begun = proxy.calls("PUT")
        proxy.fault = lambda number, method, path: fault if method == "PUT" and proxy.calls("PUT") >= begun + at else ""
        with pytest.raises(StoreError, match=r"day=2023-11-\d\d/events\.parquet cannot be written: S3"):
            archive(log, store)
        assert log.lag(EVENTS, GROUP) == 40
        ids = read_topic(store, EVENTS, ["event_id"])["event_id"].to_pylist()
        assert len(ids) == len(set(ids)) >= 40  # whole days, old or new
        proxy.fault = first("")
        assert archive(log, store) == 40
        assert log.lag(EVENTS, GROUP) == 0
    ids = read_topic(store, EVENTS, ["event_id"])["event_id"].to_pylist()
    assert sorted(ids) == sorted(event.event_id for event in events)


# Credentials ----------------------------------------------------------------------------------------------------------


def test_wrong_credentials_are_said_without_them(
    tmp_path: Path, home: Home, storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """This one of moto's asks who calls."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush-wrong")
    with s3.moto(tmp_path / "moto.log", INITIAL_NO_AUTH_ACTION_COUNT="0") as url:
        store = BucketStore(storage.model_copy(update={"endpoint": url}), "history", home)
        tries: list[Callable[[], object]] = [
            lambda: list(store.names()),
            lambda: store.read("a"),
            lambda: store.size("a"),
            lambda: store.write("a", b"x"),
        ]
        for attempt in tries:
            with pytest.raises(StoreError, match="may not do this: check them and the bucket's policy") as refused:
                attempt()
            told = f"{''.join(traceback.format_exception(refused.value))} {caplog.text}"
            assert "hush" not in told
            assert "AKIAFORTESTS" not in told


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("403 AccessDenied", "may not do this: check them and the bucket's policy"),
        ("403 SignatureDoesNotMatch", "may not do this: check them and the bucket's policy"),
        ("400 ExpiredToken", "the credentials have expired: renew them and repeat"),
        ("400 AuthorizationHeaderMalformed", r"the bucket is in another region: set storage\.region"),
        ("400 SomethingNew", "SomethingNew"),
    ],
)
def test_what_s3_refuses_is_said_with_what_to_do(store: BucketStore, proxy: Any, answer: str, says: str) -> None:
    proxy.fault = lambda number, method, path: answer
    with pytest.raises(StoreError, match=f"history/a/b cannot be read: .*{says}"):
        store.read("a/b")
    with pytest.raises(StoreError, match=f"history/a/b cannot be written: .*{says}"):
        store.write("a/b", b"x")
    assert proxy.calls("PUT") == 1  # asking again would not help


def test_no_credentials_at_all(storage: Storage, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))  # no profile of whoever runs this
    with pytest.raises(StoreError, match="no AWS credentials were found: set AWS_ACCESS_KEY_ID and"):
        BucketStore(storage, "history", home).read("a")


def test_a_profile_that_is_not_there_is_named(storage: Storage, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreError, match=r"bucket .* cannot be opened: .*nobody"):
        BucketStore(storage, "history", home)

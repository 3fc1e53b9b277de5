"""Releases exchanged in one worker, as the ledger names them; and what is refused."""

import gc
import itertools
import json
import os
import re
import shutil
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.home import Home
from conf.sections.serving import Serving
from conf.settings import Settings
from events.event import EVENTS, Rating
from events.local_log import LocalLog
from mlflow_server.building import build
from mlflow_server.ledger import Entry, Ledger, SigningKey
from mlflow_server.release import Release, canonical, sha256_of
from models.base import slates
from models.shelf import find, load_file
from serving.opened import Opened, Packaged
from serving.opening import Opener
from serving.report import reports
from serving.router import Arm
from serving.shelf import Shelf

TINY = Path(__file__).parent / "tiny.py"
SETTINGS = Settings(serving=Serving(popularity_share=0.0, max_deadline_ms=100))


def within(seconds: float, holds: Callable[[], Any]) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := holds():
            return found
        time.sleep(0.05)
    return holds()


class Worker:
    """A home with releases, its ledger, and one shelf that follows it."""

    def __init__(self, home: Home, packaged: Release, key: SigningKey, folder: Path) -> None:
        self.home, self.packaged, self.key = home, packaged, key
        self.ledger = Ledger(home.ledger, key)
        self.folder = Path(shutil.copytree(packaged.folder, folder))
        self.shelf: Shelf | None = None

    def start(self) -> Shelf:
        if self.shelf:
            self.shelf.close()
        self.shelf = Shelf(self.opened(), self.home)
        self.shelf.start()
        return self.shelf

    def opened(self) -> Opened:
        return Opened(self.folder, Packaged(self.packaged.digest, self.key.public, {}), SETTINGS)

    def keep(self, release: Release) -> Path:
        """Put the release where the home keeps them."""
        return Path(shutil.copytree(release.folder, self.home.releases / release.digest))

    def write(self, kind: str, release: Release, alias: str = "champion") -> Entry:
        return self.ledger.append(kind, {"version": 1, "release": release.digest, "alias": alias}, actor="ada", ts=1)

    def serves(self, release: Release, arm: str = "champion") -> bool:
        """Whether the worker says so, in the shelf and in its report."""
        assert self.shelf
        told = [report.arms.get(arm) for report in (self.shelf.report(), *reports(self.home))]
        return len(told) == 2 and all(one and one.release == release.digest and one.state == "ready" for one in told)


@pytest.fixture
def worker(home: Home, built: Callable[[str], Release], key: SigningKey, tmp_path: Path) -> Iterator[Worker]:
    made = Worker(home, built("Tiny"), key, tmp_path / "packaged")
    yield made
    if made.shelf:
        made.shelf.close()


def arms(shelf: Shelf) -> dict[str, Arm]:
    return {f"v{n}": shelf.choose(f"v{n}").arm for n in range(200)}


def test_promotions_and_rollbacks_reach_a_running_worker(worker: Worker, built: Callable[[str], Release]) -> None:
    one, two = built("Tiny"), built("Nested")
    worker.keep(two)
    shelf = worker.start()
    assert within(20, lambda: worker.serves(one))
    worker.write("promotion", one)
    worker.write("promotion", two)
    assert within(20, lambda: worker.serves(two))
    assert shelf.choose("u0") == ("champion", shelf.champion)
    assert shelf.champion.release == two.digest
    worker.write("rollback", one)  # it is only packaged: the home does not keep it
    assert within(20, lambda: worker.serves(one))
    assert shelf.report().refused == {}


def test_the_old_release_stays_open_for_a_while_and_then_goes(worker: Worker, built: Callable[[str], Release]) -> None:
    two = built("Nested")
    worker.keep(two)
    shelf = worker.start()
    (old,) = kept = [shelf.champion]
    model = weakref.ref(old.ready.model)
    worker.write("promotion", two)
    assert within(20, lambda: worker.serves(two))
    assert old.ready
    assert not old.closed
    assert within(20, lambda: kept[0].closed)
    del old, kept[:]
    gc.collect()
    assert within(20, lambda: model() is None), gc.get_referrers(model())


def swap_weights(folder: Path, other: Path) -> None:
    """Other weights that can be read as well."""
    shutil.rmtree(folder / "weights")
    shutil.copytree(other / "weights", folder / "weights")


def swap_popularity(folder: Path, other: Path) -> None:
    """Another ranking, with a checksum of its own that holds."""
    whole = json.loads((folder / "popularity.json").read_bytes())
    body = {**whole["body"], "titles": ["Buy now", *whole["body"]["titles"][1:]]}
    (folder / "popularity.json").write_text(json.dumps({"body": body, "sha256": sha256_of(canonical(body))}))


def cut_topk(folder: Path, other: Path) -> None:
    (folder / "topk" / "items.npy").write_bytes(b"\x93NUMPY")


def another_release(folder: Path, other: Path) -> None:
    """Whole, and signed by the right key; only not the one that is named."""
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


def no_manifest(folder: Path, other: Path) -> None:
    (folder / "manifest.json").unlink()


def no_files(folder: Path, other: Path) -> None:
    shutil.rmtree(folder)


def foreign_signature(folder: Path, other: Path) -> None:
    key = SigningKey(folder.parent / "other keys")
    content = (folder / "manifest.json").read_bytes()
    (folder / "signature.json").write_text(json.dumps({"public": key.public, "signature": key.sign(content)}))


HARMS = (
    (swap_weights, "damaged|the manifest names no file|missing"),
    (swap_popularity, r"popularity\.json: damaged"),
    (cut_topk, r"items\.npy: damaged"),
    (another_release, "holds release"),
    (no_manifest, r"manifest\.json: missing"),
    (no_files, "is not in .*releases"),
    (foreign_signature, "its signature is not by the key"),
)


@pytest.mark.parametrize(("harm", "sentence"), HARMS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_release_that_is_not_whole_is_refused_and_served_when_it_is(
    worker: Worker, built: Callable[[str], Release], harm: Callable[[Path, Path], None], sentence: str
) -> None:
    one, two = built("Tiny"), built("Nested")
    folder = worker.keep(two)
    harm(folder, built("Moody").folder)
    shelf = worker.start()
    old = shelf.champion
    worker.write("promotion", two)
    refused = within(20, lambda: [r.refused[two.digest] for r in reports(worker.home) if two.digest in r.refused])
    assert refused
    assert within(20, lambda: shelf.report().arms["champion"].trouble)
    told = shelf.report().arms["champion"]
    assert (told.release, told.state, shelf.champion) == (one.digest, "ready", old)
    assert two.digest[:12] in told.trouble
    assert re.search(sentence, refused[0].reason)
    shutil.rmtree(folder, ignore_errors=True)
    worker.keep(two)
    assert within(20, lambda: worker.serves(two))
    assert shelf.report().refused == {}
    assert shelf.report().arms["champion"].trouble == ""


def test_weights_exchanged_while_they_are_read_are_never_served(
    worker: Worker, built: Callable[[str], Release], key: SigningKey
) -> None:
    """A file is checked as it is loaded, so whoever is quick between the two gains nothing."""
    folder = worker.keep(built("Moody"))
    path = folder / "weights" / "base.npy"
    good, over = np.load(path), threading.Event()
    np.save(worker.folder / "good.npy", good)
    np.save(worker.folder / "bad.npy", good[::-1])

    def exchange() -> None:
        for name in itertools.cycle(("bad", "good")):
            if over.is_set():
                return
            shutil.copyfile(worker.folder / f"{name}.npy", folder / "part")
            os.replace(folder / "part", path)

    opener = Opener(worker.home, worker.opened(), key.public, lambda opened: None)
    exchanging = threading.Thread(target=exchange)
    exchanging.start()
    try:
        outcomes = Counter[bool]()
        while min(outcomes[True], outcomes[False]) < 10:
            opened = opener.open(folder.name)
            outcomes[opened is not None] += 1
            if opened:
                opened.close()
                np.testing.assert_array_equal(opened.ready.model.base, good)
    finally:
        over.set()
        exchanging.join()


def test_a_model_that_fails_when_it_is_tried_is_refused(worker: Worker, built: Callable[[str], Release]) -> None:
    silent = built("AllNotANumber")
    worker.keep(silent)
    shelf = worker.start()
    worker.write("promotion", silent)
    refused = within(20, lambda: shelf.report().refused.get(silent.digest))
    assert "not one movie" in refused.reason
    assert worker.serves(built("Tiny"))


def test_a_restarted_worker_opens_what_the_ledger_says(worker: Worker, built: Callable[[str], Release]) -> None:
    two, three = built("Nested"), built("Moody")
    worker.keep(two)
    folder = worker.keep(three)
    worker.write("promotion", two)
    assert worker.start().champion.release == two.digest
    worker.write("promotion", three, "challenger")
    assert within(20, lambda: worker.serves(three, "challenger"))
    before = arms(worker.shelf)
    assert set(before.values()) == {"champion", "challenger"}
    again = worker.start()
    assert (again.champion.release, again.arms.challenger.opened.release) == (two.digest, three.digest)
    assert arms(again) == before
    shutil.rmtree(folder)
    shutil.rmtree(worker.home.releases / two.digest)
    bare = worker.start()
    assert bare.champion.release == worker.packaged.digest
    assert "is in charge and refused" in bare.report().arms["champion"].trouble
    assert arms(bare) == before


def test_a_challenger_serves_its_half_and_without_it_they_get_the_lower_rungs(
    worker: Worker, built: Callable[[str], Release]
) -> None:
    one, two = built("Tiny"), built("Nested")
    shelf = worker.start()
    worker.write("promotion", one)
    worker.write("promotion", two, "challenger")
    assert within(20, lambda: "challenger" in shelf.report().arms)
    assert two.digest in shelf.report().refused
    before = arms(shelf)
    assert 60 < sum(arm == "challenger" for arm in before.values()) < 140
    theirs = next(user for user, arm in before.items() if arm == "challenger")
    lower = shelf.choose(theirs).opened
    assert (lower.ready, lower.state, lower.release) == (None, "fallback-only", one.digest)
    assert lower.ahead is shelf.champion.ahead is not None
    assert shelf.champion.ready
    assert within(20, lambda: "challenger" in reports(worker.home)[0].arms)
    assert reports(worker.home)[0].arms["challenger"].state == "fallback-only"
    assert "is refused" in reports(worker.home)[0].arms["challenger"].trouble
    worker.keep(two)
    assert within(20, lambda: worker.serves(two, "challenger"))
    assert shelf.choose(theirs).opened.release == two.digest
    assert arms(shelf) == before
    worker.write("promotion", two)  # it wins
    assert within(20, lambda: worker.serves(two))
    assert set(arms(shelf).values()) == {"champion"}
    assert "challenger" not in shelf.report().arms


def test_a_withdrawn_challenger_leaves_everybody_to_the_champion(
    worker: Worker, built: Callable[[str], Release]
) -> None:
    two = built("Nested")
    worker.keep(two)
    worker.write("promotion", worker.packaged)
    worker.write("promotion", two, "challenger")
    shelf = worker.start()
    assert worker.shelf.arms.challenger.opened.release == two.digest
    worker.write("withdrawal", two, "challenger")
    assert within(20, lambda: set(arms(shelf).values()) == {"champion"})


def test_a_torn_line_waits_and_a_foreign_signature_is_not_believed(
    worker: Worker, built: Callable[[str], Release], tmp_path: Path
) -> None:
    one, two = built("Tiny"), built("Nested")
    worker.keep(two)
    worker.write("promotion", one)
    worker.write("promotion", two)
    whole = worker.ledger.path.read_bytes()
    worker.ledger.path.write_bytes(whole[:-20])
    shelf = worker.start()
    assert shelf.champion.release == one.digest
    with worker.ledger.path.open("ab") as file:
        file.write(whole[-20:])
    assert within(20, lambda: worker.serves(two))
    forger = Ledger(worker.ledger.path, SigningKey(tmp_path / "other keys"))
    forger.append("promotion", {"version": 1, "release": one.digest, "alias": "champion"}, actor="eve", ts=1)
    assert within(20, lambda: "not by this home's key" in shelf.report().trouble)
    assert worker.serves(two)
    assert worker.start().champion.release == two.digest


def test_a_ledger_of_another_key_leaves_the_packaged_release(
    worker: Worker, built: Callable[[str], Release], tmp_path: Path
) -> None:
    two = built("Nested")
    worker.keep(two)
    forger = Ledger(worker.home.ledger, SigningKey(tmp_path / "other keys"))
    forger.append("promotion", {"version": 1, "release": two.digest, "alias": "champion"}, actor="eve", ts=1)
    shelf = worker.start()
    assert shelf.champion.release == worker.packaged.digest
    assert "not by this home's key" in shelf.report().trouble


def rate(home: Home, user: str, *movies: str, ts: int = 1_700_000_000_000) -> None:
    with LocalLog(home.log) as log:
        for n, movie in enumerate(movies):
            given = {"user_id": user, "movie_id": movie, "rating": 5, "scale": 5}
            log.append(EVENTS, [Rating(event_id=f"{user}-{movie}", ts=ts + n, **given)])


def seen(opened: Opened, user: str) -> set[str]:
    return opened.live.seen_ids(user, opened.live.names.ids)


def test_live_state_follows_the_log_through_swaps(worker: Worker, built: Callable[[str], Release]) -> None:
    two = built("Nested")
    rate(worker.home, "u0", "m9")
    shelf = worker.start()
    assert seen(shelf.champion, "u0") == {"m0", "m1", "m2", "m9"}
    rate(worker.home, "newcomer", "m9", "m8", ts=1_700_000_001_000)
    assert within(20, lambda: seen(shelf.champion, "newcomer") == {"m8", "m9"})
    assert within(20, lambda: reports(worker.home)[0].offset == 3)
    assert shelf.report().clock_ms == 1_700_000_001_002
    worker.keep(two)
    worker.write("promotion", two)
    assert within(20, lambda: shelf.champion.release == two.digest)
    assert seen(shelf.champion, "newcomer") == {"m8", "m9"}, "caught up before the first request"
    rate(worker.home, "newcomer", "m7")
    assert within(20, lambda: seen(shelf.champion, "newcomer") == {"m7", "m8", "m9"})


def test_no_request_makes_what_a_model_makes_once_for_new_counts(
    worker: Worker, built: Callable[[str], Release]
) -> None:
    staged = built("Staged")
    worker.keep(staged)
    worker.write("promotion", staged)
    shelf = worker.start()
    assert within(20, lambda: worker.serves(staged))
    ready, live = shelf.champion.ready, shelf.champion.live
    assert ready
    assert live
    ready.model.makers.clear()  # type: ignore[attr-defined]
    for number in range(3):
        before = live.counts
        rate(worker.home, f"new{number}", f"m{number}")
        assert within(20, lambda before=before: live.counts is not before)
        slates(ready.model, live.history("u1"), live.counts, shelf.champion.now_ms(), 10)
    assert threading.get_ident() not in ready.model.makers  # type: ignore[attr-defined]
    assert len(ready.model.makers) >= 3  # type: ignore[attr-defined]


def test_both_arms_follow_the_log(worker: Worker, built: Callable[[str], Release]) -> None:
    two = built("Nested")
    worker.keep(two)
    worker.write("promotion", worker.packaged)
    worker.write("promotion", two, "challenger")
    shelf = worker.start()
    rate(worker.home, "newcomer", "m9")
    both = [shelf.champion, shelf.arms.challenger.opened]
    assert both[0] is not both[1]
    assert within(20, lambda: [seen(opened, "newcomer") for opened in both] == [{"m9"}] * 2)


@pytest.mark.parametrize("registered", [True, False])
def test_what_a_release_of_this_home_holds_is_not_read_again(
    worker: Worker, key: SigningKey, tmp_path: Path, registered: bool
) -> None:
    """One made elsewhere has an offset of another log, which says nothing here."""
    tiny = load_file(TINY)
    shelved = find(f"{TINY}:Tiny")
    release = build(tmp_path, shelved.cls().fit(tiny.world()), shelved, "snap1", tiny.world(), "abc123", key, offset=1)
    worker.keep(release)
    rate(worker.home, "newcomer", "m9", "m8")
    if registered:
        worker.write("registered", release)
    worker.write("promotion", release)
    assert seen(worker.start().champion, "newcomer") == ({"m8"} if registered else {"m8", "m9"})


def test_a_log_that_cannot_be_read_is_said_and_tried_again(
    worker: Worker, built: Callable[[str], Release], caplog: pytest.LogCaptureFixture
) -> None:
    two = built("Nested")
    worker.keep(two)
    worker.home.log.write_bytes(b"no database" * 1000)
    shelf = worker.start()
    worker.write("promotion", two)
    assert within(20, lambda: worker.serves(two))
    assert within(20, lambda: str(worker.home.log) in reports(worker.home)[0].trouble)
    time.sleep(1)  # a few rounds
    said = [record for record in caplog.records if "does not follow the log" in record.message]
    assert len(said) <= 2, "by each thread once"
    worker.home.log.unlink()
    rate(worker.home, "newcomer", "m9")
    assert within(20, lambda: seen(shelf.champion, "newcomer") == {"m9"})
    assert within(20, lambda: reports(worker.home)[0].trouble == "")


def test_reports_leave_out_who_is_gone(worker: Worker) -> None:
    shelf = worker.start()
    found = within(20, lambda: reports(worker.home))
    assert [report.pid for report in found] == [os.getpid()]
    mine = worker.home.workers / f"{os.getpid()}.json"
    old = {**json.loads(mine.read_bytes()), "beat_wall_ms": 1}
    (worker.home.workers / "1.json").write_text(json.dumps(old))  # it lives, but says nothing
    (worker.home.workers / "4194400.json").write_bytes(mine.read_bytes())  # larger than any number a process has
    (worker.home.workers / "2.json").write_text("{")
    assert [report.pid for report in reports(worker.home)] == [os.getpid()]
    shelf.close()
    assert not mine.exists()
    assert reports(worker.home) == []
    worker.start()
    assert not (worker.home.workers / "4194400.json").exists()


def test_a_home_that_cannot_be_written_costs_no_slate(worker: Worker, built: Callable[[str], Release]) -> None:
    two = built("Nested")
    worker.keep(two)
    worker.home.workers.write_text("in the way")
    shelf = worker.start()
    worker.write("promotion", two)
    assert within(20, lambda: shelf.champion.release == two.digest)
    assert reports(worker.home) == []

"""Who is in charge, as the ledger has it, and a follower that believes nobody but the home's key."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from mlflow_server.in_charge import Follower, in_charge
from mlflow_server.ledger import Entry, Ledger, LedgerError, SigningKey


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey(tmp_path / "keys")


@pytest.fixture
def ledger(tmp_path: Path, key: SigningKey) -> Ledger:
    return Ledger(tmp_path / "ledger.jsonl", key)


@pytest.fixture
def follower(ledger: Ledger, key: SigningKey) -> Follower:
    return Follower(ledger.path, key.public)


def promote(ledger: Ledger, release: str, alias: str = "champion") -> Entry:
    return ledger.append("promotion", {"version": 1, "release": release, "alias": alias}, actor="ada", ts=1)


def rollback(ledger: Ledger, release: str) -> Entry:
    return ledger.append("rollback", {"version": 1, "release": release, "alias": "champion"}, actor="ada", ts=1)


def releases(found: dict[str, Entry]) -> dict[str, str]:
    return {alias: entry.body["release"] for alias, entry in found.items()}


def test_a_rollback_goes_down_the_stack_and_what_it_left_is_no_target(ledger: Ledger) -> None:
    for release in ("a", "b", "c"):
        promote(ledger, release)
    rollback(ledger, "b")
    assert releases(in_charge(ledger)) == {"champion": "b", "previous": "a"}
    rollback(ledger, "a")
    assert releases(in_charge(ledger)) == {"champion": "a"}
    promote(ledger, "c")
    assert releases(in_charge(ledger)) == {"champion": "c", "previous": "a"}


def test_a_rollback_to_a_release_that_never_was_champion_leaves_no_target(ledger: Ledger) -> None:
    promote(ledger, "a")
    promote(ledger, "b")
    rollback(ledger, "x")
    assert releases(in_charge(ledger)) == {"champion": "x"}


def test_a_challenger_promoted_again_keeps_its_entry(ledger: Ledger) -> None:
    promote(ledger, "a")
    first = promote(ledger, "b", "challenger")
    promote(ledger, "b", "challenger")
    assert in_charge(ledger)["challenger"] == first
    other = promote(ledger, "c", "challenger")
    assert in_charge(ledger)["challenger"] == other


def test_a_follower_sees_each_change_once(ledger: Ledger, follower: Follower) -> None:
    assert not follower.poll()
    assert follower.in_charge == {}
    promote(ledger, "a")
    assert follower.poll()
    assert not follower.poll()
    ledger.append("registered", {"release": "b", "version": 2}, actor="ada", ts=1)
    assert not follower.poll()
    promote(ledger, "b", "challenger")
    promote(ledger, "b")
    assert follower.poll()
    assert releases(follower.in_charge) == {"champion": "b", "previous": "a"}
    assert follower.in_charge == in_charge(ledger)
    assert follower.registered("b")
    assert not follower.registered("a")


def test_a_torn_last_line_waits(ledger: Ledger, follower: Follower) -> None:
    promote(ledger, "a")
    promote(ledger, "b")
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole[:-30])
    assert follower.poll()
    assert releases(follower.in_charge) == {"champion": "a"}
    with ledger.path.open("ab") as file:
        file.write(whole[-30:])
    assert follower.poll()
    assert releases(follower.in_charge) == {"champion": "b", "previous": "a"}


def test_a_torn_line_that_the_next_writer_cuts_off_is_no_loss(ledger: Ledger, follower: Follower) -> None:
    promote(ledger, "a")
    with ledger.path.open("ab") as file:
        file.write(b'{"actor":"ada","body":' + b"x" * 2000)
    assert follower.poll()
    promote(ledger, "b")
    assert follower.poll()
    assert releases(follower.in_charge)["champion"] == "b"


def forged(ledger: Ledger, tmp_path: Path) -> bytes:
    """A promotion that fits the chain, signed by another key."""
    copy = tmp_path / "elsewhere" / "ledger.jsonl"
    copy.parent.mkdir()
    shutil.copyfile(ledger.path, copy)
    promote(Ledger(copy, SigningKey(tmp_path / "other keys")), "evil")
    return copy.read_bytes().splitlines(keepends=True)[-1]


def unsigned(ledger: Ledger, tmp_path: Path) -> bytes:
    line = json.loads(forged(ledger, tmp_path))
    return json.dumps({**line, "signature": ""}).encode() + b"\n"


def altered(ledger: Ledger, tmp_path: Path) -> bytes:
    return json.dumps({**asdict(list(ledger.entries())[-1]), "seq": 3}).encode() + b"\n"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (forged, "line 3: the signature is not by this home's key"),
        (unsigned, "line 3: the signature is not by this home's key"),
        (altered, "line 3: the chain is broken"),
        (lambda ledger, tmp_path: b"\xff\x00 no entry\n", "line 3 is unreadable"),
    ],
    ids=["another key", "no signature", "broken chain", "no entry"],
)
def test_a_bad_line_is_refused_and_what_came_before_it_stands(
    ledger: Ledger, follower: Follower, tmp_path: Path, line: Callable[[Ledger, Path], bytes], sentence: str
) -> None:
    promote(ledger, "a")
    assert follower.poll()
    promote(ledger, "b")  # sound, and not read before the bad line is there
    with ledger.path.open("ab") as file:
        file.write(line(ledger, tmp_path))
    for _ in range(2):
        with pytest.raises(LedgerError, match=sentence):
            follower.poll()
        assert releases(follower.in_charge) == {"champion": "b", "previous": "a"}
    whole = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(whole[:2]))
    promote(ledger, "c")
    assert follower.poll()
    assert releases(follower.in_charge)["champion"] == "c"


def test_a_ledger_of_another_home_changes_nothing(ledger: Ledger, follower: Follower, tmp_path: Path) -> None:
    promote(ledger, "a")
    assert follower.poll()
    other = Ledger(tmp_path / "other.jsonl", SigningKey(tmp_path / "other keys"))
    promote(other, "x")
    promote(other, "y")
    os.replace(other.path, ledger.path)
    with pytest.raises(LedgerError, match="lost entries"):
        follower.poll()
    assert releases(follower.in_charge) == {"champion": "a"}


@pytest.mark.parametrize("left", [0, 1])
def test_a_ledger_cut_back_to_an_earlier_state_is_not_believed(ledger: Ledger, follower: Follower, left: int) -> None:
    promote(ledger, "a")
    promote(ledger, "b")
    assert follower.poll()
    whole = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(whole[:left]))
    with pytest.raises(LedgerError, match="lost entries"):
        follower.poll()
    assert releases(follower.in_charge)["champion"] == "b"


def test_a_ledger_that_is_gone_keeps_who_was_in_charge_until_it_is_back(ledger: Ledger, follower: Follower) -> None:
    promote(ledger, "a")
    assert follower.poll()
    kept = ledger.path.rename(ledger.path.with_suffix(".kept"))
    with pytest.raises(LedgerError, match=r"ledger\.jsonl cannot be read: No such file"):
        follower.poll()
    assert releases(follower.in_charge) == {"champion": "a"}
    shutil.copyfile(kept, ledger.path)  # a restored copy is another file with the same beginning
    assert not follower.poll()
    promote(ledger, "b")
    assert follower.poll()
    assert releases(follower.in_charge)["champion"] == "b"


def test_a_folder_in_the_ledgers_place_is_one_sentence(ledger: Ledger, follower: Follower) -> None:
    ledger.path.mkdir()
    with pytest.raises(LedgerError, match=r"ledger\.jsonl cannot be read: Is a directory"):
        follower.poll()

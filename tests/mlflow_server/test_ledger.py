"""The ledger holds against tampering, torn writes, other keys and many writers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlflow_server.ledger import Decision, Ledger, LedgerError, SigningKey, signature_holds


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.jsonl", SigningKey(tmp_path / "keys"))


def fill(ledger: Ledger, count: int = 4) -> None:
    for n in range(count):
        ledger.append("promotion", {"version": n, "alias": "champion"}, actor="ada", ts=1000 + n)


def rewrite(ledger: Ledger, change: object) -> None:
    """Apply `change` to the list of lines."""
    lines = ledger.path.read_text().splitlines()
    change(lines)  # type: ignore[operator]
    ledger.path.write_bytes("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))


def altered(line: str, **values: object) -> str:
    return json.dumps({**json.loads(line), **values})


def test_what_is_written_is_read_back_in_order(ledger: Ledger) -> None:
    fill(ledger)
    entries = list(ledger.entries())
    assert [e.seq for e in entries] == [1, 2, 3, 4]
    assert [e.body["version"] for e in entries] == [0, 1, 2, 3]
    assert ledger.verify() == 4


def test_an_absent_ledger_is_empty_and_sound(ledger: Ledger) -> None:
    assert list(ledger.entries()) == []
    assert ledger.verify() == 0


TAMPERINGS = {
    "altered body": (
        lambda ls: ls.__setitem__(1, altered(ls[1], body={"version": 9})),
        "line 2: the entry was altered",
    ),
    "altered actor": (lambda ls: ls.__setitem__(1, altered(ls[1], actor="eve")), "line 2: the entry was altered"),
    "altered time": (lambda ls: ls.__setitem__(3, altered(ls[3], ts=1)), "line 4: the entry was altered"),
    "removed": (lambda ls: ls.pop(1), "line 2: the chain is broken"),
    "removed first": (lambda ls: ls.pop(0), "line 1: the chain is broken"),
    "moved": (lambda ls: ls.insert(0, ls.pop(2)), "line 1: the chain is broken"),
    "repeated": (lambda ls: ls.append(ls[3]), "line 5: the chain is broken"),
    "other signature": (lambda ls: ls.__setitem__(2, altered(ls[2], signature="00" * 64)), "line 3: the signature"),
    "no signature": (lambda ls: ls.__setitem__(2, altered(ls[2], signature="")), "line 3: the signature"),
    "not JSON": (lambda ls: ls.__setitem__(2, "{"), "line 3 is unreadable"),
    "another shape": (lambda ls: ls.__setitem__(2, '{"seq": 3}'), "line 3 is unreadable"),
    "not UTF-8": (lambda ls: ls.__setitem__(2, "\udcff"), "line 3 is unreadable"),
    "a list": (lambda ls: ls.__setitem__(2, "[1]"), "line 3 is unreadable"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_named_with_its_line(ledger: Ledger, name: str) -> None:
    fill(ledger)
    change, message = TAMPERINGS[name]
    rewrite(ledger, change)
    with pytest.raises(LedgerError, match=message):
        ledger.verify()


def test_a_rewritten_chain_under_another_key_is_found(ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger)
    forged = Ledger(tmp_path / "forged.jsonl", SigningKey(tmp_path / "other keys"))
    fill(forged)
    forged.path.replace(ledger.path)
    with pytest.raises(LedgerError, match="line 1: the signature is not by this home's key"):
        ledger.verify()


@pytest.mark.parametrize("torn", [b'{"seq": 5', b"\xff\xfe", b"{", b'{"seq": 5, "a": "\xc3'])
def test_a_torn_last_line_is_passed_over_and_then_replaced(ledger: Ledger, torn: bytes) -> None:
    fill(ledger)
    with ledger.path.open("ab") as file:
        file.write(torn)
    assert ledger.verify() == 4
    assert ledger.append("refusal", {}, actor="ada", ts=1).seq == 5
    assert ledger.verify() == 5


def test_a_ledger_that_is_one_torn_line_starts_anew(ledger: Ledger) -> None:
    ledger.path.write_bytes(b'{"seq": 1, "prev"')
    assert ledger.append("refusal", {}, actor="ada", ts=1).seq == 1
    assert ledger.verify() == 1


def test_entries_larger_than_a_block_keep_the_chain(ledger: Ledger) -> None:
    for n in range(3):
        ledger.append("decision", {"long": "x" * (150_000 + n)}, actor="ada", ts=n)
    assert ledger.verify() == 3


WRITER = """
import sys
from pathlib import Path
from mlflow_server.ledger import Ledger, SigningKey
folder = Path(sys.argv[1])
ledger = Ledger(folder / "ledger.jsonl", SigningKey(folder / "keys"))
for n in range(int(sys.argv[2])):
    entry = ledger.append("drill", {"writer": sys.argv[3], "n": n, "padding": "x" * 3000}, actor="w", ts=n)
    print(entry.seq, flush=True)
"""


def writer(folder: Path, count: int, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(count), name], stdout=-1, text=True)


def test_many_writers_share_one_chain(ledger: Ledger, tmp_path: Path) -> None:
    writers = [writer(tmp_path, 25, str(n)) for n in range(4)]
    acknowledged = [int(seq) for w in writers for seq in w.communicate(timeout=60)[0].split()]
    assert sorted(acknowledged) == list(range(1, 101))
    assert ledger.verify() == 100


def test_kill_9_loses_nothing_that_was_acknowledged(ledger: Ledger, tmp_path: Path) -> None:
    victim = writer(tmp_path, 100_000, "victim")
    assert victim.stdout
    seen = [int(victim.stdout.readline()) for _ in range(20)]
    os.kill(victim.pid, signal.SIGKILL)
    seen += [int(line) for line in victim.communicate()[0].split()]
    assert ledger.verify() >= max(seen)
    after = ledger.append("drill", {}, actor="ada", ts=1)
    assert ledger.verify() == after.seq


def test_nan_cannot_be_written_and_leaves_no_line(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="JSON"):
        ledger.append("decision", {"observed": float("nan")}, actor="ada", ts=1)
    assert ledger.verify() == 0


def test_a_disk_that_fails_to_sync_acknowledges_nothing(ledger: Ledger, tmp_path: Path, need: object) -> None:
    strace = need("strace")  # type: ignore[operator]
    fill(ledger, 1)
    inject = [strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1+"]
    made = subprocess.run(
        [*inject, sys.executable, "-c", WRITER, str(tmp_path), "1", "unlucky"], capture_output=True, text=True
    )
    assert made.returncode != 0
    assert made.stdout == ""
    assert "Input/output error" in made.stderr


def test_decisions_come_back_newest_of_each_gate(ledger: Ledger) -> None:
    old = Decision("infra", "fail", "digest", 3.0, 2.0, "too slow", {"run": "a"}, ({"name": "fast"},))
    new = Decision("infra", "pass", "digest", 1.0, 2.0, "fine", {"run": "b"}, ({"name": "fast"},))
    other = Decision("offline", "pass", "another", None, None, "fine")
    for decision in (old, other, new):
        ledger.record(decision, actor="ada", ts=1)
    assert ledger.decisions("digest") == {"infra": new}


def test_the_key_is_private_and_the_same_for_all(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    one, two = SigningKey(folder), SigningKey(folder)
    assert one.public == two.public
    assert (folder.stat().st_mode & 0o777, (folder / "signing.key").stat().st_mode & 0o777) == (0o700, 0o600)
    assert signature_holds(one.public, two.sign(b"yes"), b"yes")
    assert not signature_holds(one.public, two.sign(b"yes"), b"no")
    assert not signature_holds("zz", "yy", b"no")


def test_two_first_starts_agree_on_one_key(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from mlflow_server.ledger import SigningKey
print(SigningKey(Path(sys.argv[1]) / "k").public)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    started = [subprocess.Popen(command, stdout=-1, text=True) for _ in range(4)]
    assert len({p.communicate()[0] for p in started}) == 1


def test_time_is_both_the_homes_and_the_walls(ledger: Ledger) -> None:
    entry = ledger.append("drill", {}, actor="ada", ts=5)
    assert entry.ts == 5
    assert abs(entry.wall_ts - time.time() * 1000) < 60_000


def test_a_line_of_another_ledger_under_the_same_key_breaks_the_chain(ledger: Ledger, tmp_path: Path) -> None:
    twin = Ledger(tmp_path / "twin.jsonl", ledger.key)
    fill(ledger, 3)
    twin.append("refusal", {}, actor="ada", ts=1)
    fill(twin, 2)
    spliced = twin.path.read_text().splitlines()[1]
    rewrite(ledger, lambda lines: lines.__setitem__(1, spliced))
    with pytest.raises(LedgerError, match="line 2: the chain is broken"):
        ledger.verify()


def test_a_lost_key_is_not_replaced_by_another(ledger: Ledger, tmp_path: Path) -> None:
    """A new key would sign on where the old one ended, and nothing after it would verify."""
    ledger.append("note", {"n": 1}, actor="me", ts=1)
    keys = tmp_path / "other-keys"
    for again in (Ledger.to_read(ledger.path, keys), Ledger.to_write(ledger.path, keys)):
        assert [entry.body for entry in again.entries()] == [{"n": 1}]
        with pytest.raises(LedgerError, match=r"the key that signed .* is missing"):
            again.append("note", {"n": 2}, actor="me", ts=2)
        with pytest.raises(LedgerError, match=r"the key that signed .* is missing"):
            again.verify()
    assert not keys.exists()

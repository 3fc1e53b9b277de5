"""The ledger: what was decided, by whom, when, on what evidence. Append-only, hash-chained, signed; the truth.

One JSON line per entry: seq, prev (hash of the line before), ts (the home's clock), wall_ts, actor, kind, body,
hash (SHA-256 of all that), signature (Ed25519 over the hash). Tags and aliases in the registry only mirror it.
"""

import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from conf.errors import PlainError

Verdict = Literal["pass", "fail", "cannot say"]
GENESIS = "0" * 64
KEY = "signing.key"


@dataclass(frozen=True)
class Decision:
    """The frozen record of one gate on one subject. Only `pass` opens; NaN never passes.

    subject: the release's digest (for `inputs`, the snapshot's id); evidence: ids the verdict rests on, by name
    (`snapshot`, `champion`, `run`, ...); valid_until_ms: None where it stands as long as its subject does.
    """

    gate: str
    verdict: Verdict
    subject: str
    observed: float | None
    limit: float | None
    reason: str
    evidence: dict[str, str] = field(default_factory=dict)
    checks: tuple[dict[str, Any], ...] = ()  # every check of the gate: name, verdict, observed, limit, reason
    valid_until_ms: int | None = None


@dataclass(frozen=True)
class Entry:
    seq: int
    prev: str
    ts: int
    wall_ts: int
    actor: str
    kind: str
    body: dict[str, Any]
    hash: str
    signature: str


class LedgerError(PlainError):
    """The ledger is broken or was tampered with; the message names the line and what is wrong."""


class SigningKey:
    """The home's Ed25519 key pair, made on first use; the private half never leaves the folder (modes 0700, 0600)."""

    def __init__(self, folder: Path) -> None:
        path = folder / KEY
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _locked(folder / "signing.lock"):
                if not path.exists():
                    raw = Ed25519PrivateKey.generate().private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
                    _write_durably(path, raw)
        try:
            self._key = Ed25519PrivateKey.from_private_bytes(path.read_bytes())
        except ValueError as why:
            raise LedgerError(f"{path} is no signing key: put it back from a backup") from why
        self.public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def sign(self, message: bytes) -> str:
        return self._key.sign(message).hex()


def signature_holds(public: str, signature: str, message: bytes) -> bool:
    """Whether `signature` (hex) of `message` was made by the key whose public half (hex) is given."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


class Ledger:
    """Reads and appends `ledger.jsonl`. Writers in any process share one lock; a torn last line is dropped."""

    def __init__(self, path: Path, key: SigningKey | None) -> None:
        self.path, self._key = path, key

    @classmethod
    def to_read(cls, path: Path, keys: Path) -> "Ledger":
        """For reading: makes neither file nor key, so that a look changes nothing."""
        return cls(path, SigningKey(keys) if (keys / KEY).exists() else None)

    @classmethod
    def to_write(cls, path: Path, keys: Path) -> "Ledger":
        """For writing. LedgerError where there are entries but their key is gone: a new key would break the chain."""
        return cls(path, None if path.exists() and not (keys / KEY).exists() else SigningKey(keys))

    @property
    def key(self) -> SigningKey:
        if self._key is None:
            raise LedgerError(
                f"the key that signed {self.path} is missing: put {KEY} back into the keys folder beside it from a "
                "backup, or begin anew in another GREENLIGHT_HOME"
            )
        return self._key

    def append(self, kind: str, body: dict[str, Any], *, actor: str, ts: int) -> Entry:
        """Write one entry durably (fsync) and return it. `ts` is the home's now in ms."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path.with_suffix(".lock")), self.path.open("a+b") as file:
            last = self._drop_torn_line(file)
            head: dict[str, Any] = {
                "seq": last.seq + 1 if last else 1,
                "prev": last.hash if last else GENESIS,
                "ts": ts,
                "wall_ts": time.time_ns() // 1_000_000,
                "actor": actor,
                "kind": kind,
                "body": body,
            }
            digest = hashlib.sha256(_canonical(head)).hexdigest()
            entry = Entry(**head, hash=digest, signature=self.key.sign(bytes.fromhex(digest)))
            file.write(_canonical(asdict(entry)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return entry

    def record(self, decision: Decision, *, actor: str, ts: int) -> Entry:
        """Write a gate's decision."""
        return self.append("decision", asdict(decision), actor=actor, ts=ts)

    def entries(self, kind: str | None = None) -> Iterator[Entry]:
        """Entries in order; a torn last line (a writer was killed) is passed over."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if (
                    line.endswith(b"\n")
                    and (entry := self._parse(line, f"line {number}"))
                    and kind in (None, entry.kind)
                ):
                    yield entry

    def decisions(self, subject: str) -> dict[str, Decision]:
        """The newest decision of each gate on a subject (a release's digest, or a snapshot's id), by gate."""
        found = {}
        for entry in self.entries("decision"):
            if entry.body["subject"] == subject:
                found[entry.body["gate"]] = Decision(**{**entry.body, "checks": tuple(entry.body["checks"])})
        return found

    def verify(self) -> int:
        """Check sequence, chain, hashes and signatures; the number of entries, or LedgerError at the first bad line."""
        last, count = None, 0
        if not self.path.exists():
            return count
        for entry in self.entries():
            count += 1
            check_link(entry, last, where := f"{self.path.name} line {count}")
            check_signature(entry, self.key.public, where)
            last = entry
        return count

    def _parse(self, line: bytes, where: str) -> Entry:
        return read_entry(line, f"{self.path.name} {where}")

    def _drop_torn_line(self, file: Any) -> Entry | None:
        """The last whole entry; what follows it was never acknowledged and is cut off. Reads backwards in blocks."""
        size = position = file.seek(0, os.SEEK_END)
        tail = b""
        while position and tail.count(b"\n") < 2:
            step = min(position, 65_536)
            position -= step
            file.seek(position)
            tail = file.read(step) + tail
        whole = tail[: tail.rfind(b"\n") + 1]
        if len(whole) < len(tail):
            file.truncate(size - (len(tail) - len(whole)))
        return self._parse(whole.splitlines()[-1], "last line") if whole else None


def read_entry(line: bytes, where: str) -> Entry:
    """The entry of one line; LedgerError where it is none. Nothing of it is checked yet."""
    try:
        return Entry(**json.loads(line))
    except (ValueError, TypeError) as why:  # not JSON, not UTF-8, or not an entry
        raise LedgerError(f"{where} is unreadable: {line[:80]!r}: {why}") from why


def check_link(entry: Entry, before: Entry | None, where: str) -> None:
    """LedgerError unless `entry` follows the one before it (None: it is the first) and is as it was written."""
    seq, prev = (before.seq, before.hash) if before else (0, GENESIS)
    if entry.seq != seq + 1 or entry.prev != prev:
        raise LedgerError(f"{where}: the chain is broken: an entry was removed, added or moved")
    head = {k: v for k, v in asdict(entry).items() if k not in ("hash", "signature")}
    if hashlib.sha256(_canonical(head)).hexdigest() != entry.hash:
        raise LedgerError(f"{where}: the entry was altered: its hash does not match its content")


def check_signature(entry: Entry, public: str, where: str) -> None:
    """LedgerError unless the key whose public half (hex) is given signed the entry."""
    if not signature_holds(public, entry.signature, bytes.fromhex(entry.hash)):
        raise LedgerError(f"{where}: the signature is not by this home's key")


def _canonical(value: Any) -> bytes:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
    ).encode()


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):  # a NumPy scalar
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written to the ledger")


def finite(value: float | None) -> float | None:
    """The value, or None where it is NaN or infinite: JSON has no such numbers."""
    return None if value is None or not math.isfinite(value) else float(value)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_durably(path: Path, content: bytes) -> None:
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)

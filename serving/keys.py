"""API keys: made here, shown once, kept as a keyed hash in one file that all workers read again when it changes.

    gl_<environment>_<id>_<secret><checksum>

id: 10 characters, secret: 40, checksum: 6, all of base62. The checksum tells a typing error from a key that was taken
away, without a look into the file. The hash is HMAC-SHA256 under a pepper that lies beside the file (mode 0600), and so
is the seal over the whole file: one that was damaged or edited by hand lets nobody in.
"""

import fcntl
import hmac
import json
import logging
import os
import re
import secrets
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from conf.errors import PlainError
from conf.home import Home
from conf.sections.serving import Scope
from conf.settings import Settings
from events.disk import sync

log = logging.getLogger("greenlight.serving")

FORMAT = 1
LOOK_EVERY_S = 0.5  # how often a worker looks whether the file has changed
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID, SECRET, CHECKSUM = 10, 40, 6  # characters
SHAPE = re.compile(rf"gl_([a-z]{{2,12}})_([0-9A-Za-z]{{{ID}}})_([0-9A-Za-z]{{{SECRET}}})([0-9A-Za-z]{{{CHECKSUM}}})")
SCOPES: tuple[Scope, ...] = get_args(Scope)
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


class KeysError(PlainError):
    """The keys cannot be read or changed; the message says which and what to do."""


class Key(BaseModel):
    """What is kept of a key. Times are wall time, in ms since 1970."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created_ms: int
    expires_ms: int | None = None
    revoked_ms: int | None = None
    per_minute: Annotated[int, Field(ge=1)] | None = None  # its quota; None: none

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def state(self, now_ms: int) -> str:
        """`revoked`, `expired` or `live`."""
        if self.revoked_ms is not None:
            return "revoked"
        return "expired" if self.expires_ms is not None and self.expires_ms <= now_ms else "live"

    def shown(self) -> dict[str, Any]:
        """What people may see of it."""
        return {"state": self.state(_now_ms()), **self.model_dump(mode="json", exclude={"hash"})}


KEYS: TypeAdapter[list[Key]] = TypeAdapter(list[Key])


class NoKey(NamedTuple):
    """Why what was presented opens nothing. `sentence` says what to do, and never holds the key."""

    status: int
    reason: str
    sentence: str


MALFORMED = NoKey(
    401, "malformed", "this is not an API key: one looks like gl_<environment>_<id>_<secret>; copy it whole"
)
MISTYPED = NoKey(401, "mistyped", "this API key has a typing error, its checksum is wrong: copy it whole")
WRONG = NoKey(401, "wrong", "this API key is not known here: make one with `greenlight keys create`")
EXPIRED = NoKey(401, "expired", "this API key has expired: make another with `greenlight keys rotate` and its id")
REVOKED = NoKey(401, "revoked", "this API key was revoked: make another with `greenlight keys create`")
SHUT = NoKey(503, "keys-unreadable", "the keys cannot be read, so no key opens anything: the server's log says why")


class KeyStore:
    """The keys of a home. `check` is for workers: it looks for changes twice a second."""

    def __init__(self, home: Home, environment: str = "local") -> None:
        self.path, self.pepper_path = home.keys / "api-keys.json", home.keys / "api-pepper"
        self.environment = environment
        self._known: dict[str, Key] | None = {}  # None: they cannot be read
        self._pepper = b""
        self._seen: tuple[int, ...] | None = None  # what the file looked like when it was read
        self._next_look = 0.0

    # Changes ------------------------------------------------------------------------------------------------------

    def create(
        self,
        name: str,
        scopes: tuple[Scope, ...] = ("read",),
        *,
        per_minute: int | None = None,
        days: float | None = None,
    ) -> tuple[str, Key]:
        """A new key: its text, which nobody can see again, and what is kept of it."""
        with self._changing() as keys:
            now_ms = _now_ms()
            expires_ms = None if days is None else now_ms + round(days * DAY_MS)
            return self._add(keys, name, scopes, per_minute, now_ms, expires_ms)

    def rotate(self, key_id: str, overlap_hours: float = 24.0) -> tuple[str, Key]:
        """A key that replaces another, with its name, scopes, quota and lifetime; the old one ends after the overlap.

        KeysError where the old one was revoked.
        """
        with self._changing() as keys:
            at, old = _find(keys, key_id)
            now_ms = _now_ms()
            if old.state(now_ms) == "revoked":
                raise KeysError(f"key {key_id} was revoked: make another with `greenlight keys create`")
            expires_ms = None if old.expires_ms is None else now_ms + old.expires_ms - old.created_ms
            ends_ms = now_ms + round(overlap_hours * HOUR_MS)
            ends_ms = ends_ms if old.expires_ms is None else min(ends_ms, old.expires_ms)
            keys[at] = old.model_copy(update={"expires_ms": ends_ms})
            return self._add(keys, old.name, old.scopes, old.per_minute, now_ms, expires_ms)

    def revoke(self, key_id: str) -> Key:
        """End a key now; workers know within a second. Revoking twice changes nothing."""
        with self._changing() as keys:
            at, old = _find(keys, key_id)
            if old.revoked_ms is None:
                keys[at] = old.model_copy(update={"revoked_ms": _now_ms()})
            return keys[at]

    def all(self) -> list[Key]:
        """All keys, oldest first, those that are over included. KeysError where they cannot be read."""
        return self._read()[1]

    def any_live(self) -> bool:
        now_ms = _now_ms()
        return any(key.state(now_ms) == "live" for key in self.all())

    # Checks -------------------------------------------------------------------------------------------------------

    def check(self, presented: str) -> Key | NoKey:
        """The key that was presented, or why it is none. Called by one thread only."""
        found = SHAPE.fullmatch(presented)
        if found is None:
            return MALFORMED
        if not hmac.compare_digest(_checksum(presented[:-CHECKSUM]), found[4]):
            return MISTYPED
        self._look()
        if self._known is not None and found[2] not in self._known:
            self._look(at_once=True)  # it may have been made a moment ago
        if self._known is None:
            return SHUT
        key = self._known.get(found[2])
        # unknown ids take as long as wrong secrets
        right = hmac.compare_digest(_hash(self._pepper, presented), key.hash if key else "0" * 64)
        if key is None or not right:
            return WRONG
        if key.revoked_ms is None and key.expires_ms is None:
            return key
        refused = {"expired": EXPIRED, "revoked": REVOKED}.get(key.state(_now_ms()))
        return refused or key

    def _look(self, at_once: bool = False) -> None:
        """Read the file again where it is another than before."""
        now = time.monotonic()
        if now < self._next_look and not at_once:
            return
        self._next_look = now + LOOK_EVERY_S
        seen = _stamp(self.path) + _stamp(self.pepper_path)
        if seen == self._seen:
            return
        try:
            self._pepper, keys = self._read()
            self._known = {key.id: key for key in keys}
        except KeysError as why:
            self._known = None
            log.error("no key opens anything: %s", why)
        self._seen = seen

    # The file -----------------------------------------------------------------------------------------------------

    def _read(self) -> tuple[bytes, list[Key]]:
        remedy = "restore a copy, or remove it and make new keys"
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return b"", []
        except OSError as why:
            raise KeysError(f"{self.path} cannot be read: {why.strerror or why}") from why
        try:
            pepper = self.pepper_path.read_bytes()
        except OSError as why:
            raise KeysError(f"{self.pepper_path} cannot be read ({why.strerror or why}): {remedy}") from why
        try:
            content = orjson.loads(raw)
            if content["format"] != FORMAT or not hmac.compare_digest(_seal(pepper, content["keys"]), content["seal"]):
                raise ValueError("its seal is broken")
            return pepper, KEYS.validate_python(content["keys"])
        except (ValueError, KeyError, TypeError, ValidationError) as why:
            raise KeysError(f"{self.path} is damaged: {remedy}") from why

    @contextmanager
    def _changing(self) -> Iterator[list[Key]]:
        """The keys, to be altered in place; stored where nothing was raised. One process at a time."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self.path.with_suffix(".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                pepper, keys = self._read()
                self._pepper = pepper or self._made_pepper()
                yield keys
                self._write(keys)
        except OSError as why:
            raise KeysError(f"{self.path} cannot be written: {why.strerror or why}; nothing was changed") from why

    def _write(self, keys: list[Key]) -> None:
        stored = [key.model_dump(mode="json") for key in keys]
        content = {"format": FORMAT, "keys": stored, "seal": _seal(self._pepper, stored)}
        _replace(self.path, json.dumps(content, indent=1).encode())
        self._next_look = 0.0

    def _made_pepper(self) -> bytes:
        """The pepper, made where there is none: without keys, nothing was hashed under another."""
        if self.pepper_path.exists():
            return self.pepper_path.read_bytes()
        _replace(self.pepper_path, secrets.token_bytes(32))
        return self.pepper_path.read_bytes()

    def _add(
        self,
        keys: list[Key],
        name: str,
        scopes: tuple[Scope, ...],
        per_minute: int | None,
        now_ms: int,
        expires_ms: int | None,
    ) -> tuple[str, Key]:
        key_id = _random(ID)
        head = f"gl_{self.environment}_{key_id}_{_random(SECRET)}"
        text = head + _checksum(head)
        kept = {"hash": _hash(self._pepper, text), "created_ms": now_ms, "expires_ms": expires_ms}
        try:
            key = Key.model_validate({"id": key_id, "name": name, "scopes": scopes, "per_minute": per_minute, **kept})
        except ValidationError as why:
            wrong = why.errors(include_url=False)[0]
            field = wrong["loc"][0]
            raise KeysError(f"a key cannot be made: {field} is {str(wrong['input'])[:60]!r}: {wrong['msg']}") from None
        keys.append(key)
        return text, key


def first_key(home: Home, settings: Settings) -> str | None:
    """The text of a first key, with all scopes, made where the home has none; None where it has some."""
    store = KeyStore(home, settings.door.environment)
    if store.all():
        return None
    return store.create("first", SCOPES)[0]


def known_scopes(names: Sequence[str]) -> tuple[Scope, ...]:
    """The scopes that were named, each once. KeysError names one that is none."""
    if unknown := [name for name in names if name not in SCOPES]:
        raise KeysError(f"scope {unknown[0][:20]!r} is none: the scopes are {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in names)


def _find(keys: list[Key], key_id: str) -> tuple[int, Key]:
    for at, key in enumerate(keys):
        if key.id == key_id:
            return at, key
    raise KeysError(f"there is no key {key_id[:20]!r}: `greenlight keys list` shows their ids")


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def _checksum(text: str) -> str:
    """CRC-32 in base62: six characters."""
    number, digits = zlib.crc32(text.encode()), ""
    for _ in range(CHECKSUM):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


def _hash(pepper: bytes, text: str) -> str:
    return hmac.digest(pepper, text.encode(), "sha256").hex()


def _seal(pepper: bytes, keys: object) -> str:
    return _hash(pepper, "seal\x00" + orjson.dumps(keys, option=orjson.OPT_SORT_KEYS).decode())


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return (0,)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _replace(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync(path.parent)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

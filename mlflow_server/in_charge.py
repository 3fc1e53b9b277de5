"""Who is in charge: what each alias rests on, read from the ledger. Aliases in MLflow only mirror it.

Kinds of entry that count, with `alias`, `version`, `release` (digest), `rule` and `from` in their body:

    promotion   the release stands under the alias from now on
    rollback    the champion is taken back to `release`; the one that it left is no rollback target
    withdrawal  the challenger is taken out of its A/B; nobody takes its place
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from mlflow_server.ledger import Entry, Ledger, LedgerError, check_link, check_signature, read_entry

ALIASES = ("champion", "challenger", "previous")


def in_charge(ledger: Ledger) -> dict[str, Entry]:
    """The entry that each alias rests on now. A challenger that became champion is challenger no more."""
    return standing(ledger.entries())


def standing(entries: Iterable[Entry]) -> dict[str, Entry]:
    """As `in_charge`, of entries in order. `previous` is the champion before this one that was not rolled back from."""
    champions: list[Entry] = []
    challenger: Entry | None = None
    for entry in entries:
        if entry.kind == "promotion" and entry.body["alias"] == "challenger":
            if not challenger or challenger.body["release"] != entry.body["release"]:
                challenger = entry  # promoted again, it keeps its entry, and with it the halves of its A/B
        elif entry.kind == "promotion" and entry.body["alias"] == "champion":
            if champions and champions[-1].body["release"] == entry.body["release"]:
                champions[-1] = entry
            else:
                champions.append(entry)
        elif entry.kind == "rollback":
            while champions and champions[-1].body["release"] != entry.body["release"]:
                champions.pop()
            champions[-1:] = [entry]
        elif entry.kind == "withdrawal" and challenger and challenger.body["release"] == entry.body["release"]:
            challenger = None
        if challenger and champions and challenger.body["release"] == champions[-1].body["release"]:
            challenger = None
    found = {"challenger": challenger}
    found |= dict(zip(("champion", "previous"), champions[:-3:-1], strict=False))
    return {alias: entry for alias, entry in found.items() if entry is not None}


class Follower:
    """Follows a ledger that others append to, and believes only what the key with the public half `public` signed.

    in_charge: as the function of that name, of all entries that are sound so far. One thread polls.
    """

    RELIED_ON = ("promotion", "rollback", "withdrawal", "registered")

    def __init__(self, path: Path, public: str) -> None:
        self.path, self.public = path, public
        self.in_charge: dict[str, Entry] = {}
        self._moves: list[Entry] = []
        self._registered: dict[str, Entry] = {}
        self._last: Entry | None = None
        self._inode, self._position = 0, 0
        self._seen: tuple[int, ...] | None = None
        self._trouble = ""

    def poll(self) -> bool:
        """Read what was appended; whether who is in charge changed. Where nothing was, it costs one `stat`.

        A torn last line waits. LedgerError says what is wrong with the first bad line: what came before it stands.
        The same error comes again until the file changes. A ledger that is gone or has lost entries is one, too.
        """
        stamp = self._stamp()
        before = {alias: entry.hash for alias, entry in self.in_charge.items()}
        if stamp != self._seen:
            self._seen, self._trouble = stamp, ""
            try:
                self._read()
            except LedgerError as why:
                self._trouble = str(why)
            except OSError as why:
                self._trouble = f"{self.path} cannot be read: {why.strerror or why}"
        if self._trouble:
            raise LedgerError(self._trouble)
        return {alias: entry.hash for alias, entry in self.in_charge.items()} != before

    def registered(self, digest: str) -> Entry | None:
        """The entry that registered a release in this home; None where none did."""
        return self._registered.get(digest)

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _read(self) -> None:
        if self._last is None and not self.path.exists():
            return
        with self.path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._inode or found.st_size < self._position:
                self._inode, self._position = found.st_ino, self._known_part(file)
            file.seek(self._position)
            for line in _whole(file):
                self._take(line)
                self._position += len(line)

    def _known_part(self, lines: Iterable[bytes]) -> int:
        """Bytes of another file that hold all that was read so far; LedgerError where it does not."""
        if self._last is None:
            return 0
        length = 0
        for number, line in enumerate(_whole(lines), start=1):
            length += len(line)
            if number == self._last.seq and read_entry(line, f"{self.path.name} line {number}") == self._last:
                return length
        raise LedgerError(f"{self.path} has lost entries that it had: put it back from a backup")

    def _take(self, line: bytes) -> None:
        where = f"{self.path.name} line {self._last.seq + 1 if self._last else 1}"
        entry = read_entry(line, where)
        check_link(entry, self._last, where)
        if entry.kind in self.RELIED_ON:
            check_signature(entry, self.public, where)
            self._rely_on(entry)
        self._last = entry

    def _rely_on(self, entry: Entry) -> None:
        if entry.kind == "registered":
            self._registered[entry.body["release"]] = entry
        else:
            self._moves.append(entry)
            self.in_charge = standing(self._moves)


def _whole(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines that end: a last one that does not is still being written."""
    return (line for line in lines if line.endswith(b"\n"))

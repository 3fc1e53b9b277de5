"""Who is in charge: what each alias rests on, read from the ledger. Aliases in MLflow only mirror it.

Kinds of entry that count, with `alias`, `version`, `release` (digest), `rule` and `from` in their body:

    promotion   the release stands under the alias from now on
    rollback    the champion is taken back to `release`; the one that it left is no rollback target
    withdrawal  the challenger is taken out of its A/B; nobody takes its place
"""

from collections.abc import Iterable

from mlflow_server.ledger import Entry, Ledger

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
            challenger = entry
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

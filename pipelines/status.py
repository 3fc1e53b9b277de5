"""What is in force, what is broken, which command helps. Reads files only, so it works when everything is down."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from conf.errors import PlainError
from conf.home import Home
from conf.settings import SECRETS, Settings
from events.event import DEAD_LETTER, EVENTS
from events.local_log import LocalLog
from events.reading import reading_log
from events.store import begun
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Ledger
from mlflow_server.release import verify
from monitoring.lag import Behind
from pipelines import health
from pipelines.health import Part
from serving.lag import lags

NOT_OURS = (KeyError, TypeError, ValueError, AttributeError)  # what a file brings about that is not as we write it


def parts(home: Home, settings: Settings) -> list[Part]:
    """Every part, in the order in which the loop fills them."""
    if home.kind() is None and home.root.is_dir() and any(home.root.iterdir()):
        what = f"{home.root} holds files but no readable {home.marker.name}, which marks a home"
        return [Part("home", "broken", what, f"put {home.marker.name} back, or set GREENLIGHT_HOME to another folder")]
    if home.kind() is None:
        return [
            Part("home", "empty", f"{home.root} does not exist yet", "greenlight demo, or greenlight data import FILE")
        ]
    found = [_checked("log", partial(_log, settings=settings), home)]
    found += [_checked(name, look, home) for name, look in _LOOKS.items()]
    with_settings = {"lag": health.lag, "kafka": health.kafka, "mirror": health.mirror}
    looks = health.LOOKS | {name: partial(look, settings=settings) for name, look in with_settings.items()}
    return found + [part for name, look in looks.items() for part in _all_checked(name, look, home)]


def alarming(found: Iterable[Part]) -> list[Part]:
    """What a clock that asks must hear of: what is broken, that nothing runs, that there is no home. The last two are
    no fault to somebody who looks, but a silence that would pass for health."""
    silent = ("home", "up")
    woken = (replace(part, state="broken") if part.name in silent and part.state == "empty" else part for part in found)
    return [part for part in woken if part.state == "broken"]


def readers(home: Home, settings: Settings) -> list[Behind]:
    """How far each reader of the log is behind it; none where that cannot be told, which `parts` says."""
    try:
        return lags(home, settings)
    except PlainError:
        return []


def settings_in_force(settings: Settings) -> dict[str, Any]:
    """Every setting as plain values; anything named like a secret is masked."""
    return _masked(settings.model_dump(mode="json"))


def _checked(name: str, look: Callable[[Home], Part], home: Home) -> Part:
    try:
        return look(home)
    except (PlainError, OSError, sqlite3.Error) as why:
        return Part(name, "broken", str(why), _HELP.get(name, ""))


def _all_checked(name: str, look: Callable[[Home], Iterator[Part]], home: Home) -> list[Part]:
    try:
        return list(look(home))
    except (PlainError, OSError, sqlite3.Error, *NOT_OURS) as why:
        return [
            Part(name, "broken", f"it cannot be told: {why or type(why).__name__}", _HELP.get(name, "greenlight up"))
        ]


def _log(home: Home, settings: Settings) -> Part:
    read = reading_log(home, settings)
    if not read.exists():
        return Part("log", "empty", "no event has come in", "greenlight data import FILE")
    with LocalLog(read) as log:
        events, dead, lag = log.count(EVENTS), log.count(DEAD_LETTER), log.lag(EVENTS, "archive")
    helps = "greenlight data export - --dead-letter shows the unreadable ones" if dead else ""
    return Part("log", "ok", f"{events:,} events, {dead:,} unreadable; {lag:,} not yet archived", helps)


def _history(home: Home) -> Part:
    if home.place.exists():
        return Part("history", "ok", f"in {begun(home)}, which is not looked into here")
    days = len(list((home.history / EVENTS).glob("day=*")))
    if days:
        return Part("history", "ok", f"{days:,} days of events")
    for path in (home.log, home.mirror):
        if path.exists() and _was_archived(path):
            what = f"{home.history} is missing, though events were archived"
            return Part("history", "broken", what, "greenlight train writes it again from the log")
    return Part("history", "empty", "nothing was archived yet", "greenlight train")


def _was_archived(path: Path) -> bool:
    with LocalLog(path) as log:
        return bool(log.committed(EVENTS, "archive"))


def _snapshot(home: Home) -> Part:
    from pipelines.snapshot import load

    newest = max(_folders(home.snapshots), key=lambda f: f.stat().st_mtime, default=None)
    if newest is None:
        return Part("snapshot", "empty", "no history was cut yet", "greenlight train")
    cut = load(newest)
    return Part(
        "snapshot",
        "ok",
        f"{cut.id[:12]}: {len(cut.interactions):,} interactions of {len(cut.interactions.user_ids):,} viewers",
    )


def _ledger(home: Home) -> Part:
    if not home.ledger.exists() and any(_folders(home.releases)):
        what = f"{home.ledger} is missing, though releases were decided on"
        return Part("ledger", "broken", what, "restore the file from a backup")
    if not home.ledger.exists():
        return Part("ledger", "empty", "nothing was decided yet", "greenlight train")
    count = Ledger.to_read(home.ledger, home.keys).verify()
    return Part("ledger", "ok", f"{count} entries, chain and signatures hold")


def _champion(home: Home) -> Part:
    entry = in_charge(Ledger.to_read(home.ledger, home.keys)).get("champion")
    if entry is None:
        return Part("champion", "empty", "no version is in charge", "greenlight train")
    manifest = verify(home.releases / entry.body["release"])
    return Part("champion", "ok", f"version {entry.body['version']} ({manifest.model}), {entry.body['rule']}")


def _registry(home: Home) -> Part:
    path = home.root / "mlflow.db"
    if not path.exists() and any(Ledger.to_read(home.ledger, home.keys).entries("registered")):
        what = f"{path} is missing, though the ledger names versions"
        return Part("registry", "broken", what, "restore the file from a backup; greenlight train begins it anew")
    if not path.exists():
        return Part("registry", "empty", "no run was logged yet", "greenlight train")
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        (versions,) = database.execute("SELECT count(*) FROM model_versions").fetchone()
    return Part("registry", "ok", f"{versions} model versions", "greenlight up shows its pages")


def _bento(home: Home) -> Part:
    if not any(_folders(home.bentos / "bentos")):
        return Part("bento", "empty", "no release was packaged yet", "greenlight train")
    return Part("bento", "ok", f"in {home.bentos}", f"BENTOML_HOME={home.bentos} bentoml serve greenlight:latest")


_LOOKS: dict[str, Callable[[Home], Part]] = {
    "history": _history,
    "snapshot": _snapshot,
    "ledger": _ledger,
    "registry": _registry,
    "champion": _champion,
    "bento": _bento,
}
_HELP = {
    "log": "greenlight data import FILE into a new GREENLIGHT_HOME",
    "snapshot": "greenlight train cuts a new one",
    "ledger": "greenlight ledger --verify names the line; restore the file from a backup",
    "champion": "greenlight train builds a release; greenlight ledger --verify checks who is in charge",
    "aliases": "greenlight ledger --verify",
    "registry": "restore mlflow.db from a backup; the ledger still holds what was decided",
}


def _folders(parent: Path) -> Iterator[Path]:
    return (f for f in parent.glob("*") if f.is_dir() and not f.name.startswith(".")) if parent.is_dir() else iter(())


def _masked(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _masked(inner, f"{name}.{key}".lstrip(".")) for key, inner in value.items()}
    secret = name in SECRETS or any(word in name for word in ("secret", "password", "token", "private"))
    return "********" if secret and value else value

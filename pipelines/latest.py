"""The Bento that a fresh `bentoml serve` starts with, and whether it is of the source that is here."""

import hashlib
import json
from pathlib import Path
from typing import Any

from conf.errors import PlainError
from conf.home import Home

SERVICE = "greenlight"
ROOT = Path(__file__).resolve().parent.parent
SOURCE = (
    "conf/*.py",
    "conf/sections/*.py",
    "conf/*.yaml",
    "events/*.py",
    "models/*.py",
    "serving/*.py",
    "monitoring/__init__.py",
    "monitoring/lag.py",
    *(
        f"mlflow_server/{name}.py"
        for name in ("__init__", "depot", "in_charge", "ledger", "refreshed", "release", "topk", "viewers")
    ),
)


class PackageError(PlainError):
    """A Bento could not be built, or is damaged; the message says where."""


def bentos(home: Home) -> Path:
    """The folder of all Bentos of a home; `latest` in it names one."""
    return home.bentos / "bentos" / SERVICE


def latest(home: Home) -> Path | None:
    """The folder of the latest Bento; None where nothing was packaged yet."""
    try:
        return bentos(home) / (bentos(home) / "latest").read_text().strip()
    except FileNotFoundError:
        return None


def facts_of(bento: Path) -> dict[str, Any]:
    """What it was built of: release, public, measured, source. PackageError where it does not say."""
    path = bento / "src" / "packaged.json"
    try:
        facts = json.loads(path.read_text())
        return {name: facts[name] for name in ("release", "public", "measured", "source")}
    except (OSError, ValueError, KeyError, TypeError) as why:
        raise PackageError(f"{path}: missing or damaged ({why})") from why


def outdated(home: Home) -> bool:
    """Whether Greenlight has changed since the latest Bento was built. PackageError where that is not to be read."""
    bento = latest(home)
    return bento is not None and facts_of(bento)["source"] != source_digest()


def source_files() -> list[Path]:
    """Of which a Bento has a copy."""
    return sorted(path for pattern in SOURCE for path in ROOT.glob(pattern))


def source_digest() -> str:
    found = hashlib.sha256()
    for path in source_files():
        found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return found.hexdigest()

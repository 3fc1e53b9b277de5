"""A home in which four small versions were trained, judged and registered; version 1 is the first champion."""

import time
from pathlib import Path
from typing import Any

from conf.home import Home
from conf.settings import Settings
from mlflow_server.building import build
from mlflow_server.ledger import Decision, Entry, Ledger, SigningKey
from mlflow_server.registry import Registry
from models.shelf import find, load_file

TINY = Path(__file__).parent / "serving" / "tiny.py"
DAY_MS = 86_400_000
SETTINGS = Settings(clock="wall")
VERSIONS = 4


def now() -> int:
    return time.time_ns() // 1_000_000


def settle(home: Home) -> None:
    """Build it. The registry and the ledger are real; the gates' verdicts are written, not measured."""
    ledger = Ledger.to_write(home.ledger, home.keys)
    registry, tiny, shelved = Registry(home), load_file(TINY), find(f"{TINY}:Tiny")
    for boost in range(VERSIONS):
        model = shelved.cls(shelved.cls.Config(boosts=(boost, 25))).fit(tiny.world())
        release = build(home.releases, model, shelved, "snap1", tiny.world(), "abc123", SigningKey(home.keys))
        run = registry.start(f"tiny {boost}", {"model": "Tiny"})
        version = registry.register(run, release, {"model": "Tiny", "snapshot": "snap1"})
        registry.describe_version(version, f"Trained with boost {boost}.")
        registry.finish(run)
        facts = {"version": version, "model": "Tiny", "release": release.digest, "run_id": run, "snapshot": "snap1"}
        ledger.append("registered", {**facts, "commit": "abc123"}, actor="ada", ts=now())
    judged(home, "snap1", "inputs")
    champion = made(home, 1)["release"]
    for version in range(1, VERSIONS + 1):
        judged(home, made(home, version)["release"], "offline", evidence={"champion": champion})
        judged(home, made(home, version)["release"], "infra")
    body = {"version": 1, "release": champion, "alias": "champion", "rule": "first champion: popularity", "from": None}
    ledger.append("promotion", body, actor="ada", ts=now())
    registry.mirror(ledger)


def judged(home: Home, subject: str, gate: str, verdict: str = "pass", **more: Any) -> None:
    """Write the verdict of a gate."""
    decision = Decision(gate, verdict, subject, None, None, "as a test has it", **more)  # type: ignore[arg-type]
    Ledger.to_write(home.ledger, home.keys).record(decision, actor="ada", ts=now())


def won(home: Home, version: int, *, against: int = 1, days: float = 14, verdict: str = "pass") -> None:
    """The verdict of an A/B."""
    ids, until = {"champion": made(home, against)["release"]}, now() + round(days * DAY_MS)
    judged(home, made(home, version)["release"], "online", verdict, evidence=ids, valid_until_ms=until)


def made(home: Home, version: int) -> dict[str, Any]:
    return next(e.body for e in lines(home, "registered") if e.body["version"] == version)


def lines(home: Home, kind: str | None = None) -> list[Entry]:
    ledger = Ledger.to_read(home.ledger, home.keys)
    ledger.verify()
    return list(ledger.entries(kind))

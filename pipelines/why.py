"""From a served slate back to arm, rung, release, version, gates, snapshot and commit. Reads files only: no server."""

from dataclasses import dataclass
from typing import Any

from conf.errors import PlainError
from conf.home import Home
from conf.sections.storage import Storage
from events.archive import find
from events.event import IMPRESSIONS, Impression
from events.local_log import LocalLog
from events.store import history_store
from mlflow_server.ledger import Entry, Ledger


class UnknownRequest(PlainError):
    """No such request id is in the journal."""


@dataclass(frozen=True)
class Explanation:
    """Why one slate was served as it was. Fields are None where the ledger does not know the release."""

    request_id: str
    user_id: str
    items: tuple[str, ...]
    rung: str
    explored: bool  # whether its order is random, so that what would have come of other slates can be told
    arm: str
    release: str
    model: str | None
    model_version: int | None
    gates: dict[str, dict[str, Any]]  # gate: verdict and reason
    snapshot: str | None
    commit: str | None
    promoted_by: str | None  # the rule that put the version in charge
    ts: int
    latency_ms: float


def explain(home: Home, storage: Storage, request_id: str) -> Explanation:
    """Trace one request through journal and ledger. UnknownRequest where the journal does not hold it."""
    slate = _impression(home, storage, request_id)
    ledger = Ledger.to_read(home.ledger, home.keys)
    made = _newest(ledger, "registered", slate.release)
    put = _newest(ledger, "promotion", slate.release)
    snapshot = made.body["snapshot"] if made else None
    decisions = ledger.decisions(slate.release) | (ledger.decisions(snapshot) if snapshot else {})
    return Explanation(
        request_id=slate.event_id,
        user_id=slate.user_id,
        items=slate.items,
        rung=slate.rung,
        explored=slate.explored,
        arm=slate.arm,
        release=slate.release,
        model=made.body["model"] if made else None,
        model_version=made.body["version"] if made else None,
        gates={d.gate: {"verdict": d.verdict, "reason": d.reason} for d in decisions.values()},
        snapshot=snapshot,
        commit=made.body["commit"] if made else None,
        promoted_by=put.body["rule"] if put else None,
        ts=slate.ts,
        latency_ms=slate.latency_ms,
    )


def _impression(home: Home, storage: Storage, request_id: str) -> Impression:
    """The journalled slate: in a log while it is kept there, in the archive afterwards."""
    found = None
    for path in (home.log, home.mirror):
        if found is None and path.exists():
            with LocalLog(path) as log:
                found = log.get(IMPRESSIONS, request_id)
    found = found or find(history_store(home, storage), IMPRESSIONS, request_id)
    if not isinstance(found, Impression):
        raise UnknownRequest(
            f"request {request_id!r} is not in the journal of {home.root}: "
            "copy the id from the answer's X-Request-Id header, and set GREENLIGHT_HOME to the home that served it"
        )
    return found


def _newest(ledger: Ledger, kind: str, release: str) -> Entry | None:
    return next((e for e in reversed(list(ledger.entries(kind))) if e.body["release"] == release), None)

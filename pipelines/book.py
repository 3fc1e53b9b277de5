"""What a training writes into the ledger, as the user who runs it."""

import getpass
from dataclasses import dataclass
from typing import Any

from mlflow_server.ledger import Decision, Ledger


@dataclass(frozen=True)
class Book:
    """The ledger, written as the user who runs this, at the home's now."""

    ledger: Ledger
    now: int

    def record(self, decision: Decision) -> None:
        self.ledger.record(decision, actor=getpass.getuser(), ts=self.now)

    def write(self, kind: str, **body: Any) -> None:
        """Append one line, unless the very same was the last of its kind on that release."""
        same = [e.body for e in self.ledger.entries(kind) if e.body.get("release") == body.get("release")]
        if not same or same[-1] != body:
            self.ledger.append(kind, body, actor=getpass.getuser(), ts=self.now)

"""How a training ended: what its verb returns, the registry's pages tell, and the champion is decided from."""

from dataclasses import dataclass, field

from mlflow_server.ledger import Decision
from models.ranking import Interval


@dataclass(frozen=True)
class Trained:
    """One candidate as it ended. `failed`: why it has no sound model; `refused`: the gate that did not pass, why."""

    name: str
    version: int | None
    release: str | None
    run: str
    state: str  # champion, challenger, passed, refused, failed
    quality: Interval | None  # NDCG@10 on validation
    advantage: Interval | None  # over popularity, paired over viewers
    decisions: dict[str, Decision]
    failed: str
    refused: tuple[str, str] | None
    seconds: dict[str, float]
    measured: dict[str, float]  # by the infra gate in a fresh process: median_ms of a slate, popularity_ms, memory_mb


@dataclass(frozen=True)
class Training:
    """What a training led to. `champion` and `challenger` are versions; `rule` says how the champion was decided."""

    snapshot: str
    inputs: Decision
    candidates: tuple[Trained, ...]
    champion: int | None
    challenger: int | None
    rule: str
    sentence: str
    run: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)

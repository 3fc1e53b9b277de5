"""What a fresh process sees when it loads a release and asks it: `pipelines.probe` starts it and reads what it prints.

`python -m pipelines.probing FOLDER REQUESTS ANSWERS MB` prints JSON lines: what it is doing, so that a death can be
placed, and at the end a `Probe`. The scores go to the file ANSWERS; MB is by how much it may grow.
"""

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from events.turns import step_aside
from models.base import Recommender, checked_scores, slates
from models.interactions import Catalogue, Histories, LiveCounts
from models.popularity import Popularity, PopularityConfig
from monitoring.gates.infra import Probe
from pipelines.golden import (
    ABSOLUTE,
    RELATIVE,
    Golden,
    fingerprint,
    golden_requests,
    history,
    one_batch,
    read_only,
    same,
)

if TYPE_CHECKING:
    from mlflow_server.release import Loaded

K = 20
TIMINGS = 3  # of each golden request: a tail of slow slates shows in 150 of them, hardly in 50
COMPARED = 20  # known viewers whose slates are compared with those that the fitted model made
NOT_ANSWERED = np.float32(np.nan)


def main() -> None:
    step_aside(0)
    folder, requests, answers, memory_mb = sys.argv[1:5]
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the model prints goes elsewhere

    def tell(**line: Any) -> None:
        channel.write(json.dumps(line) + "\n")

    limit = _memory_mb("VmData") + float(memory_mb)
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 2**20),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        seen = look(Path(folder), int(requests), Path(answers), lambda doing: tell(doing=doing))
    except BaseException as why:  # someone else's code ran and may have raised anything
        tell(fault=f"the release cannot be loaded: {_line(why)}")
        raise
    tell(probe={k: None if isinstance(v, float) and v != v else v for k, v in asdict(seen).items()})


def look(folder: Path, requests: int, answers: Path, doing: Callable[[str], None]) -> Probe:
    """Load the release and ask it every golden request: twice alone, once in company."""
    from mlflow_server.release import load

    before = _memory_mb("VmHWM")
    doing("loading")
    release = load(folder)
    golden = list(golden_requests(release.viewers.histories, release.live, release.manifest.end_ms, requests))
    popularity = _popularity(release.popular.codes, release.popular.scores, release.catalogue, release.manifest.end_ms)
    asked = [_ask(release.model, request, popularity, doing) for request in golden]
    width = max(len(release.catalogue) + 1, 1)
    np.save(answers, np.stack([_padded(a.scores, width) for a in asked]), allow_pickle=False)
    doing("answering a batch")
    company = _batch_dependent(release.model, golden, asked)
    doing("answering as before it was saved")
    faults = {request.words: a.fault for request, a in zip(golden, asked, strict=True) if a.fault}
    return Probe(
        requests=len(golden),
        faults=tuple(f"the model failed on {words}: {fault}" for words, fault in faults.items()),
        non_finite=sum(a.non_finite for a in asked),
        short=_first(a.short for a in asked),
        seen=_first(a.seen for a in asked),
        unstable=_first(a.unstable for a in asked),
        batch_dependent=company,
        unlike=_unlike(release),
        altered=_first(a.altered for a in asked),
        median_ms=statistics.median([a.ms[0] for a in asked if a.ms] or [float("nan")]),
        tail_ms=_tail([ms for a in asked for ms in a.ms]),
        popularity_ms=statistics.median(a.popularity_ms for a in asked),
        memory_mb=_memory_mb("VmHWM") - before,
    )


@dataclass
class Asked:
    scores: np.ndarray
    fault: str = ""
    non_finite: int = 0
    short: str = ""
    seen: str = ""
    unstable: str = ""
    altered: str = ""
    ms: tuple[float, ...] = ()
    popularity_ms: float = float("nan")


def _ask(
    model: Recommender, request: Golden, popularity: tuple[Popularity, LiveCounts], doing: Callable[[str], None]
) -> Asked:
    """Ask one request: the slate, timed beside popularity's, then the scores twice."""
    doing(f"answering {request.words}")
    made = Asked(np.zeros(0, np.float32))
    given = read_only(request)
    yardstick, counts = popularity
    try:
        scores = [_scores(model, given) for _ in range(2)]
        slate = slates(model, given.histories, given.live, given.now_ms, K)
        made.ms = tuple(_timed(model, given.histories, given.live) for _ in range(TIMINGS))
    except BaseException as why:  # noqa: BLE001 - someone else's code ran and may have raised anything
        made.fault = _line(why)
        return made
    finally:
        made.popularity_ms = _timed(yardstick, replace(request.histories, catalogue=counts.catalogue), counts)
    made.scores, made.non_finite = scores[0][0].astype(np.float32), slate.non_finite
    made.unstable = "" if same(scores[0], scores[1]) else request.words
    made.altered = "" if fingerprint(given) == fingerprint(request) else request.words
    _check_slate(made, request, slate.items[0])
    return made


def _timed(model: Recommender, histories: Histories, live: LiveCounts) -> float:
    """Milliseconds of one slate, after one that warmed up."""
    slates(model, histories, live, live.as_of_ms, K)
    began = time.perf_counter()
    slates(model, histories, live, live.as_of_ms, K)
    return (time.perf_counter() - began) * 1000


def _tail(times: list[float]) -> float:
    """The time that 95 of 100 slates kept within."""
    return float(np.quantile(times, 0.95, method="higher")) if times else float("nan")


def _check_slate(made: Asked, request: Golden, items: np.ndarray) -> None:
    shown, seen = items[items >= 0], request.histories.seen(0)
    possible = min(K, len(request.live.catalogue) - len(np.unique(seen)))
    if len(shown) < possible:
        made.short = f"{request.words} got {len(shown)} movies of {possible}"
    if np.isin(shown, seen).any() or len(np.unique(shown)) < len(shown):
        made.seen = f"{request.words} got a movie seen before, or one twice"


def _batch_dependent(model: Recommender, golden: Sequence[Golden], asked: Sequence[Asked]) -> str:
    """The first request whose scores in a batch with all others are not those it has alone."""
    plain = [n for n, g in enumerate(golden) if not asked[n].fault and g.live is golden[0].live]
    if not plain:
        return ""
    together = one_batch([golden[n].histories for n in plain])
    given = read_only(Golden("a batch", together, golden[0].live, golden[0].now_ms))
    try:
        scores = _scores(model, given)
    except BaseException as why:  # noqa: BLE001 - someone else's code ran and may have raised anything
        return f"a batch of {len(plain)} viewers failed ({_line(why)}), so each of them"
    return _first(golden[n].words for row, n in enumerate(plain) if not same(scores[row], asked[n].scores))


def _unlike(release: "Loaded") -> str:
    """Which share of known viewers gets another slate here than the fitted model made ahead, in words; or nothing.

    Places are compared by score, so equal ones may swap; one place in ten may differ, since a discovery is a draw.
    """
    known, ahead = release.viewers.histories, release.topk
    made = np.flatnonzero(ahead.items[:, :1].max(axis=1, initial=-1) >= 0)
    rows = made[:: max(1, len(made) // COMPARED)][:COMPARED]
    different = 0
    for row in rows.tolist():
        try:
            here = slates(
                release.model, history(known, row), release.live, release.manifest.end_ms, ahead.items.shape[1]
            )
        except BaseException as why:  # noqa: BLE001 - someone else's code ran and may have raised anything
            return f"a known viewer got no slate ({_line(why)})"
        alike = np.isclose(here.scores[0], ahead.scores[row], rtol=RELATIVE, atol=ABSOLUTE)
        different += int(alike.mean() < 0.9)
    return f"{different} of {len(rows)} known viewers got another slate" if different else ""


def _scores(model: Recommender, given: Golden) -> np.ndarray:
    scores = model.score(given.histories, given.live, given.now_ms)
    return checked_scores(scores, len(given.histories), len(given.live.catalogue), "score")


def _popularity(
    codes: np.ndarray, scores: Sequence[float], catalogue: Catalogue, now_ms: int
) -> tuple[Popularity, LiveCounts]:
    counts = np.zeros((1, len(catalogue)))
    counts[0, codes] = scores
    return Popularity(PopularityConfig(1.0)), LiveCounts((1.0,), counts, now_ms, catalogue)


def _padded(scores: np.ndarray, width: int) -> np.ndarray:
    return np.pad(scores, (0, width - len(scores)), constant_values=NOT_ANSWERED)


def _first(words: Iterator[str]) -> str:
    return next((word for word in words if word), "")


def _line(why: BaseException) -> str:
    return " ".join(f"{type(why).__name__}: {why}".split())[:500]


def _memory_mb(line: str) -> float:
    """A line of this process's status: VmHWM, the most it ever held; VmData, what RLIMIT_DATA counts."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(text.split()[1]) / 1024 for text in status if text.startswith(f"{line}:"))


if __name__ == "__main__":
    main()

"""What a fresh process sees when it loads a release and asks it: `python -m pipelines.probe FOLDER REQUESTS ANSWERS`.

It runs in an empty folder, without a home, under a time and a memory limit, and prints JSON lines: what it is doing, so
that a death can be placed, and at the end a `Probe`. `probe` runs two of them and compares their answers.
"""

import contextlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conf.environment import for_foreign_code
from conf.sections.gates import InfraGate
from models.base import Recommender, checked_scores, slates
from models.interactions import DAY_MS, Catalogue, Histories, LiveCounts
from models.popularity import Popularity, PopularityConfig
from monitoring.gates.infra import InfraEvidence, Probe
from pipelines.strays import end_strays

if TYPE_CHECKING:
    from mlflow_server.release import Loaded

K = 20
RELATIVE, ABSOLUTE = 1e-4, 1e-6  # how far two answers may be apart: sums in another order differ by less
TIMINGS = 3  # of each golden request: a tail of slow slates shows in 150 of them, hardly in 50
SPECIAL = 5  # golden requests that are not plain known viewers
MEMORY_FACTOR = 4  # the process may not grow to more than this multiple of the gate's limit
COMPARED = 20  # known viewers whose slates are compared with those that the fitted model made
NOT_ANSWERED = np.float32(np.nan)


# The side that judges -------------------------------------------------------------------------------------------------


def probe(folder: Path, conf: InfraGate, subject: str, evidence: dict[str, str]) -> InfraEvidence:
    """Load the release in two fresh processes at once and ask both the same; what they saw."""
    with tempfile.TemporaryDirectory(prefix="greenlight-probe-") as place, ThreadPoolExecutor(2) as pool:
        files = [Path(place) / f"answers-{n}.npy" for n in (1, 2)]
        one, two = pool.map(lambda file: _run(folder, conf, file), files)
        if isinstance(one, str):
            return InfraEvidence(subject, evidence, fault=one)
        elsewhere = two if isinstance(two, str) else _difference(*files)
        return InfraEvidence(subject, evidence, one, elsewhere=elsewhere)


def _run(folder: Path, conf: InfraGate, answers: Path) -> Probe | str:
    """One process: its probe, or why there is none."""
    with tempfile.TemporaryDirectory(prefix="greenlight-empty-") as empty, tempfile.TemporaryFile() as stderr:
        limit = str(conf.memory_mb * MEMORY_FACTOR)
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.probe", str(folder), str(conf.golden_requests), str(answers), limit],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=empty,
            env=for_foreign_code(empty, threads=1),
            start_new_session=True,
            text=True,
        )
        late = False
        try:
            told, _ = process.communicate(timeout=conf.load_timeout_s)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            end_strays(Path(empty))
        if late:
            told, _ = process.communicate()
        return _heard(told, process.returncode, late, conf)


def _heard(told: str, code: int, late: bool, conf: InfraGate) -> Probe | str:
    """Read what the process printed. Where it gave no probe, the last thing it was doing places the fault."""
    lines = [json.loads(line) for line in told.splitlines() if line.startswith("{") and line.endswith("}")]
    last = lines[-1] if lines else {}
    if "probe" in last:
        seen: dict[str, Any] = {k: tuple(v) if k == "faults" else _number(v) for k, v in last["probe"].items()}
        return Probe(**seen)
    if "fault" in last:
        return last["fault"]
    doing = last.get("doing", "starting")
    if late:
        return (
            f"the model did not finish {doing}: it was stopped after {conf.load_timeout_s:g} s (infra.load_timeout_s)"
        )
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return f"the process {how} while {doing}"


def _difference(one: Path, two: Path) -> str:
    """How the answers of two processes differ, in words; empty where they agree."""
    first, second = (np.load(file, allow_pickle=False) for file in (one, two))
    different = [row for row in range(len(first)) if not same(first[row], second[row])]
    return f"{len(different)} of {len(first)} golden requests were answered differently" if different else ""


def _number(value: Any) -> Any:
    return float("nan") if value is None else value


def same(one: np.ndarray, two: np.ndarray) -> bool:
    """Whether two rows of scores say the same, up to rounding."""
    with np.errstate(invalid="ignore"):
        return bool(np.allclose(one, two, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True))


# The side that asks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Golden:
    """One request: in words, whose history, as of when, over which counts."""

    words: str
    histories: Histories
    live: LiveCounts
    now_ms: int


def main() -> None:
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
    golden = list(_golden(release.viewers.histories, release.live, release.manifest.end_ms, requests))
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


def _golden(known: Histories, live: LiveCounts, now_ms: int, requests: int) -> Iterator[Golden]:
    """The requests, fixed by a hash of the viewers' ids."""
    order = sorted(range(len(known)), key=lambda v: blake2b(known.viewer_ids[v].encode(), digest_size=8).digest())
    for viewer in order[: max(requests - SPECIAL, 1)]:
        yield Golden("a known viewer", _history(known, viewer), live, now_ms)
    stranger = "golden-stranger"
    yield Golden("a viewer never seen", replace(_history(known, order[0]), viewer_ids=[stranger]), live, now_ms)
    yield Golden("an empty history", _cut(_history(known, order[0]), 0, stranger), live, now_ms)
    yield Golden("a history of one movie", _cut(_history(known, order[0]), 1, stranger), live, now_ms)
    newer = _newer(live)
    one = replace(_history(known, order[0]), catalogue=newer.catalogue)
    yield Golden("a catalogue with a movie newer than the model", one, newer, now_ms)
    later = now_ms + 30 * DAY_MS
    yield Golden("a viewer a month later", _history(known, order[0]), replace(live, as_of_ms=later), later)


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
    given = _read_only(request)
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
    made.altered = "" if _fingerprint(given) == _fingerprint(request) else request.words
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
    together = _together([golden[n].histories for n in plain])
    given = _read_only(Golden("a batch", together, golden[0].live, golden[0].now_ms))
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
                release.model, _history(known, row), release.live, release.manifest.end_ms, ahead.items.shape[1]
            )
        except BaseException as why:  # noqa: BLE001 - someone else's code ran and may have raised anything
            return f"a known viewer got no slate ({_line(why)})"
        alike = np.isclose(here.scores[0], ahead.scores[row], rtol=RELATIVE, atol=ABSOLUTE)
        different += int(alike.mean() < 0.9)
    return f"{different} of {len(rows)} known viewers got another slate" if different else ""


def _scores(model: Recommender, given: Golden) -> np.ndarray:
    scores = model.score(given.histories, given.live, given.now_ms)
    return checked_scores(scores, len(given.histories), len(given.live.catalogue), "score")


# Small parts ----------------------------------------------------------------------------------------------------------

ARRAYS = ("indptr", "items", "times", "strengths", "seen_indptr", "seen_items")


def _history(known: Histories, viewer: int) -> Histories:
    return _slice(known, viewer, viewer + 1)


def _slice(known: Histories, start: int, stop: int) -> Histories:
    from mlflow_server.viewers import batch

    return batch(known, start, stop)


def _cut(history: Histories, length: int, viewer: str) -> Histories:
    """The first `length` interactions of a viewer, who has seen nothing else."""
    ends = np.array([0, min(length, len(history.items))], np.int64)
    items = history.items[: ends[1]]
    return replace(
        history,
        viewer_ids=[viewer],
        indptr=ends,
        items=items,
        times=history.times[: ends[1]],
        strengths=history.strengths[: ends[1]],
        seen_indptr=ends,
        seen_items=items,
    )


def _together(parts: Sequence[Histories]) -> Histories:
    def ends(name: str) -> np.ndarray:
        return np.concatenate([[0], np.cumsum([getattr(p, name)[-1] for p in parts])]).astype(np.int64)

    flat = {name: np.concatenate([getattr(p, name) for p in parts]) for name in ARRAYS if not name.endswith("indptr")}
    ids = [viewer for part in parts for viewer in part.viewer_ids]
    return Histories(
        viewer_ids=ids,
        indptr=ends("indptr"),
        seen_indptr=ends("seen_indptr"),
        catalogue=parts[0].catalogue,
        **flat,
    )


def _newer(live: LiveCounts) -> LiveCounts:
    """The same counts over a catalogue with one more movie, which nobody has met."""
    old = live.catalogue
    catalogue = Catalogue(
        np.append(old.ids, "golden-newer-movie"),
        np.append(old.titles, ""),
        np.concatenate([old.genres, np.zeros((1, old.genres.shape[1]), old.genres.dtype)]),
        old.genre_names,
    )
    return replace(live, counts=np.pad(live.counts, ((0, 0), (0, 1))), catalogue=catalogue)


def _popularity(
    codes: np.ndarray, scores: Sequence[float], catalogue: Catalogue, now_ms: int
) -> tuple[Popularity, LiveCounts]:
    counts = np.zeros((1, len(catalogue)))
    counts[0, codes] = scores
    return Popularity(PopularityConfig(1.0)), LiveCounts((1.0,), counts, now_ms, catalogue)


def _read_only(request: Golden) -> Golden:
    """A copy that the model cannot alter by accident."""
    arrays = {name: getattr(request.histories, name).copy() for name in ARRAYS}
    counts = request.live.counts.copy()
    for array in (*arrays.values(), counts):
        array.flags.writeable = False
    return replace(request, histories=replace(request.histories, **arrays), live=replace(request.live, counts=counts))


def _fingerprint(request: Golden) -> bytes:
    parts = [getattr(request.histories, name).tobytes() for name in ARRAYS]
    return blake2b(b"".join([*parts, request.live.counts.tobytes()]), digest_size=16).digest()


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

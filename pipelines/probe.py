"""Loads a release in two fresh processes at once, asks both the same, and compares their answers: for the infra gate.

Each runs `pipelines.probing` in an empty folder, without a home, under a time and a memory limit.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from conf.environment import for_foreign_code
from conf.sections.gates import InfraGate
from monitoring.gates.infra import InfraEvidence, Probe
from pipelines.golden import same
from pipelines.strays import end_strays

MEMORY_FACTOR = 4  # the process may not grow to more than this multiple of the gate's limit


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
            [sys.executable, "-m", "pipelines.probing", str(folder), str(conf.golden_requests), str(answers), limit],
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

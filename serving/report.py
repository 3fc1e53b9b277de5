"""What each worker says of itself: `workers/<pid>.json` in the home, for whoever asks which release is live where."""

import contextlib
import logging
import os
from pathlib import Path

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from conf.home import Home
from events.clock import wall_ms

log = logging.getLogger("greenlight.serving")

BEAT_S = 1.0  # a worker says that it lives at least this often
SILENT_MS = 30_000  # an older report is of a worker that hangs, or of another process with its number; disks may stall


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class ArmReport(_Part):
    """What answers in an arm. state: `ready` or `fallback-only`; trouble: why it is not what the ledger names."""

    release: str
    since_wall_ms: int
    state: str
    trouble: str = ""
    model: str | None = None


class Refusal(_Part):
    """Why a release that the ledger names is not served."""

    reason: str
    wall_ms: int


class WorkerReport(_Part):
    """arms: `champion` always, `challenger` while the ledger has one; refused: by digest of the release.

    clock_ms: the home's now; offset: of the log, up to which the champion's live state has followed.
    """

    pid: int
    started_wall_ms: int
    beat_wall_ms: int
    clock_ms: int
    offset: int
    arms: dict[str, ArmReport]
    refused: dict[str, Refusal] = {}
    trouble: str = ""  # with the ledger or the log


class Reporter:
    """Writes the report of this process. A home that cannot be written is said once; serving goes on."""

    def __init__(self, home: Home) -> None:
        self.path = home.workers / f"{os.getpid()}.json"
        self._trouble = ""

    def start(self) -> None:
        """Sweep the reports of workers that were killed."""
        for path in self.path.parent.glob("*.json"):
            if not _alive(path):
                with contextlib.suppress(OSError):
                    path.unlink()

    def write(self, report: WorkerReport) -> None:
        part = self.path.with_suffix(".part")
        try:
            self.path.parent.mkdir(exist_ok=True)
            part.write_bytes(orjson.dumps(report.model_dump()))
            part.replace(self.path)
            self._trouble = ""
        except OSError as why:
            if str(why) != self._trouble:
                log.warning("%s cannot be written: %s", self.path, why.strerror or why)
            self._trouble = str(why)

    def close(self) -> None:
        """A worker that ends has nothing more to say."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def reports(home: Home) -> list[WorkerReport]:
    """The reports of the workers that live, in order of their numbers: none of one that has said nothing lately."""
    found = []
    for path in home.workers.glob("*.json"):
        try:
            report = WorkerReport.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):  # it went away just now, or is none of ours
            continue
        if _alive(path) and wall_ms() - report.beat_wall_ms < SILENT_MS:
            found.append(report)
    return sorted(found, key=lambda report: report.pid)


def _alive(path: Path) -> bool:
    """Whether the process that a report is named after runs."""
    try:
        os.kill(int(path.stem), 0)
    except PermissionError:  # of another user
        return True
    except (ValueError, OverflowError, OSError):
        return False
    return True

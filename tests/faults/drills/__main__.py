"""Run the drills and write their table: `python -m tests.faults.drills [--only NAME …]`. Exit status 1: one failed."""

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.drills.drill import Drill
from tests.faults.drills.every import DRILLS
from tests.faults.drills.table import line, write


def main() -> int:
    asked = argparse.ArgumentParser(prog="make drills", description="Break things and count what was lost.")
    asked.add_argument("--short", action="store_true", help="as few cycles as `make test` runs")
    asked.add_argument("--only", nargs="+", metavar="NAME", choices=[d.name for d in DRILLS], help="these drills alone")
    wish = asked.parse_args()
    form, failed = "short" if wish.short else "long", False
    for drill in DRILLS:
        cycles = drill.short if wish.short else drill.long
        if cycles and (not wish.only or drill.name in wish.only):
            failed |= not _run(drill, cycles, form)
    return int(failed)


def _run(drill: Drill, cycles: int, form: str) -> bool:
    """Whether it passed. Where the drill itself stumbled there is nothing to count, and the table keeps what it had."""
    with tempfile.TemporaryDirectory(prefix="greenlight-drill-") as folder:
        try:
            tally = drill.run(Path(folder), cycles)
        except AssertionError as why:
            print(f"{drill.name} FAILED: {why}", flush=True)
            return False
    row = line(drill, tally, form, f"{datetime.now(UTC):%Y-%m-%d}")
    print(row, flush=True)
    write({drill.name: row}, DRILLS)
    return drill.passed(tally)


if __name__ == "__main__":
    sys.exit(main())

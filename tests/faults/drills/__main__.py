"""Run the drills and write their table: `python -m tests.faults.drills [--only NAME …]`. Exit status 1: one failed."""

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.drills.every import DRILLS
from tests.faults.drills.table import line, write


def main() -> int:
    asked = argparse.ArgumentParser(prog="make drills", description="Break things and count what was lost.")
    asked.add_argument("--short", action="store_true", help="as few cycles as `make test` runs")
    asked.add_argument("--only", nargs="+", metavar="NAME", choices=[d.name for d in DRILLS], help="these drills alone")
    wish = asked.parse_args()
    form, failed = "short" if wish.short else "long", False
    for drill in DRILLS:
        if wish.only and drill.name not in wish.only:
            continue
        with tempfile.TemporaryDirectory(prefix="greenlight-drill-") as folder:
            tally = drill.run(Path(folder), drill.short if wish.short else drill.long)
        row = line(drill, tally, form, f"{datetime.now(UTC):%Y-%m-%d}")
        print(row, flush=True)
        write({drill.name: row}, DRILLS)
        failed |= not drill.passed(tally)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

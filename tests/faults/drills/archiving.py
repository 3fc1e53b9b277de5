"""A process that archives as `greenlight up` does: `python -m tests.faults.drills.archiving HOME`.

A line for each step: `refused why`, or `done`, which ends it; it ends after `TRIES` of them in any case.
"""

import sys
from pathlib import Path

from conf.home import Home
from conf.settings import Settings
from pipelines.archiving import Archiving

TRIES = 3

if __name__ == "__main__":
    loop = Archiving(Home(Path(sys.argv[1])), Settings())
    for _ in range(TRIES):
        loop.step()
        print(f"refused {loop.trouble}" if loop.trouble else "done", flush=True)
        if not loop.trouble:
            break
    loop.close()

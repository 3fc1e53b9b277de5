"""All drills, in the order of the table. A new one is a file with `DRILLS`, and a name here."""

from tests.faults.drills import (
    every_exchange,
    every_step,
    kill_archive,
    kill_serving,
    outages,
    poison,
    power_loss,
    small_disk,
)

DRILLS = (
    *power_loss.DRILLS,
    *every_step.DRILLS,
    *small_disk.DRILLS,
    *poison.DRILLS,
    *kill_serving.DRILLS,
    *kill_archive.DRILLS,
    *outages.DRILLS,
    *every_exchange.DRILLS,
)

"""Short forms of the drills; `make drills` runs the long ones. That the count itself finds what is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.drills.drill import ENOUGH, Drill, Tally
from tests.faults.drills.every import DRILLS
from tests.faults.drills.table import line, write


@pytest.mark.parametrize(
    "drill", [pytest.param(d, id=d.name, marks=[pytest.mark.server] * d.server) for d in DRILLS if d.short]
)
def test_the_short_form(drill: Drill, tmp_path: Path, need: Callable[[str], str]) -> None:
    for program in drill.needs:
        need(program)
    tally = drill.run(tmp_path, drill.short)
    assert tally.cycles == drill.short
    assert drill.passed(tally), line(drill, tally, "short", "today")


def ids(first: int, last: int) -> set[str]:
    return {f"e{n}" for n in range(first, last)}


def tally() -> Tally:
    made = Tally()
    made.sent |= ids(0, ENOUGH + 10)
    made.acknowledged |= ids(0, ENOUGH)
    return made


def test_what_may_be_stored_without_being_acknowledged_is_what_was_sent() -> None:
    counted = tally()
    counted.check(ids(0, ENOUGH + 10), ids(0, ENOUGH))
    assert counted.holds
    assert (counted.cycles, counted.void, counted.told) == (1, 0, ENOUGH)


@pytest.mark.parametrize(
    ("stored", "read", "found"),
    [
        (ids(1, ENOUGH), [], (1, 0, 0)),
        (ids(0, ENOUGH + 12), [], (0, 2, 0)),
        (ids(0, ENOUGH), ["e1", "e2", "e1", "e1"], (0, 0, 2)),
        (ids(0, ENOUGH), ["stranger"], (0, 1, 0)),
    ],
)
def test_what_was_lost_doubled_or_never_sent_is_counted(stored: set, read: list, found: tuple) -> None:
    counted = tally()
    counted.check(stored, read)
    assert (len(counted.lost), len(counted.unexpected), counted.doubles) == found
    assert not counted.holds


def test_a_cycle_with_too_few_events_does_not_count_and_its_losses_do() -> None:
    counted = tally()
    counted.check(counted.sent)
    counted.sent |= ids(5000, 5010)
    counted.acknowledged |= ids(5000, 5010)
    counted.check(ids(0, ENOUGH))
    assert (counted.cycles, counted.void, len(counted.lost)) == (1, 1, 10)
    with pytest.raises(AssertionError, match="of 2 cycles only 0"):
        list(Tally().until(1))


def test_a_control_passes_where_it_finds_losses() -> None:
    control = Drill("c", "", lambda folder, cycles: Tally(), 1, 1, must_lose=True)
    counted = tally()
    assert (control.verdict(counted), control.passed(counted)) == ("MISSED", False)
    counted.check(ids(1, ENOUGH))
    assert (control.verdict(counted), control.passed(counted)) == ("caught", True)


def test_a_line_replaces_that_of_its_drill_and_no_other(tmp_path: Path) -> None:
    one, two = (Drill(name, f"breaks {name}", lambda folder, cycles: Tally(), 1, 1) for name in ("one", "two"))
    file = tmp_path / "table.md"
    write({"two": line(two, tally(), "long", "2026-01-01")}, (one, two), file)
    write({"one": line(one, tally(), "long", "2026-01-02")}, (one, two), file)
    write({"two": line(two, tally(), "short", "2026-01-03")}, (one, two), file)
    rows = [row.split(" | ") for row in file.read_text().splitlines() if row.startswith("| breaks")]
    assert [(row[0], row[1], row[-2]) for row in rows] == [
        ("| breaks one", "long", "2026-01-02"),
        ("| breaks two", "short", "2026-01-03"),
    ]

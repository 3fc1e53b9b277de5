"""The table of docs/reliability.md: a line for each drill, with the command that makes it again."""

from pathlib import Path

from tests.faults.drills.drill import ENOUGH, Drill, Tally

FILE = Path(__file__).parents[3] / "docs" / "reliability.md"
HEAD = f"""# No acknowledged event is lost

Written by `make drills`, which breaks what keeps the events, from outside, and then compares ids by set equality:

    acknowledged ⊆ stored ⊆ sent        stored = Kafka ∪ spool ∪ dead letter; no reader sees an id twice

*Lost* are ids that were acknowledged and are stored nowhere, *unexpected* those stored and never sent, *doubles* the
times that a reader saw an id again. A cycle counts when at least {ENOUGH:,} events were acknowledged in it. A control
breaks the promise on purpose: the drill is only worth something where it is *caught*. `make test` runs short forms.

"""
COLUMNS = ("drill", "form", "cycles", "acknowledged", "lost", "unexpected", "doubles", "verdict", "date", "command")
RULE = "|---|---|---:|---:|---:|---:|---:|---|---|---|"


def line(drill: Drill, tally: Tally, form: str, date: str) -> str:
    counts = (tally.cycles, tally.told, len(tally.lost), len(tally.unexpected), tally.doubles)
    again = f'`make drills ARGS="{"--short " if form == "short" else ""}--only {drill.name}"`'
    return _row(drill.does, form, *(f"{count:,}" for count in counts), drill.verdict(tally), date, again)


def write(lines: dict[str, str], order: tuple[Drill, ...], file: Path = FILE) -> None:
    """Put new lines, by the name of their drill, in place of those of earlier runs."""
    before = file.read_text().splitlines() if file.exists() else []
    found = {drill.name: row for drill in order for row in before if f'--only {drill.name}"`' in row} | lines
    rows = [found[drill.name] for drill in order if drill.name in found]
    file.write_text(HEAD + "\n".join([_row(*COLUMNS), RULE, *rows]) + "\n")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"

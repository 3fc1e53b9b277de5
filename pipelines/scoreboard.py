"""What people see on the terminal as tables: the scoreboard that ends a demo, and the parts of `greenlight status`."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from events.clock import when
from pipelines.health import Part


def show(board: dict[str, Any], console: Console) -> None:
    """The scoreboard, for people."""
    table = Table(title="Greenlight, step by step", title_justify="left", box=None, pad_edge=False)
    for column, justify in (("", "left"), ("step", "left"), ("s", "right"), ("what happened", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for step in board["steps"]:
        mark = "[green]✓[/]" if step["ok"] else "[red]✗[/]"
        table.add_row(mark, step["name"], f"{step['seconds']:.1f}", escape(step["note"]))
    console.print(table)
    if board.get("weeks"):
        console.print(_weeks_table(board["weeks"]))
    champion, first = board["champion"], board.get("first_recommendation_s")
    console.print("champion  " + (f"version {champion['version']}, {champion['model']}" if champion else "nobody"))
    console.print((f"first recommendation after {first} s, " if first else "") + f"all after {board['total_s']} s")
    if board["request_id"]:
        why = f"GREENLIGHT_HOME={board['home']} greenlight why {board['request_id']}"
        console.print(f"why?  {why}", markup=False, soft_wrap=True)


def _weeks_table(weeks: Iterable[dict[str, Any]]) -> Table:
    """A line for each week that was lived on."""
    table = Table(title="\nWeek by week", title_justify="left", box=None, pad_edge=False)
    for column in ("week", "likings\na slate", "times\npopularity's", "champion\nversion", "disk\nMB", "memory\nMB"):
        table.add_column(column, justify="right", no_wrap=True)  # narrow, so that 80 columns do
    table.add_column("what the loop did")
    for week in weeks:
        times = f"{week['over_popularity']:.2f}" if week["over_popularity"] else "?"
        sizes = (f"{week['disk_mb']:,.0f}", f"{week['memory_mb']:,.0f}")
        numbers = (str(week["number"]), f"{week['worth']:.2f}", times, str(week["champion"]), *sizes)
        table.add_row(*numbers, escape(week["did"]))
    return table


def parts_table(found: Iterable[Part]) -> Table:
    """What `greenlight status` says of each part."""
    table = Table(box=None, pad_edge=False)
    for name in ("part", "state", "what", "next command"):
        table.add_column(name, overflow="fold")  # a path or a command is whole, however narrow the terminal is
    colours = {"ok": "green", "empty": "yellow", "broken": "red"}
    for part in found:
        since = f" (since {when(part.since_wall_ms)})" if part.since_wall_ms else ""
        state = f"[{colours[part.state]}]{part.state}[/]"
        table.add_row(part.name, state, escape(part.detail + since), escape(part.next))
    return table

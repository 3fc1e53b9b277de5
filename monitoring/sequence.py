"""The confidence sequence of an experiment, drawn: a line for each day in the terminal, a picture for MLflow.

Looks are as `Look.body()` gives them: plain numbers, None where a bound is infinite.
"""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from monitoring.experiment import Plan

WIDTH = 28  # characters between the sides of the drawing: with its numbers it fits into 80
MOST = 31  # days that are drawn in a terminal, the latest
ROOM = 1.25  # of the days that were looked at, the picture shows so many

LookBody = Mapping[str, Any]


def lines(plan: Plan, looks: Sequence[LookBody]) -> list[str]:
    """A line for each day: the day, the estimate between its bounds, and the numbers. The margin is drawn through."""
    shown = by_day(looks)[-MOST:]
    if not shown:
        return []
    left, right = _range(plan, shown)
    scale = _Scale(left, right)
    head = f"{'':9}{left:<+{WIDTH // 2}.3g}{right:>+{WIDTH - WIDTH // 2}.3g}  {plan.metric} per slate, difference"
    return [head, *(f"day {look['days']:4.1f} {_bar(plan, look, scale)}  {_numbers(look)}" for look in shown)]


def picture(plan: Plan, looks: Sequence[LookBody], heading: str) -> bytes:
    """The sequence as a PNG. heading: what is said above it; `plan.name` stands below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    shown = by_day(looks)
    left, right = _range(plan, shown)
    days = [look["days"] for look in shown]
    low, high = (
        [_or(look["difference"][side], end) for look in shown] for side, end in (("low", left), ("high", right))
    )
    figure = Figure(figsize=(6, 3.6), layout="constrained")  # so small, its words can be read in a mail, too
    axes = figure.subplots()
    axes.fill_between(days, low, high, color="#0969da", alpha=0.2, label=f"{plan.level:.0%} confidence sequence")
    axes.plot(days, [look["difference"]["estimate"] for look in shown], "o-", color="#0969da", markersize=3)
    axes.axhline(plan.margin, linestyle="--", linewidth=1, color="#57606a", label="the margin to be passed")
    axes.set_xlim(0, min(plan.max_days, max(ROOM * days[-1], 1)))
    axes.set_ylim(left, right)
    axes.set_xlabel(f"day of at most {plan.max_days:g}: {plan.name}", parse_math=False)
    axes.set_ylabel(f"difference in {plan.metric} per slate")
    axes.set_title(heading, fontsize=9, wrap=True, parse_math=False)
    axes.legend(loc="upper right", fontsize=8)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a name may hold letters that the font has not
        figure.savefig(file, format="png", dpi=165, metadata={"Software": None})
    return file.getvalue()


def by_day(looks: Sequence[LookBody]) -> list[LookBody]:
    """The last look of each day."""
    last = {math.ceil(look["days"]): look for look in sorted(looks, key=lambda look: look["days"])}
    return list(last.values())


class _Scale:
    def __init__(self, left: float, right: float) -> None:
        self.left, self.step = left, (right - left) / (WIDTH - 1)

    def place(self, value: float) -> int:
        return min(max(round((value - self.left) / self.step), 0), WIDTH - 1)


def _bar(plan: Plan, look: LookBody, scale: _Scale) -> str:
    low, high = look["difference"]["low"], look["difference"]["high"]
    first = 0 if low is None else scale.place(low)
    last = WIDTH - 1 if high is None else scale.place(high)
    cells = [" "] * first + ["─"] * (last - first + 1) + [" "] * (WIDTH - 1 - last)
    cells[first], cells[last] = "◂" if low is None else "├", "▸" if high is None else "┤"
    cells[scale.place(plan.margin)] = "┊"
    cells[scale.place(look["difference"]["estimate"])] = "●"
    return "".join(cells)


def _numbers(look: LookBody) -> str:
    low, high = (_or(look["difference"][side], math.inf * sign) for side, sign in (("low", -1), ("high", 1)))
    viewers = sum(look["users"])
    return f"{look['difference']['estimate']:+.3f} ({low:+.3f} to {high:+.3f}), {viewers:,} viewers"


def _range(plan: Plan, looks: Sequence[LookBody]) -> tuple[float, float]:
    """What is drawn: the margin and all estimates, and of the bounds those that are not absurdly far."""
    estimates = [plan.margin, *(look["difference"]["estimate"] for look in looks)]
    narrowest = min(
        (look["difference"]["high"] - look["difference"]["low"] for look in looks if _bounded(look)), default=1.0
    )
    near = max(6 * narrowest, 2 * (max(estimates) - min(estimates)), 1e-9)
    bounds = [b for look in looks if _bounded(look) for b in (look["difference"]["low"], look["difference"]["high"])]
    values = estimates + [b for b in bounds if min(estimates) - near <= b <= max(estimates) + near]
    room = 0.05 * (max(values) - min(values)) or 1.0
    return min(values) - room, max(values) + room


def _bounded(look: LookBody) -> bool:
    return look["difference"]["low"] is not None and look["difference"]["high"] is not None


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value

"""What one more act makes of a viewer's pair with a movie, by the rules of a snapshot; and a history with such pairs.

Of a pair, ratings count where there are any, else what was watched, else clicks; each with its newest time. The order
in which acts come, and one that comes twice, make no difference.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from struct import Struct

import numpy as np

from conf.sections.data import Snapshot
from events.state import Act
from mlflow_server.viewers import Met, Viewers, nobody
from models.interactions import RECENT, Catalogue, Histories

_FLOAT32 = Struct("f")


def float32(value: float) -> float:
    """As a history stores it."""
    return _FLOAT32.unpack(_FLOAT32.pack(value))[0]


def met_after(old: Met | None, act: Act, conf: Snapshot) -> Met | None:
    """The pair after an act of a viewer; `old` itself where nothing changes."""
    if act.kind == "rating":
        new = Met(act.ts, float32(act.value), None)
        return old if old is not None and old.runs is None and old[:2] >= new[:2] else new
    if old is not None and old.runs is None:
        return old
    if act.kind == "click":
        if old is None:
            return Met(act.ts, float32(conf.click_strength), ())
        return old._replace(time=act.ts) if not old.runs and act.ts > old.time else old
    if old is None or not old.runs:
        old = Met(0, 0.0, ())
    runs = old.runs or ()
    if old.strength < 1 or not runs:  # beyond full strength, minutes tell nothing more
        runs = with_minute(runs, int(act.value))
    if runs is old.runs and act.ts <= old.time:
        return old
    strength = old.strength if runs is old.runs else min(1.0, minutes_in(runs) / conf.full_watch_minutes)
    return Met(max(old.time, act.ts), float32(strength), runs)


def with_minute(runs: tuple[int, ...], minute: int) -> tuple[int, ...]:
    """The runs with one more minute; themselves where they hold it."""
    place = bisect_right(runs, minute)
    if place % 2:  # after a start and before its stop
        return runs
    left, right = runs[:place], runs[place:]
    left = left[:-1] if left and left[-1] == minute else (*left, minute)
    return left + (right[1:] if right and right[0] == minute + 1 else (minute + 1, *right))


def minutes_in(runs: tuple[int, ...]) -> int:
    return sum(runs[1::2]) - sum(runs[::2])


def history_with(viewers: Viewers, user_id: str, since: Mapping[int, Met], catalogue: Catalogue) -> Histories:
    """One viewer's history as of the release, with the pairs that came or changed since: a batch of one.

    Movies beyond `catalogue` are left out.
    """
    none = nobody(viewers.histories, user_id)
    items = np.fromiter(since, np.int32, len(since))
    times = np.fromiter((met.time for met in since.values()), np.int64, len(since))
    strengths = np.fromiter((met.strength for met in since.values()), np.float32, len(since))
    row = viewers.rows.get(user_id)
    if row is not None:
        whole = slice(*viewers.histories.seen_indptr[row : row + 2].tolist())
        before = viewers.histories.seen_items[whole]
        kept = ~np.isin(before, items)
        items = np.concatenate([before[kept], items])
        times = np.concatenate([viewers.past.seen_times[whole][kept], times])
        strengths = np.concatenate([viewers.past.seen_strengths[whole][kept], strengths])
    order = np.lexsort((items, times))
    order = order[items[order] < len(catalogue)]
    recent = order[-RECENT:]
    return replace(
        none,
        indptr=np.array([0, len(recent)]),
        items=items[recent],
        times=times[recent],
        strengths=strengths[recent],
        seen_indptr=np.array([0, len(order)]),
        seen_items=items[order],
        catalogue=catalogue,
    )

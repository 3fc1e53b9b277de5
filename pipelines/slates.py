"""Which slates a history holds, and which of them brought what viewers did: the part of a snapshot that came by us.

A movie that was on a viewer's slate shortly before counts as brought by it: the latest such slate, within the window of
experiments. (A pair's interaction is made of several events, so requests that single events name are not asked.)
The slates of who got more on a day than a person does are left out of that day, as experiments leave bots out.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from conf.settings import Settings
from events.archive import SCHEMAS, read_between
from events.event import IMPRESSIONS
from events.store import Store
from models.interactions import Shown
from monitoring.attribution import NOT_OURS

DAY_MS, HOUR_MS = 86_400_000, 3_600_000
PLACES = 20  # of a slate that are kept: what stands below is hardly looked at
COLUMNS = ("ts", "offset", "user_id", "items", "arm", "failure")


class Acts(NamedTuple):
    """Interactions: users, items, times; all (n,)."""

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray


def served(store: Store, settings: Settings, end_ms: int) -> pa.Table:
    """The slates of the last days before a history's end that a person may have got, oldest first: `COLUMNS`."""
    since = end_ms - round(settings.snapshot.slate_days * DAY_MS)
    parts = [pa.schema([SCHEMAS[IMPRESSIONS].field(name) for name in COLUMNS]).empty_table()]
    for day in read_between(store, IMPRESSIONS, COLUMNS, since, end_ms):
        whole = pc.equal(pc.fill_null(day["failure"], ""), "")
        ours = day.filter(pc.and_(whole, pc.not_equal(day["arm"], NOT_OURS)))
        counts = ours.group_by("user_id").aggregate([([], "count_all")])
        many = counts.filter(pc.greater(counts["count_all"], settings.experiment.max_slates_per_user_day))
        parts.append(ours.filter(pc.invert(pc.is_in(ours["user_id"], value_set=many["user_id"].combine_chunks()))))
    return pa.concat_tables(parts).sort_by([("ts", "ascending"), ("offset", "ascending")])


def table(slates: pa.Table, user_ids: pa.Array, movie_ids: pa.Array) -> pa.Table:
    """The slates of known viewers in codes: user, time, items (-1: a movie that is not known)."""
    users = pc.index_in(slates["user_id"], value_set=user_ids)
    slates = slates.filter(pc.is_valid(users))
    items = pc.list_slice(slates["items"].combine_chunks(), 0, PLACES)
    codes = pc.fill_null(pc.index_in(items.flatten(), value_set=movie_ids), -1)
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(items).to_numpy(zero_copy_only=False))])
    return pa.table(
        {
            "user": pc.drop_null(users).cast(pa.int32()),
            "time": slates["ts"],
            "items": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), codes.cast(pa.int32())),
        }
    )


def shown(found: pa.Table) -> Shown:
    """As models see them."""
    items = found["items"].combine_chunks()
    lengths = pc.list_value_length(items).to_numpy(zero_copy_only=False).astype(np.int64)
    filled = np.arange(PLACES) < lengths[:, None]
    codes = np.full(filled.shape, -1, np.int32)
    codes[filled] = items.flatten().to_numpy()
    return Shown(found["user"].to_numpy(), found["time"].to_numpy(), codes)


def brought_by(slates: Shown, acts: Acts, window_ms: int) -> np.ndarray:
    """(n,) int32 of each interaction the latest slate that had shown its movie to its viewer by then; -1: none."""
    size = 1 + max(int(acts.items.max(initial=0)), int(slates.items.max(initial=0)))
    slate, place = np.nonzero(slates.items >= 0)
    pair = np.concatenate([_pairs(slates.users[slate], slates.items[slate, place], size), _pairs(*acts[:2], size)])
    moment = np.concatenate([slates.times[slate], acts.times])
    is_act = np.arange(len(pair)) >= len(slate)
    order = np.lexsort((is_act, moment, pair))  # an act stands behind the slates of its pair and moment
    last = np.maximum.accumulate(np.where(is_act[order], -1, np.arange(len(order))))
    before = order[np.maximum(last, 0)]
    counts = (last >= 0) & is_act[order] & (pair[before] == pair[order]) & (moment[order] - moment[before] <= window_ms)
    found = np.full(len(acts.users), -1, np.int32)
    found[order[counts] - len(slate)] = slate[before[counts]]
    return found


def _pairs(users: np.ndarray, items: np.ndarray, size: int) -> np.ndarray:
    return users.astype(np.int64) * size + items

"""A snapshot: the history as models see it, cut once, kept as Parquet and named by its content.

    <snapshots>/<id>/interactions.parquet   user, item: int32 codes; time: ms; strength: 0 to 1; slate: the row of the
                                            slate that brought it, -1 where none did; oldest first
                     users.parquet          id; a user's code is its row
                     movies.parquet         id, title, genres; a movie's code is its row
                     genres.parquet         name, in the order in which the catalogue first named them
                     unrated.parquet        user, item, runs: pairs without a rating, and which minutes were watched
                     slates.parquet         user, time, items: what viewers were served of late, oldest first
                     statistics.json        what the `inputs` gate and the drift report compare
                     manifest.json          SHA-256 of each file; the id is the hash of these

The same history gives the same files and so the same id. Users and movies stand in the order in which the log first
named them, so a later snapshot only adds rows at the end.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conf.errors import PlainError
from conf.home import Home
from conf.sections.data import Snapshot as SnapshotSettings
from conf.settings import Settings
from events.archive import catch_up, read_topic, write_parquet
from events.disk import sync
from events.event import CATALOGUE, DEAD_LETTER, EVENTS
from events.local_log import LocalLog
from events.log import LogError
from events.reading import nothing_yet, reading_log
from events.store import StoreError, history_store, locked
from models.interactions import Catalogue, Interactions, Unrated
from pipelines import slates
from pipelines.batch_mode import batch_mode
from pipelines.statistics import statistics_of

FORMAT = 3
TABLES = (
    "interactions.parquet",
    "users.parquet",
    "movies.parquet",
    "genres.parquet",
    "unrated.parquet",
    "slates.parquet",
)
FILES = (*TABLES, "statistics.json")
MINUTES = 100_001  # a watched minute is below this
GENRES = pa.list_(pa.field("element", pa.string()))  # as Parquet names it: the same where no movie has any
EVENT_COLUMNS = ("offset", "ts", "kind", "user_id", "movie_id", "minute", "rating", "scale")


class SnapshotError(PlainError):
    """A snapshot cannot be cut or loaded; the message says why and what to do."""


@dataclass(frozen=True)
class Snapshot:
    id: str
    folder: Path
    interactions: Interactions
    statistics: dict[str, Any]
    note: str = ""  # what it does not rest on, in batch mode


def cut(home: Home, settings: Settings, progress: Callable[[int], None] | None = None) -> Snapshot:
    """Archive what is new in the log, cut the history and return the snapshot. Repeating it gives the same one."""
    read = reading_log(home, settings)
    if not read.exists():
        raise SnapshotError(nothing_yet(home, settings))
    try:
        store = history_store(home, settings.storage)
        with LocalLog(read) as log:
            reached = log.newest()  # what comes while this runs may be in the history in part
        catch_up(home, settings, store, progress)
        events = read_topic(store, EVENTS, EVENT_COLUMNS)
        movies = read_topic(store, CATALOGUE)
        unreadable = len(read_topic(store, DEAD_LETTER, ["offset"]))
        served = slates.served(store, settings, pc.max(events["ts"]).as_py() or 0)
        with locked(home.snapshots):
            tables = _tables(events, movies, served, settings)
            counted = {"events": len(events) + len(movies), "unreadable": unreadable}
            statistics = statistics_of(*tables[:3], **counted, offset=_offset(events, reached))
            return replace(_keep(home.snapshots, tables, statistics), note=batch_mode(home, settings))
    except (LogError, StoreError) as why:
        raise SnapshotError(str(why)) from why
    except OSError as why:
        raise SnapshotError(f"{home.snapshots} cannot be written: {why.strerror or why}") from why


def _offset(events: pa.Table, reached: int) -> int:
    """The offset of the newest event, of those up to `reached`: it stays the same while only slates are logged."""
    offsets = events["offset"].to_numpy()
    return int(offsets[offsets <= reached].max(initial=0))


def load(folder: Path) -> Snapshot:
    """A snapshot from its folder, every file checked against the manifest. SnapshotError names the first bad one."""
    manifest = _manifest(folder)
    for name, digest in manifest["files"].items():
        if _sha256(folder / name) != digest:
            raise SnapshotError(f"{folder / name} is not the file that was cut: its SHA-256 differs. Cut it again")
    if _id(manifest) != folder.name:
        raise SnapshotError(f"{folder / 'manifest.json'} is not the manifest of snapshot {folder.name}. Cut it again")
    rows, users, movies, genres, unrated, served = (pq.read_table(folder / name) for name in TABLES)
    statistics = json.loads((folder / "statistics.json").read_text())
    interactions = Interactions(
        users=rows["user"].to_numpy(),
        items=rows["item"].to_numpy(),
        times=rows["time"].to_numpy(),
        strengths=rows["strength"].to_numpy(),
        user_ids=np.array(users["id"].to_pylist(), dtype=str),
        catalogue=_catalogue(movies, genres["name"].to_pylist()),
        end_ms=statistics["end_ms"],
        unrated=_unrated_of(unrated),
        shown=slates.shown(served),
        brought_by=rows["slate"].to_numpy(),
    )
    return Snapshot(folder.name, folder, interactions, statistics)


def _tables(events: pa.Table, movies: pa.Table, served: pa.Table, settings: Settings) -> tuple[pa.Table, ...]:
    """Interactions, users, movies, genres, unrated pairs and slates of a history: the `TABLES`."""
    events = events.filter(pc.is_valid(events["movie_id"]))
    if not len(events):
        raise SnapshotError(
            "the history holds nothing that a viewer did: import ratings first (greenlight data import movietweetings)"
        )
    events, movies = events.sort_by("offset"), movies.sort_by("offset")
    users, user_ids = _codes(events["user_id"], events["offset"])
    named = pa.chunked_array([*events["movie_id"].chunks, *movies["movie_id"].chunks], pa.string())
    offsets = pa.chunked_array([*events["offset"].chunks, *movies["offset"].chunks], pa.int64())
    items, movie_ids = _codes(named, offsets)
    rows, unrated = _interactions(events, users, items[: len(events)], len(movie_ids), settings.snapshot)
    served = slates.table(served, user_ids, movie_ids)
    acts = slates.Acts(*(rows[name].to_numpy() for name in ("user", "item", "time")))
    window_ms = round(settings.experiment.window_hours * slates.HOUR_MS)
    rows = rows.append_column("slate", pa.array(slates.brought_by(slates.shown(served), acts, window_ms)))
    genres = pc.unique(pc.list_flatten(movies["genres"]))
    catalogue = _movies(movies, items[len(events) :], movie_ids)
    return rows, pa.table({"id": user_ids}), catalogue, pa.table({"name": genres}), unrated, served


def _codes(ids: pa.ChunkedArray, offsets: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """A code for each id, (n,) int32, and the ids by code: in the order of their lowest offset."""
    encoded = ids.combine_chunks().dictionary_encode()
    found = encoded.indices.to_numpy()
    first = np.full(len(encoded.dictionary), np.iinfo(np.int64).max)
    np.minimum.at(first, found, offsets.to_numpy())
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return rank[found], encoded.dictionary.take(pa.array(order))


def _interactions(
    events: pa.Table, users: np.ndarray, items: np.ndarray, n_items: int, conf: SnapshotSettings
) -> tuple[pa.Table, pa.Table]:
    """What viewers did, oldest first, and the pairs without a rating.

    Of a pair, ratings count where there are any, else what was watched, else clicks.

    Every rating is a row, so that a re-rating stays visible. A pair's watched minutes are one row at the last minute's
    time with strength distinct minutes / `full_watch_minutes`, at most 1; its clicks are one row at the last click.
    """
    kinds, times = events["kind"], events["ts"].to_numpy()
    pairs = users.astype(np.int64) * n_items + items
    rated, watched, clicked = (pc.equal(kinds, kind).to_numpy() for kind in ("rating", "watch", "click"))
    watched &= ~np.isin(pairs, pairs[rated])
    clicked &= ~np.isin(pairs, pairs[rated | watched])
    ratings = np.flatnonzero(rated)
    strengths = pc.divide(events["rating"], events["scale"]).to_numpy()[ratings]
    views, minutes = _last_of_each_pair(pairs, times, watched, events["minute"])
    clicks, _ = _last_of_each_pair(pairs, times, clicked, None)
    chosen = np.concatenate([ratings, views, clicks])
    strength = np.concatenate(
        [strengths, np.minimum(1.0, minutes / conf.full_watch_minutes), np.full(len(clicks), conf.click_strength)]
    ).astype(np.float32)
    order = np.lexsort((strength, items[chosen], users[chosen], times[chosen]))
    chosen = chosen[order]
    rows = {"user": users[chosen], "item": items[chosen], "time": times[chosen], "strength": strength[order]}
    return pa.table(rows), _unrated(pairs, watched, clicked, events["minute"], n_items)


def _last_of_each_pair(
    pairs: np.ndarray, times: np.ndarray, chosen: np.ndarray, minute: pa.ChunkedArray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Of the chosen events: the newest of each pair (its row number), and how many distinct minutes the pair has."""
    rows = np.flatnonzero(chosen)
    order = rows[np.lexsort((times[rows], pairs[rows]))]
    last = order[np.flatnonzero(np.diff(pairs[order], append=-1))]
    if minute is None:
        return last, np.ones(len(last))
    minutes = pc.fill_null(minute, 0).to_numpy()[rows]
    distinct = np.unique(pairs[rows] * MINUTES + minutes) // MINUTES
    return last, np.unique(distinct, return_counts=True)[1]


def _unrated(
    pairs: np.ndarray, watched: np.ndarray, clicked: np.ndarray, minute: pa.ChunkedArray, n_items: int
) -> pa.Table:
    """The pairs without a rating, by user and item, and the runs of minutes that were watched: none of a click."""
    rows = np.flatnonzero(watched)
    keys = np.unique(pairs[rows] * MINUTES + pc.fill_null(minute, 0).to_numpy()[rows])
    pair, minutes = np.divmod(keys, MINUTES)
    begins = np.flatnonzero((np.diff(minutes, prepend=-2) != 1) | (np.diff(pair, prepend=-1) != 0))
    ends = np.append(begins[1:], len(keys))[: len(begins)] - 1
    seen, runs = np.unique(pair[begins], return_counts=True)
    clicks = np.unique(pairs[clicked])
    found, lengths = np.concatenate([seen, clicks]), np.concatenate([2 * runs, np.zeros_like(clicks)])
    order = np.argsort(found, kind="stable")  # the runs stay in place: a click has none
    bounds = np.column_stack([minutes[begins], minutes[ends] + 1]).ravel().astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths[order])]).astype(np.int32)
    user, item = (part.astype(np.int32) for part in np.divmod(found[order], n_items))
    return pa.table({"user": user, "item": item, "runs": pa.ListArray.from_arrays(offsets, bounds)})


def _unrated_of(table: pa.Table) -> Unrated:
    runs = table["runs"].combine_chunks()
    return Unrated(
        table["user"].to_numpy(),
        table["item"].to_numpy(),
        runs.offsets.to_numpy().astype(np.int64),
        runs.values.to_numpy().astype(np.int32),
    )


def _movies(movies: pa.Table, items: np.ndarray, ids: pa.Array) -> pa.Table:
    """Title and genres of each movie as its newest catalogue line says; empty where it has none."""
    latest = np.full(len(ids), -1)
    latest[items] = np.arange(len(movies))  # rows are by offset, and of equal places the last one stays
    rows = pa.array(latest, mask=latest < 0)
    titles = pc.fill_null(movies["title"].combine_chunks().take(rows), "")
    genres = pc.coalesce(movies["genres"].combine_chunks().take(rows), pa.scalar([], pa.list_(pa.string())))
    return pa.table({"id": ids, "title": titles, "genres": genres.cast(GENRES)})


def _catalogue(movies: pa.Table, genre_names: list[str]) -> Catalogue:
    genres = movies["genres"].combine_chunks()
    flags = np.zeros((len(movies), len(genre_names)), bool)
    named = pc.index_in(genres.flatten(), pa.array(genre_names, pa.string())).to_numpy()
    flags[pc.list_parent_indices(genres).to_numpy(), named] = True
    return Catalogue(
        ids=np.array(movies["id"].to_pylist(), dtype=str),
        titles=np.array(movies["title"].to_pylist(), dtype=str),
        genres=flags,
        genre_names=tuple(genre_names),
    )


def _keep(snapshots: Path, tables: tuple[pa.Table, ...], statistics: dict[str, Any]) -> Snapshot:
    """Write the snapshot aside, name it by its content and put it in place whole."""
    for left_over in snapshots.glob(".cut-*"):  # of a cut that was killed: nobody else is here now
        shutil.rmtree(left_over)
    part = snapshots / f".cut-{os.getpid()}"
    part.mkdir()
    try:
        for name, table in zip(TABLES, tables, strict=True):
            write_parquet(part / name, table)
        _write_json(part / "statistics.json", statistics)
        manifest = {"format": FORMAT, "files": {name: _sha256(part / name) for name in FILES}}
        _write_json(part / "manifest.json", manifest)
        return load(_in_place(part, snapshots / _id(manifest)))
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _in_place(part: Path, folder: Path) -> Path:
    """Rename `part` to `folder`, unless that is there already and whole."""
    if folder.exists():
        try:
            load(folder)
        except SnapshotError:
            shutil.rmtree(folder)  # damaged since it was cut; what replaces it is the same content
        else:
            return folder
    part.rename(folder)
    sync(folder.parent)
    return folder


def _id(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:32]


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise SnapshotError(f"{folder} is no snapshot: it has no manifest.json") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as why:
        raise SnapshotError(f"{path} cannot be read: {why}. Cut the snapshot again") from why
    if manifest.get("format") != FORMAT or set(manifest.get("files", {})) != set(FILES):
        raise SnapshotError(f"{path} is not of format {FORMAT} with the files {', '.join(FILES)}. Cut it again")
    return manifest


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as why:
        raise SnapshotError(f"{path} cannot be read: {why.strerror or why}. Cut the snapshot again") from why


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, sort_keys=True, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())

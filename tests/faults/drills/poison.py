"""A poison record among good ones, a kind of poison in each cycle: it is quarantined, and nobody stumbles over it."""

import asyncio
import json
from pathlib import Path
from typing import Any

from conf.home import Home
from conf.settings import Settings
from events.archive import archive, read_topic
from events.event import DEAD_LETTER, EVENTS
from events.local_log import LocalLog
from events.store import FolderStore
from serving.intake import Intake
from serving.metrics import Metrics
from tests.faults.drills.drill import ENOUGH, Drill, Tally
from tests.faults.drills.posting import body, post
from tests.faults.drills.viewers import START_MS, ids_in, rating


def _with(**fields: Any) -> bytes:
    """A rating that would be good but for these fields; a field that is None is missing."""
    good = {"kind": "rating", "event_id": "p", "ts": START_MS, "user_id": "u", "movie_id": "m", "rating": 4, "scale": 5}
    return json.dumps({name: value for name, value in (good | fields).items() if value is not None}).encode()


POISON = (
    b"\xff\xfe",
    b"x,y",
    b"null",
    b"[]",
    b'"rating"',
    b"[" * 100_000,
    b'{"a":' * 5_000,
    b"\x00" * 1_000,
    b"{" + b"x" * 1_000_000,
    _with(kind="rating")[:-1],
    _with(kind="Rating"),
    _with(kind=None),
    _with(kind=["rating"]),
    _with(user_id=None),
    _with(user_id=""),
    _with(user_id="\ud800"),
    _with(user_id="u" * 1_000_000),
    _with(user_id={"id": "u"}),
    _with(movie_id=" m\n"),
    _with(rating=float("nan")),
    _with(rating=float("inf")),
    _with(rating=-1),
    _with(rating=10**400),
    _with(rating="four"),
    _with(rating=[4]),
    _with(scale=0),
    _with(ts=-1),
    _with(ts=10**30),
    _with(ts="yesterday"),
    _with(event_id="e" * 1_000_000),
    _with(event_id=7),
    _with(event_id="\ud800"),
    b"1700000000,42,GET /rate/=4",
    b"1700000000,42,GET /rate/m=9999",
    b"99999999999999999999,42,GET /rate/m=4",
    b"1700000000,,GET /rate/m=4",
)


def run(folder: Path, cycles: int) -> Tally:
    home, tally = Home(folder / "home").open(), Tally()
    store, intake = FolderStore(home.history), Intake(home, Settings(), Metrics())
    intake.start()
    for cycle in range(cycles):
        poison = POISON[cycle * len(POISON) // cycles]
        events = [rating(f"c{cycle}-{n}") for n in range(ENOUGH)]
        tally.sent.update(event.event_id for event in events)
        lines = body(events)[1:-1].replace(b"},{", b"}\n{").split(b"\n")
        lines.insert(ENOUGH // 2, poison)
        why = asyncio.run(post(intake, b"\n".join(lines), b"application/x-ndjson"))
        assert not why, f"{poison[:80]!r}: {why}"
        tally.acknowledged.update(event.event_id for event in events)
        with LocalLog(home.log) as log:
            archive(log, store)
            ids = ids_in(log)
            assert log.count(DEAD_LETTER) == cycle + 1, f"{poison[:80]!r} is not in the dead letter"
        tally.check(ids, ids, read_topic(store, EVENTS, ["event_id"])["event_id"].to_pylist())
    intake.close()
    assert len(read_topic(store, DEAD_LETTER)) == cycles
    return tally


DRILLS = (Drill("poison", "a poison record among good ones, each of another kind", run, short=9, long=len(POISON)),)

"""`data simulate`, and `data import simulated`: the simulated audience acts, and its events go into the log.

A home without a history gets a world from nothing; one with a history gets viewers fitted to it, who go on from its
last day. Which world it was is noted in the home before its first event, and ids of events follow from the world: the
same command again, after a crash or on purpose, adds nothing, and with more days it adds the rest.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any

from pydantic import ValidationError

from conf.home import Home
from conf.sections.audience import AudienceConf
from conf.settings import Settings
from events.disk import sync
from events.local_log import LocalLog
from events.log import BATCH, LogError
from events.reading import reached
from events.sources.audience import Audience, AudienceError, Shift, ShiftError
from events.sources.audience.acting import NAME, SCALE
from events.state import Act, Acts
from events.store import StoreError
from events.times import latest_plausible_ms
from pipelines.data import DataError, ImportReport, Progress

DAY_MS = 86_400_000


@dataclass(frozen=True)
class World:
    """What a home's simulated world follows from. base: the offset up to which its history came before it."""

    seed: int
    base: int
    conf: dict[str, Any]
    shift: str = ""
    days: int = 0  # that were simulated


def simulate(
    home: Home,
    settings: Settings,
    *,
    viewers: int | None = None,
    movies: int | None = None,
    days: int | None = None,
    seed: int = 0,
    shift: str = "",
    progress: Progress | None = None,
) -> ImportReport:
    """Let the audience act for some days and store what happens. DataError says which number or word is wrong."""
    conf = _sized(settings.audience, viewers=viewers, movies=movies, days=days)
    try:
        moved = Shift.parse(shift) if shift else None
        home.open()
        with LocalLog(home.log, max_mb=settings.kafka.cap_mb) as log:
            newest = _newest(home, settings)
            world = _world(home, newest, World(seed, newest, conf.model_dump(mode="json", exclude={"days"}), shift))
            audience = _audience(home, settings, world, conf, moved)
            _check_past(audience, conf.days)
            _note(home, replace(world, days=max(world.days, conf.days)))
            return _store(log, audience, world, conf.days, progress)
    except (AudienceError, ShiftError, LogError, StoreError) as why:
        raise DataError(str(why)) from why


def audience_of(home: Home, settings: Settings, seed: int, shift: Shift | None = None) -> Audience:
    """The audience of a home, whose day 0 begins where the history ends: the world that it was simulated from, where
    that has this seed and these settings, else one fitted to all that happened. For one that reacts to slates."""
    conf, newest = settings.audience, _newest(home, settings)
    world = _world(home, newest, World(seed, newest, conf.model_dump(mode="json", exclude={"days"})))
    found = _audience(home, settings, world, conf, None)
    return found.after(world.days, shift)


def _sized(conf: AudienceConf, **sizes: int | None) -> AudienceConf:
    given = {name: size for name, size in sizes.items() if size is not None}
    try:
        return AudienceConf.model_validate({**conf.model_dump(), **given})
    except ValidationError as why:
        first = why.errors()[0]
        raise DataError(f"{first['loc'][0]} = {first['input']}: {first['msg']}") from why


def _newest(home: Home, settings: Settings) -> int:
    """The offset up to which the history goes. DataError where a part of it is still on its way through Kafka."""
    newest = reached(home, settings)
    if newest is None:
        raise DataError(
            "what came in last is still on its way through Kafka, and the audience has to know it: greenlight status "
            "says whether relay and mirror run; repeat this once they have come to the end"
        )
    return newest


def _world(home: Home, newest: int, wanted: World) -> World:
    """The world that the home notes, where it is the wanted one; its base is then what the history was at first."""
    try:
        noted = World(**json.loads(home.simulated.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return wanted
    same = replace(wanted, base=noted.base, days=noted.days)
    return noted if noted == same and noted.base <= newest else wanted


def _note(home: Home, world: World) -> None:
    part = home.simulated.with_suffix(".part")
    part.write_text(json.dumps(asdict(world)))
    part.replace(home.simulated)
    sync(home.root)


def _audience(home: Home, settings: Settings, world: World, conf: AudienceConf, shift: Shift | None) -> Audience:
    if world.base == 0:
        return Audience.fresh(conf, world.seed, shift)
    return Audience.fitted((), _acts(home, settings, world.base), conf, world.seed, shift)


def _acts(home: Home, settings: Settings, to: int) -> Iterator[Act]:
    """What the log and the archive hold up to an offset."""
    acts = Acts(home, settings)
    try:
        after, more = 0, True
        while more and after < to:
            batch = acts.since(after, 5 * BATCH)
            yield from (act for act in batch.acts if act.offset <= to)
            after, more = batch.offset, batch.more
    finally:
        acts.close()


def _check_past(audience: Audience, days: int) -> None:
    """DataError where simulated days would lie in the future: they would be quarantined, and no gate would pass."""
    room = (latest_plausible_ms() - audience.begins_ms) // DAY_MS
    if days > room:
        raise DataError(
            f"{days} days from {_date(audience.begins_ms)} on end in the future: at most {max(room, 0)} are past. "
            "Simulate fewer, or set audience.start to an earlier day in an empty home"
        )


def _store(log: LocalLog, audience: Audience, world: World, days: int, progress: Progress | None) -> ImportReport:
    read, added, kinds = 0, 0, Counter[str]()
    first = audience.movies if world.base == 0 else []  # a world from nothing brings its catalogue
    events = chain(first, audience.simulate(days))
    while batch := list(islice(events, BATCH)):
        stored = log.append_all(batch)
        read += len(batch)
        added += sum(part.added for part in stored.values())
        kinds.update(event.kind for event in batch)
        if progress:
            progress(read)
    return ImportReport(
        source=NAME,
        dialect=NAME,
        scale=SCALE,
        read=read,
        added=added,
        duplicates=read - added,
        unreadable=0,
        kinds=dict(sorted(kinds.items())),
        notes=tuple(_notes(audience, world, days)),
    )


def _notes(audience: Audience, world: World, days: int) -> Iterator[str]:
    made = "made from nothing" if world.base == 0 else "fitted to the history before it"
    ends = audience.begins_ms + days * DAY_MS - 1
    yield f"an audience of {len(audience.viewers):,} viewers and {len(audience.movies):,} movies, {made}"
    yield f"{days} days, {_date(audience.begins_ms)} to {_date(ends)}"
    if world.shift:
        yield f"shift: {world.shift}"


def _date(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}"

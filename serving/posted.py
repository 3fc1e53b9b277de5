"""From the body of a post to events: each read and judged by itself, times by the home's clock (design: two clocks).

An event without a time gets the home's now. One further ahead of the event clock, or of the wall, than the settings
allow is quarantined, so that no stray stamp moves a window.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from conf.settings import Settings
from events import codecs
from events.codecs import Fields, Rules
from events.event import EVENTS, AnyEvent, BadRecord, Unreadable
from serving.reading import Refused

SOURCE = "posted"  # in the dead letter
PIECE = 250  # events validated at a time: other threads must come to their turn
KINDS = {"watch", "rating", "click", "account", "movie"}
SCALE = Rules.scale  # where the settings name none
HOUR_MS, MINUTE_MS = 3_600_000, 60_000


@dataclass
class Batch:
    """What a post held: events to store, those that are none, and why, with their index in the post."""

    events: list[AnyEvent] = field(default_factory=list)
    dead: list[Unreadable] = field(default_factory=list)
    reasons: list[tuple[int, str]] = field(default_factory=list)

    def refuse(self, index: int, record: Any, reason: str) -> None:
        """Keep what is no event, a line or a value of JSON, for the dead letter."""
        try:
            raw = record if isinstance(record, bytes) else orjson.dumps(record)
        except orjson.JSONEncodeError:  # nested too deep
            raw = repr(record).encode()
        self.reasons.append((index, reason))
        self.dead.append(codecs.unreadable(raw, SOURCE, index, reason, SOURCE))


class Gate:
    """Reads posts at one moment. `clock_ms`: the event clock, 0 before the first event; it moves with what is read."""

    def __init__(self, clock_ms: int, wall_ms: int, settings: Settings) -> None:
        self._clock_ms = clock_ms
        self._now_ms = wall_ms if settings.clock == "wall" or not clock_ms else clock_ms
        self._ahead_ms = round(settings.intake.ahead_of_clock_hours * HOUR_MS)
        latest_ms = wall_ms + round(settings.intake.ahead_of_wall_minutes * MINUTE_MS)
        self._follows_events = settings.clock == "event"
        zone, scales = ZoneInfo(settings.data.zone), settings.data.scales
        self._rules = {
            "json": Rules(zone, scales.get("json", SCALE), latest_ms),
            "lines": Rules(zone, scales.get("lines", SCALE), latest_ms),
        }

    def json(self, body: bytes, most: int) -> Batch:
        """A JSON object, or an array of them. Refused where the body is neither."""
        try:
            content = orjson.loads(body)
        except orjson.JSONDecodeError as why:
            raise Refused(400, f"the body is not JSON: {why}") from None
        records = content if isinstance(content, list) else [content]
        _not_more(len(records), most)
        return self._read((self._of_json(record), record) for record in records)

    def lines(self, body: bytes, most: int) -> Batch:
        """Lines, each a JSON object or a text line; empty ones are passed over."""
        raw = [line for line in body.splitlines() if line.strip()]
        _not_more(len(raw), most)
        return self._read((self._of_line(line), line) for line in raw)

    def _read(self, records: Iterator[tuple[Fields | str, Any]]) -> Batch:
        batch, piece = Batch(), list[tuple[int, Fields | str, Any]]()
        for index, (fields, raw) in enumerate(records):
            piece.append((index, fields, raw))
            if len(piece) == PIECE:
                self._take(batch, piece)
                piece = []
        self._take(batch, piece)
        return batch

    def _take(self, batch: Batch, piece: list[tuple[int, Fields | str, Any]]) -> None:
        """Validate a piece in one go; its events in order, into the batch."""
        events = iter(codecs.validated([fields for _, fields, _ in piece if not isinstance(fields, str)]))
        for index, fields, raw in piece:
            event = fields if isinstance(fields, str) else next(events)
            if not isinstance(event, str):
                event = self._timely(event)
            if isinstance(event, str):
                batch.refuse(index, raw, event)
            else:
                batch.events.append(event)

    def _of_json(self, record: Any) -> Fields | str:
        if not isinstance(record, dict):
            return f"a JSON object is expected, found {type(record).__name__}"
        kind, fields = record.get("kind"), dict(record)
        if not isinstance(kind, str) or kind not in KINDS:
            return f"kind is {repr(kind)[:40]}; it must be one of {', '.join(sorted(KINDS))}"
        try:
            if fields["kind"] != "movie" and fields.get("ts") is None:
                fields["ts"] = self._now_ms
            return codecs.completed(fields, self._rules["json"])[0]
        except BadRecord as why:
            return str(why)

    def _of_line(self, line: bytes) -> Fields | str:
        try:
            text = codecs.decoded(line)
            if not text.startswith("{"):
                return codecs.line_fields(text, self._rules["lines"])[0]
            return self._of_json(orjson.loads(text))
        except orjson.JSONDecodeError as why:
            return f"not JSON: {why}"
        except BadRecord as why:
            return str(why)

    def _timely(self, event: AnyEvent) -> AnyEvent | str:
        """The event, or why its time is not believed. The wall was asked when the time was read."""
        if event.topic != EVENTS:
            return event
        if self._follows_events and self._clock_ms and event.ts > self._clock_ms + self._ahead_ms:
            return f"ts {event.ts} is {_span(event.ts - self._clock_ms)} ahead of the newest event"
        self._clock_ms = max(self._clock_ms, event.ts)
        return event


def _not_more(count: int, most: int) -> None:
    if count > most:
        raise Refused(413, f"the batch holds {count} events; {most} are the most")


def _span(ms: int) -> str:
    hours = ms / HOUR_MS
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} h" if hours >= 1 else f"{ms / MINUTE_MS:.0f} min"

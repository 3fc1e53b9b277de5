"""Where records of Kafka stand, in one number each, and which of them a reader was given.

A record's offset is Kafka's offset x 1024 + its partition + 1: unique, and the same for every reader. How far a group
is, Kafka keeps for each partition; a batch knows for each of its records how far that is.
"""

from dataclasses import dataclass, field

from events.log import Record

PARTITIONS = 1024  # a topic has no more than that, so that a record's partition fits into its offset
REMEMBERED = 100_000  # ids

Positions = dict[int, int]  # partition: Kafka's offset of the next record


def offset_of(partition: int, position: int) -> int:
    """Our offset of the record that stands at a position of Kafka's."""
    return position * PARTITIONS + partition + 1


def place_of(offset: int) -> tuple[int, int]:
    """Partition and Kafka's offset of a record."""
    position, partition = divmod(offset - 1, PARTITIONS)
    return partition, position


class Recent:
    """The ids that were met last, each with the first offset at which it was."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._first

    def is_first(self, event_id: str, offset: int) -> bool:
        """Whether an id was met nowhere else before. A record that is read again still is the first."""
        if event_id not in self._first and len(self._first) >= REMEMBERED:
            del self._first[next(iter(self._first))]
        return self._first.setdefault(event_id, offset) == offset


@dataclass
class Batch:
    """What one reading went through, from `start` on."""

    start: Positions
    records: list[Record] = field(default_factory=list)  # that were given
    places: list[int] = field(default_factory=list)  # of all, those that were dropped as duplicates included

    def end(self) -> Positions:
        """Positions after all of it."""
        return self._after(self.places)

    def until(self, offset: int) -> Positions | None:
        """Positions after a record that was given; None for any other."""
        if all(record.offset != offset for record in self.records):
            return None
        return self._after(self.places[: self.places.index(offset) + 1])

    def _after(self, places: list[int]) -> Positions:
        reached = dict(self.start)
        for partition, position in map(place_of, places):
            reached[partition] = position + 1
        return reached

"""What those who follow a topic say of themselves, for `status`: a small file per topic, gone once they end well."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from conf.home import Home
from pipelines.loop import read_json, write_json

LONGEST = 200  # characters of a topic in the name of its file


@dataclass(frozen=True)
class Follower:
    """Of several of one topic, the one that spoke last. lines: since it began; trouble: what it waits for, and since
    when."""

    topic: str
    beat_wall_ms: int
    behind: int | None
    lines: int
    unreadable: int
    trouble: str = ""
    since_wall_ms: int = 0


def note(home: Home, follower: Follower) -> None:
    """OSError where the disk is full or may not be written."""
    home.followers.mkdir(exist_ok=True)
    write_json(place(home, follower.topic), asdict(follower))


def forget(home: Home, topic: str) -> None:
    place(home, topic).unlink(missing_ok=True)


def followers(home: Home) -> Iterator[Follower]:
    """TypeError for a file that is not ours."""
    for file in sorted(home.followers.glob("*.json")):
        if told := read_json(file):
            yield Follower(**told)


def place(home: Home, topic: str) -> Path:
    return home.followers / f"{topic[:LONGEST]}.json"

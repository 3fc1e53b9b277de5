"""What a model makes once for all viewers of a moment: hot movies, their features."""

from collections.abc import Callable
from typing import Generic, TypeVar

from models.interactions import LiveCounts

T = TypeVar("T")


class Shared(Generic[T]):
    """Made once for each `live`. Of the last two it is kept: while a service goes over from one to the next, its
    threads ask for both."""

    def __init__(self) -> None:
        self._made: tuple[tuple[LiveCounts, T], ...] = ()  # replaced whole, so threads need no lock

    @property
    def newest(self) -> T | None:
        """What was made last, if anything: a part of it may still hold."""
        return self._made[0][1] if self._made else None

    def at(self, live: LiveCounts, make: Callable[[], T]) -> T:
        for of, made in self._made:
            if of is live:
                return made
        new = make()
        self._made = ((live, new), *self._made[:1])
        return new

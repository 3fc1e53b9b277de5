"""Slates that the model made, kept for a while: fresh ones spare the model, older ones stand in when it is out."""

from typing import NamedTuple, Protocol


class Kept(NamedTuple):
    """A slate as it was made: codes' ids, titles and scores best first, the live state's mark, wall time in ms."""

    ids: list[str]
    titles: list[str]
    scores: list[float]
    mark: str
    made_ms: int


class Cache(Protocol):
    async def get(self, key: str) -> Kept | None:
        """What is kept under the key; None where nothing is or the cache cannot answer in time. Never raises."""

    def put(self, key: str, kept: Kept) -> None:
        """Keep it, sooner or later. Never blocks, never raises."""


class NoCache:
    async def get(self, key: str) -> Kept | None:
        return None

    def put(self, key: str, kept: Kept) -> None:
        pass

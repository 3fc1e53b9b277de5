"""Where events come from, and what becomes of them."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator

from conf.sections.section import Positive, Section, Share, known_zone


class Data(Section):
    """Reading events in."""

    zone: str = "UTC"  # of text lines whose times carry none
    scales: dict[Literal["movielens", "movietweetings", "lines", "json"], Positive] = Field(
        default_factory=dict
    )  # largest rating per dialect, where it is not the usual one

    @field_validator("zone")
    @classmethod
    def _is_known(cls, zone: str) -> str:
        return known_zone(zone)


class Snapshot(Section):
    """How a history becomes interactions."""

    full_watch_minutes: Annotated[int, Field(ge=1)] = 60  # distinct minutes that count as strength 1
    click_strength: Share = 0.3  # a click is interest, not yet liking
    slate_days: Positive = 60  # of the slates that are kept, and of what is known to have come of them


def web_address(url: str) -> str:
    """An http or https address with a host, if it is one."""
    found = urlsplit(url)
    if found.scheme in ("http", "https") and found.hostname:
        return url
    raise ValueError("not an address such as https://host/folder")


WebAddress = Annotated[str, AfterValidator(web_address)]


class Fetch(Section):
    """Where `data fetch` finds published data sets: a mirror may stand in for their homes."""

    movielens: WebAddress = "https://files.grouplens.org/datasets/movielens"
    movietweetings: WebAddress = "https://raw.githubusercontent.com/sidooms/MovieTweetings/master/latest"
    timeout_s: Positive = 30  # to connect, and of each wait for bytes

"""What sections are made of."""

import ipaddress
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e8)]  # what is longer, no clock of Python waits for
Count = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or address alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def known_zone(zone: str) -> str:
    """The name of a time zone, if it is one."""
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as why:  # a folder of zones, a name that no file can have
        raise ValueError("no such time zone; use UTC or a name such as Europe/Berlin") from why
    return zone


def or_nothing(text: object) -> object:
    """An empty variable is read as YAML's null: here it is an empty text."""
    return "" if text is None else text

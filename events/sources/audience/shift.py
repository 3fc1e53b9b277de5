"""What a drift report should find: from a day on, a share of the viewers is different.

    day=30 from=Drama to=Comedy strength=0.8 share=1      taste: they turn from one genre to another
    day=30 kind=rating strength=-0.5                      they rate lower (below zero) or higher
    day=30 kind=activity strength=0.5 share=0.3           they come half as often again; -0.5: half as often

`from` and `to` may be left out, one of them, and may name several genres: `from=Drama|War`.
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, cast, get_args

from conf.errors import PlainError

Kind = Literal["taste", "rating", "activity"]
KEYS = ("day", "kind", "from", "to", "strength", "share")
TASTE_LOGITS = 5.0  # by how much a strength of 1 moves the odds that a movie of that one genre appeals
RATING_LOGITS = 2.0  # by how much a strength of 1 moves the odds of a liking


class ShiftError(PlainError):
    """A shift is not written as it should be, or names a genre that no movie has."""


@dataclass(frozen=True)
class Shift:
    """day: counted from day 0 on; strength: 0 to 1 of a taste, -1 to 1 of ratings and activity; share of viewers."""

    day: int
    kind: Kind = "taste"
    loses: tuple[str, ...] = ()
    gains: tuple[str, ...] = ()
    strength: float = 0.8
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ShiftError(f"kind {self.kind!r} of a shift is not known: taste, rating or activity")
        if not 0 < self.share <= 1:
            raise ShiftError(f"share {self.share:g} of a shift is out of range: above 0, at most 1")
        if self.strength == 0 or not (0 if self.kind == "taste" else -1) <= self.strength <= 1:
            low = "above 0" if self.kind == "taste" else "from -1 to 1 and not 0"
            raise ShiftError(f"strength {self.strength:g} of a shift of {self.kind} is out of range: {low}, at most 1")
        if (self.kind == "taste") != bool(self.loses or self.gains):
            raise ShiftError("a shift of taste names genres with from= or to=, and no other shift does")
        if both := set(self.loses) & set(self.gains):
            raise ShiftError(f"a shift cannot move taste from {min(both)} to itself")

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `key=value` words. ShiftError says which word is wrong and what is known."""
        words: dict[str, str] = {}
        for word in text.split(" "):
            key, equals, value = word.partition("=")
            if not word:
                continue
            if key not in KEYS:
                near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.0)[0]
                raise ShiftError(f"{word!r} in shift {text!r} is not known; did you mean {near}=…?")
            if not equals or not value or key in words:
                raise ShiftError(f"{key} in shift {text!r} needs one value, such as day=30")
            words[key] = value
        if "day" not in words:
            raise ShiftError(f"shift {text!r} does not say when: add day=30, counted from the first day on")
        return cls(
            day=_day(words["day"], text),
            kind=cast(Kind, words.get("kind", "taste")),
            loses=_genres(words.get("from", "")),
            gains=_genres(words.get("to", "")),
            strength=_number("strength", words.get("strength", "0.8"), text),
            share=_number("share", words.get("share", "1"), text),
        )

    def check(self, genres: Sequence[str]) -> None:
        """ShiftError where a genre is none of these."""
        for name in (*self.loses, *self.gains):
            if name not in genres:
                near = difflib.get_close_matches(name, genres, n=1, cutoff=0.0)
                raise ShiftError(f"no movie is of genre {name!r}; {f'did you mean {near[0]}?' if near else 'none has'}")


def _genres(text: str) -> tuple[str, ...]:
    return tuple(name for part in text.split("|") if (name := part.strip()))


def _day(text: str, whole: str) -> int:
    if not text.removeprefix("-").isdecimal() or len(text) > 6:
        raise ShiftError(f"day={text[:20]} in shift {whole!r} is not a whole number of days")
    return int(text)


def _number(key: str, text: str, whole: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ShiftError(f"{key}={text[:20]} in shift {whole!r} is not a number")
    return number

"""MovieLens in its published forms (grouplens.org/datasets/movielens): CSV, `::` of 1M and 10M, tabs of 100K.

Each parser turns one line into the fields of an event and the unit of its time, or raises `BadRecord`. The `::` and tab
forms are Latin-1 where they are not UTF-8. Ratings go from 0.5 (1 in the older sets) to 5.
"""

import csv
import re
from collections.abc import Callable, Sequence

from events.codecs import Fields, Rules, within_scale
from events.event import BadRecord, content_id, of_viewer
from events.times import from_number

DIALECT, SCALE, LOWEST = "movielens", 5.0, 0.5
RATING_COLUMNS = ("userId", "movieId", "rating", "timestamp")
MOVIE_COLUMNS = ("movieId", "title", "genres")
NO_GENRES = "(no genres listed)"
ITEM_GENRES = (  # the flags of u.item, in their order
    *(
        "unknown",
        "Action",
        "Adventure",
        "Animation",
        "Children's",
        "Comedy",
        "Crime",
        "Documentary",
        "Drama",
        "Fantasy",
    ),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)

Parse = Callable[[str], tuple[Fields, str]]
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def latin_or_utf8(raw: bytes) -> str:
    """Text of a line that is UTF-8, or else Latin-1; BadRecord where it is neither: no text has control characters."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    if found := _CONTROL.search(text):
        raise BadRecord(f"byte 0x{ord(found[0]):02X} at position {found.start() + 1}: neither UTF-8 nor Latin-1 text")
    return text


def ratings_csv(header: Sequence[str], rules: Rules) -> Parse:
    user, movie, rating, when = (header.index(name) for name in RATING_COLUMNS)
    width = len(header)

    def parse(text: str) -> tuple[Fields, str]:
        cells = csv_cells(text, width)
        return rating_fields(DIALECT, LOWEST, rules, cells[user], cells[movie], cells[rating], cells[when])

    return parse


def movies_csv(header: Sequence[str]) -> Parse:
    movie, title, genres = (header.index(name) for name in MOVIE_COLUMNS)
    width = len(header)

    def parse(text: str) -> tuple[Fields, str]:
        cells = csv_cells(text, width)
        return movie_fields(DIALECT, cells[movie], cells[title], cells[genres]), ""

    return parse


def ratings_separated(separator: str, rules: Rules, dialect: str = DIALECT, lowest: float = LOWEST) -> Parse:
    """Ratings as user, movie, rating, time with a separator of `::` or tab."""

    def parse(text: str) -> tuple[Fields, str]:
        cells = text.split(separator)
        if len(cells) != 4:
            raise BadRecord(f"expected user{separator}movie{separator}rating{separator}time, found {text[:60]!r}")
        return rating_fields(dialect, lowest, rules, *cells)

    return parse


def movies_dat(dialect: str = DIALECT) -> Parse:
    def parse(text: str) -> tuple[Fields, str]:
        cells = text.split("::")
        if len(cells) < 3:
            raise BadRecord(f"expected movie::title::genres, found {text[:60]!r}")
        return movie_fields(dialect, cells[0], "::".join(cells[1:-1]), cells[-1]), ""

    return parse


def movies_item(text: str) -> tuple[Fields, str]:
    """A line of u.item: id, title, dates, address and one flag per genre, separated by bars."""
    cells = text.split("|")
    flags = cells[-len(ITEM_GENRES) :]
    if len(cells) < 5 + len(ITEM_GENRES) or not set(flags) <= {"0", "1"}:
        raise BadRecord(f"expected id|title|date|date|address and {len(ITEM_GENRES)} flags, found {text[:60]!r}")
    named = [name for name, flag in zip(ITEM_GENRES, flags, strict=True) if flag == "1" and name != "unknown"]
    return movie_fields(DIALECT, cells[0], cells[1], "|".join(named)), ""


def rating_fields(
    dialect: str, lowest: float, rules: Rules, user: str, movie: str, rating: str, when: str
) -> tuple[Fields, str]:
    value = within_scale(rating, lowest, rules.scale)
    ts, unit = from_number(when, rules.latest_ms)
    fields = {
        "kind": "rating",
        "event_id": content_id(dialect, f"{user}\x00{movie}\x00{value:g}\x00{ts}", of_viewer(user)),
        "ts": ts,
        "user_id": user,
        "movie_id": movie,
        "rating": value,
        "scale": rules.scale,
    }
    return fields, unit


def movie_fields(dialect: str, movie: str, title: str, genres: str) -> Fields:
    if _CONTROL.search(title):
        raise BadRecord(f"the title {title[:60]!r} holds control characters")
    named = [] if genres.strip() == NO_GENRES else [name for part in genres.split("|") if (name := part.strip())]
    return {
        "kind": "movie",
        "event_id": content_id(dialect, f"movie\x00{movie}\x00{title}\x00{genres}"),
        "movie_id": movie,
        "title": title.strip(),
        "genres": named,
    }


def csv_cells(text: str, width: int) -> list[str]:
    """Cells of one CSV line; BadRecord where there are more or fewer than the header's."""
    if '"' not in text:
        cells = text.split(",")
    else:
        try:
            cells = next(csv.reader([text], strict=True))
        except csv.Error as why:
            raise BadRecord(f"not CSV: {why}") from None
    if len(cells) != width:
        raise BadRecord(f"expected {width} cells, found {len(cells)}")
    return cells

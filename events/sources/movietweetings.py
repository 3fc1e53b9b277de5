"""MovieTweetings (Dooms et al. 2013): the `::` form of MovieLens, from 0 to 10, with IMDb ids; and how to tell it."""

import re
from itertools import islice
from pathlib import Path

from events.sources.files import Source, SourceError, SourceFile

DIALECT, SCALE, LOWEST = "movietweetings", 10.0, 0.0
FOLDER = Path(__file__).parent / "data" / "movietweetings"  # the copy that comes with the project

_SAMPLE = 1000  # lines of a file that are looked at
_WIDE_ID = re.compile(rb"\d{7,8}")  # digits of an IMDb id, with leading zeros; MovieLens ids have at most six
_HIGH = re.compile(rb"0|[6-9]|10")  # ratings that MovieLens does not have


def told_by(source: Source) -> str | None:
    """Why a source in the `::` form is MovieTweetings rather than MovieLens, in words; None where nothing says so."""
    for file in (*source.files, *source.beside):
        for cells in (line.split(b"::") for line in _head(file)):
            if len(cells) >= 3 and _WIDE_ID.fullmatch(cells[1] if len(cells) == 4 else cells[0]):
                return f"the movie ids of {file.plain_name} are as wide as IMDb's"
            if len(cells) == 4 and _HIGH.fullmatch(cells[2]) and cells[3].isdigit():
                return f"{file.plain_name} has ratings of {cells[2].decode()}"
    near = [*Path(source.name).parts[-2:], *(file.name for file in source.files)]  # a folder far above says nothing
    if any("movietweetings" in name.lower() for name in near):
        return "its path says so"
    readmes = [file for file in source.beside if file.plain_name.startswith("readme")]
    if any(b"movietweetings" in line.lower() for file in readmes for line in _head(file)):
        return "the readme beside it says so"
    return None


def _head(file: SourceFile) -> list[bytes]:
    try:
        return [line for _, line in islice(file.lines(), _SAMPLE)]
    except SourceError:
        return []  # what only stands beside the source need not be readable; the source itself is read later

"""Which dialect and form a file is in, told by what is declared, its lines and its name; and how its lines are read.

dialect        forms                                        scale
movielens      CSV with header, `::`, tabs, u.item          5
movietweetings `::`                                         10
lines          the streaming site's text lines              5
json           one event per line, as `data export` writes  each rating brings its own

A scale that is given (`data import --scale`, setting `data.scales.<dialect>`) replaces the usual one.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from conf.errors import PlainError
from events.codecs import Rules, decoded, json_fields, line_fields
from events.sources import movielens, movietweetings
from events.sources.files import Source, SourceFile
from events.sources.movielens import Parse

JSON, LINES = "json", "lines"
SCALES = {movielens.DIALECT: movielens.SCALE, movietweetings.DIALECT: movietweetings.SCALE, LINES: 5.0, JSON: 5.0}
USUAL_UNITS = {movielens.DIALECT: "seconds", movietweetings.DIALECT: "seconds", LINES: "iso", JSON: "milliseconds"}
_SAMPLE = 200  # lines that vote on the form of a file

FORMS: dict[str, re.Pattern[bytes]] = {  # a line of the form looks so; the first form with most lines wins
    "json": re.compile(rb"\s*\{"),
    "lines": re.compile(rb"[^,]*,[^,]*,\s*(GET /|recommendation request )"),
    "ratings ::": re.compile(rb"[^:\t|]+::[^:]+::[^:]+::[^:]+"),
    "movies ::": re.compile(rb"[^:\t|]+::.*::[^:]*"),
    "ratings tab": re.compile(rb"[^\t]+\t[^\t]+\t[^\t]+\t[^\t]+"),
    "movies item": re.compile(rb"[^|]+\|.*(\|[01]){19}"),
}
NAMES = {"ratings.dat": "ratings ::", "movies.dat": "movies ::", "u.data": "ratings tab", "u.item": "movies item"}
DIALECT_OF = {"json": JSON, "lines": LINES, "ratings tab": movielens.DIALECT, "movies item": movielens.DIALECT}


class DialectError(PlainError):
    """What a source holds is not known, or not what was declared; the message says what was expected and found."""


@dataclass(frozen=True)
class Reader:
    """How one file is read. `parse` gives an event's fields and its time's unit, or raises BadRecord."""

    file: SourceFile
    dialect: str
    scale: float
    text_of: Callable[[bytes], str]
    parse: Parse
    has_header: bool = False
    why: str = ""  # what told the dialect, where it could have been another


def readers(source: Source, rules: Rules, dialect: str | None, scales: Mapping[str, float]) -> list[Reader]:
    """A reader for each file that holds anything. DialectError where a form is not known or columns are wrong."""
    if dialect is not None and dialect not in SCALES:
        raise DialectError(f"unknown dialect {dialect!r}: known are {', '.join(SCALES)}")
    found = []
    for file in source.files:
        sample = [line for _, line in islice(file.lines(), _SAMPLE)]
        if sample:
            found.append(_reader(source, file, sample, rules, dialect, scales))
    if not found:
        raise DialectError(f"{source.name} is empty: there is nothing to import")
    return found


def _reader(
    source: Source,
    file: SourceFile,
    sample: Sequence[bytes],
    rules: Rules,
    declared: str | None,
    scales: Mapping[str, float],
) -> Reader:
    form = _form(file, sample, declared)
    dialect, why = _dialect(source, form, declared)
    if declared not in (None, dialect):
        raise DialectError(f"{file.name} looks like {dialect} ({form}), but {declared} was declared")
    rules = replace(rules, scale=scales.get(dialect, SCALES[dialect]))
    parse, header = _parser(form, dialect, file, sample, rules)
    latin = dialect == movielens.DIALECT and form != "csv"
    text_of = movielens.latin_or_utf8 if latin else decoded
    return Reader(file, dialect, rules.scale, text_of, parse, header, why)


def _form(file: SourceFile, sample: Sequence[bytes], declared: str | None) -> str:
    """The form that most of the sample's lines have; where none has any, the one that name or declaration implies."""
    if declared in (JSON, LINES):
        return declared
    if sample[0].startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DialectError(f"{file.name} is UTF-16 text: save it as UTF-8")
    header = sample[0].replace(b'"', b"").split(b",")
    if {b"movieId", b"userId"} & set(header):
        return "csv"
    votes = {form: sum(bool(look.match(line)) for line in sample) for form, look in FORMS.items()}
    if any(votes.values()):
        return max(votes, key=lambda form: votes[form])
    if file.plain_name.endswith(".csv"):
        return "csv"
    if named := NAMES.get(file.plain_name):
        return named
    shown = sample[0][:60].decode("utf-8", "backslashreplace")
    raise DialectError(
        f"{file.name} is in no known form; expected a header with {','.join(movielens.RATING_COLUMNS)}, `::` or tab "
        f"separated ratings, the site's text lines or JSON lines; found {shown!r}"
    )


def _dialect(source: Source, form: str, declared: str | None) -> tuple[str, str]:
    if form == "csv":
        return movielens.DIALECT, ""
    if known := DIALECT_OF.get(form):
        return known, ""
    if declared in (movielens.DIALECT, movietweetings.DIALECT):
        return declared, "as declared"
    if why := movietweetings.told_by(source):
        return movietweetings.DIALECT, why
    return movielens.DIALECT, "nothing says that it is MovieTweetings"


def _parser(form: str, dialect: str, file: SourceFile, sample: Sequence[bytes], rules: Rules) -> tuple[Parse, bool]:
    """The parser of a form, and whether the first line is a header."""
    lowest = movietweetings.LOWEST if dialect == movietweetings.DIALECT else movielens.LOWEST
    match form:
        case "json":
            return lambda text: json_fields(text, rules), False
        case "lines":
            return lambda text: line_fields(text, rules), False
        case "ratings ::":
            return movielens.ratings_separated("::", rules, dialect, lowest), False
        case "ratings tab":
            return movielens.ratings_separated("\t", rules), False
        case "movies ::":
            return movielens.movies_dat(dialect), False
        case "movies item":
            return movielens.movies_item, False
    return _csv_parser(file, sample[0], rules), True


def _csv_parser(file: SourceFile, first: bytes, rules: Rules) -> Parse:
    header = [cell.strip() for cell in first.decode("utf-8", "backslashreplace").replace('"', "").split(",")]
    is_movies = "userId" not in header and ("title" in header or file.plain_name == "movies.csv")
    columns = movielens.MOVIE_COLUMNS if is_movies else movielens.RATING_COLUMNS
    if missing := [name for name in columns if name not in header]:
        raise DialectError(
            f"{file.name} has wrong columns: expected {','.join(columns)}; found {','.join(header)[:120]} "
            f"(missing: {', '.join(missing)})"
        )
    return movielens.movies_csv(header) if is_movies else movielens.ratings_csv(header, rules)

"""The site's lines and the `::` ratings, mutated 10,000 times: every decision equals that of an independent oracle.

The oracle below is slow and obvious, written from the design's text and not from the code: it walks over characters and
counts days by itself. It says what an event is, field by field, or None: the line belongs into the dead letter.
"""

import calendar
import random
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from conf.home import Home
from events.codecs import Rules, decode, encode, encode_line, unreadable, validated
from events.event import DEAD_LETTER, AnyEvent, BadRecord, Unreadable
from events.local_log import LocalLog
from events.sources import movielens, movietweetings

LATEST = 1_790_000_000_000  # September 2026
MUTATIONS = 10_000
Fact = tuple[Any, ...] | None  # what the oracle says of a line

# The oracle -----------------------------------------------------------------------------------------------------------


def oracle_of_line(raw: bytes, scale: int) -> Fact:
    """<time>,<userid>,<what happened>, where what happened may hold commas of its own."""
    text = as_text(raw)
    if text is None or text.count(",") < 2:
        return None
    first, second = text.index(","), text.index(",", text.index(",") + 1)
    ts, user, what = moment(text[:first].strip()), text[first + 1 : second].strip(), text[second + 1 :].strip()
    if ts is None or not is_id(user):
        return None
    for read in (a_watched_minute, a_rating, an_account, a_request):
        fact = read(what, scale)
        if fact is not None:
            return (fact[0], ts, user, *fact[1:])
    return None


def oracle_of_colons(raw: bytes, lowest: Decimal, scale: int) -> Fact:
    """user::movie::rating::time, the time a number."""
    text = as_text(raw)
    cells = text.split("::") if text is not None else []
    if len(cells) != 4 or not is_id(cells[0]) or not is_id(cells[1]):
        return None
    rating, ts = as_number(cells[2]), since_1970(cells[3])
    if ts is None or rating is None or not lowest <= rating <= scale:
        return None
    return ("rating", ts, cells[0], cells[1], float(rating), float(scale))


def a_watched_minute(what: str, scale: int) -> Fact:
    begin, end = "GET /data/m/", ".mpg"
    if not what.startswith(begin) or not what.endswith(end) or len(what) < len(begin + end):
        return None
    movie, _, minute = what[len(begin) : -len(end)].rpartition("/")
    if not is_id(movie) or not only(minute, "0123456789") or Decimal(minute) > 100_000:
        return None
    return ("watch", movie, int(Decimal(minute)))


def a_rating(what: str, scale: int) -> Fact:
    movie, sign, written = what.removeprefix("GET /rate/").rpartition("=")
    rating = as_number(written)
    if not what.startswith("GET /rate/") or not sign or not is_id(movie) or rating is None or not 1 <= rating <= scale:
        return None
    return ("rating", movie, float(rating), float(scale))


def an_account(what: str, scale: int) -> Fact:
    return ("account",) if what == "GET /create_account" else None


def a_request(what: str, scale: int) -> Fact:
    """recommendation request <server>, status <status>, result: <ids>, <n> ms"""
    begin = "recommendation request "
    if not what.startswith(begin) or not what.endswith("ms"):
        return None
    server, sign, rest = what[len(begin) : -2].removesuffix(" ").partition(", status ")
    status, sign_too, rest = rest.partition(", result:")
    result, last, took = rest.removeprefix(" ").rpartition(", ")
    if not (sign and sign_too and last) or not is_id(server.strip()):
        return None
    if not only(status, "0123456789") or len(status) > 9 or not is_a_duration(took):
        return None
    if int(status) != 200:
        return ("impression", server.strip(), (), f"status {status}: {result.strip()}", float(took))
    movies = tuple(part.strip() for part in result.split(",") if part.strip())
    return ("impression", server.strip(), movies, "", float(took)) if all(map(is_id, movies)) else None


def as_text(raw: bytes) -> str | None:
    try:
        return raw.decode("utf-8").strip()
    except UnicodeDecodeError:
        return None


def only(text: str, characters: str) -> bool:
    return text != "" and all(one in characters for one in text)


def is_id(text: str) -> bool:
    return 1 <= len(text) <= 256 and not any(c.isspace() or c == "," or ord(c) < 32 or ord(c) == 127 for c in text)


def is_a_duration(text: str) -> bool:
    whole, point, part = text.partition(".")
    return only(whole, "0123456789") and len(whole) <= 12 and (not point or only(part, "0123456789"))


def as_number(text: str) -> Decimal | None:
    """Sign, digits with at most one point, exponent: nothing else is a number."""
    text = text.strip()
    mantissa, e, exponent = text.lower().partition("e")
    if e and not only(exponent[1:] if exponent[:1] in ("+", "-") else exponent, "0123456789"):
        return None
    digits = mantissa[1:] if mantissa[:1] in ("+", "-") else mantissa
    if digits.count(".") > 1 or not only(digits.replace(".", "", 1), "0123456789"):
        return None
    if e and len(exponent.lstrip("+-0")) > 4:  # beyond any range that is asked for, on either side
        return Decimal(0) if exponent.startswith("-") else Decimal("1e5000").copy_sign(Decimal(mantissa))
    return Decimal(text)


def since_1970(text: str) -> int | None:
    """A number is in the only unit that puts it between 1990 and 2100; a later moment than now is no moment."""
    number = as_number(text)
    if number is None or len(text) > 40:
        return None
    for per_second in (1, 1000, 1_000_000, 1_000_000_000):
        ms = number * 1000 / per_second
        if days(1990, 1, 1) * 86_400_000 <= ms < days(2100, 1, 1) * 86_400_000:
            ms = round(ms) if "." in text or "e" in text.lower() else int(ms)
            return ms if ms <= LATEST else None
    return None


def moment(text: str) -> int | None:
    """A number since 1970; or year-month-day, T or a space, hour:minute, maybe :second, a fraction and a zone."""
    if text[4:5] != "-":
        return since_1970(text)
    date, clock = text[:10], text[11:]
    minutes_east = 0
    if clock.endswith("Z"):
        clock = clock[:-1]
    elif "+" in clock or "-" in clock:
        at = max(clock.rfind("+"), clock.rfind("-"))
        zone = clock[at + 1 :]
        if len(zone) == 5 and zone[2] == ":":
            zone = zone[:2] + zone[3:]
        if len(zone) != 4 or not only(zone, "0123456789") or int(zone[:2]) > 23 or int(zone[2:]) > 59:
            return None
        minutes_east = (int(zone[:2]) * 60 + int(zone[2:])) * (1 if clock[at] == "+" else -1)
        clock = clock[:at]
    clock, point, fraction = clock.partition(".")
    parts = clock.split(":")
    numbers = [*date.split("-"), *parts]
    if [len(part) for part in numbers] not in ([4, 2, 2, 2, 2], [4, 2, 2, 2, 2, 2]) or text[10] not in "T ":
        return None
    if not all(only(part, "0123456789") for part in numbers):
        return None
    if point and (len(parts) != 3 or not only(fraction, "0123456789") or len(fraction) > 9):
        return None
    year, month, day, hour, minute, second = map(int, (*numbers, "0")[:6])
    if not 1 <= month <= 12 or not 1 <= day <= days_of(year, month) or hour > 23 or minute > 59 or second > 59:
        return None
    in_ms = ((days(year, month, day) * 24 + hour) * 60 + minute - minutes_east) * 60_000 + second * 1000
    in_ms += int((fraction + "000")[:3])
    return in_ms if days(1990, 1, 1) * 86_400_000 <= in_ms <= LATEST else None


def days_of(year: int, month: int) -> int:
    return 29 if month == 2 and calendar.isleap(year) else (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]


def days(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01, counted one year and one month at a time."""
    if year < 1970:
        return -1
    return (
        sum(366 if calendar.isleap(y) else 365 for y in range(1970, year))
        + sum(days_of(year, m) for m in range(1, month))
        + day
        - 1
    )


# Real-looking lines and what may happen to them -----------------------------------------------------------------------

MOVIES = ("the+matrix+1999", "m.a.s.h+1970", "x-men_2", "se7en", "what=if+2013", "été+1996", "no_year", "a/b", "9001")
MOMENTS = (
    *("2025-03-08T12:00:00", "2025-03-08T12:00:00.250001", "2025-03-08T12:00:00.250999999", "2025-03-08T12:00"),
    *("2025-03-08T23:59:59.999", "2024-02-29T00:00:00Z", "2025-03-08 12:00:00+01:00", "2025-03-08T12:00:00-0930"),
    *("1741435200", "1741435200250", "1741435200250000", "1741435200250000001", "1741435200.25"),
)
JAVA = (
    "java.net.SocketTimeoutException: Read timed out",
    "java.net.ConnectException: Connection refused (Connection refused), after 800 ms, sorry",
    "java.util.concurrent.TimeoutException",
)
EXTRA = (",", "::", "=", "/", " ", "\t", "\x00", "\n", "\r", "\u00a0", "\u2028", "\u200b", "\ufeff", "٣", "é", "🎬",
         "_", "+", "-", ".", "e", "E9", "%20", "ms", "GET /", "{", '"', "\\")  # fmt: skip
HUGE = ("9" * 12, "9" * 20, "9" * 45, "9" * 500, "9" * 5000, "0" * 30 + "7", "-1", "0", "1e400", "1e-400", "nan", "inf")
ZONES = ("Z", "z", "+02:00", "-12:00", "+14:00", "+24:00", "+0530", "+01:00:30", "[Europe/Berlin]", " UTC", "-00:00")
TIMES = (*MOMENTS, "2025-03-08", "2025-W10-6", "2025-067T12:00:00", "20250308T120000", "2025-02-30T00:00:00",
         "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00", "2025-03-08T24:00:00", "2025-03-08T23:59:60",
         "1989-12-31T23:59:59", "2100-01-01T00:00:00", "1700000000", "1700000000000", "17000000000000000000000", "12",
         "1_741_435_200", "٢٠٢٥-03-08T12:00:00", "1.7e9", "+1741435200", str(LATEST), str(LATEST + 1))  # fmt: skip


def site_lines(scale: int) -> list[str]:
    happened = [f"GET /data/m/{movie}/{minute}.mpg" for movie in MOVIES for minute in (0, 7, 118)]
    happened += [f"GET /rate/{movie}={rating}" for movie in MOVIES for rating in (1, 2.5, scale)]
    happened += ["GET /create_account"] * 5
    asked = "recommendation request team{}.example.org:8082, status"
    happened += [f"{asked.format(n)} 200, result: {', '.join(MOVIES[:n])}, {n * 7} ms" for n in range(len(MOVIES))]
    happened += [f"{asked.format(n)} 0, result: {cause}, {800 + n}.5 ms" for n in range(3) for cause in JAVA]
    return [f"{MOMENTS[n % len(MOMENTS)]},{1000 + n},{what}" for n, what in enumerate(happened)]


def colon_lines(ratings: tuple[str, ...]) -> list[str]:
    return [f"{n}::{114508 + n}::{rating}::{1_381_006_850 + n}" for n in range(20) for rating in ratings]


def mutated(line: str, chance: random.Random) -> bytes:
    """The line with one to three faults, and one in twenty with a byte that is no UTF-8."""
    for _ in range(chance.randint(1, 3)):
        line = chance.choice(FAULTS)(line, chance)
    raw = line.encode("utf-8", "surrogatepass")
    if chance.random() < 0.05:
        at = chance.randint(0, len(raw))
        raw = raw[:at] + chance.choice((b"\xff\xfe", b"\x80", b"\xc3", b"\xed\xa0\x80")) + raw[at:]
    return raw


def cut(line: str, chance: random.Random) -> str:
    at = chance.randint(0, len(line))
    return line[:at] if chance.random() < 0.7 else line[at:]


def other_digit(line: str, chance: random.Random) -> str:
    places = [n for n, one in enumerate(line) if one.isdigit()] or [0]
    at = chance.choice(places)
    return line[:at] + chance.choice("0123456789") + line[at + 1 :]


def inserted(line: str, chance: random.Random) -> str:
    at = chance.randint(0, len(line))
    return line[:at] + chance.choice(EXTRA) + line[at:]


def other_separator(line: str, chance: random.Random) -> str:
    places = [n for n, one in enumerate(line) if not one.isalnum()] or [0]
    at = chance.choice(places)
    return line[:at] + chance.choice(("", ", ", ";", ",,", line[at : at + 1] * 2, " ", "::")) + line[at + 1 :]


def huge_number(line: str, chance: random.Random) -> str:
    runs = list(re.finditer(r"\d+(\.\d+)?", line))
    run = chance.choice(runs) if runs else None
    return line[: run.start()] + chance.choice(HUGE) + line[run.end() :] if run else line


def other_time(line: str, chance: random.Random) -> str:
    _, comma, rest = line.partition(",")
    if not comma:
        return "::".join([*line.split("::")[:3], chance.choice(TIMES)])
    return chance.choice(TIMES) + comma + rest


def other_zone(line: str, chance: random.Random) -> str:
    head, comma, rest = line.partition(",")
    return head + chance.choice(ZONES) + comma + rest


def other_fraction(line: str, chance: random.Random) -> str:
    head, comma, rest = line.partition(",")
    fraction = "".join(chance.choice("0123456789") for _ in range(chance.choice((0, 1, 3, 6, 9, 10, 12))))
    return f"{head.partition('.')[0]}.{fraction}{comma}{rest}"


def an_exception(line: str, chance: random.Random) -> str:
    after = chance.choice(("", ",", ", 5 ms", "\n  at x.y(Z.java:1)"))
    result = f"status {chance.choice((0, 200, 500))}, result: {chance.choice(JAVA)}{after},"
    return re.sub(r"status \d+, result: .*,", lambda _: result, line)


def doubled(line: str, chance: random.Random) -> str:
    return line + chance.choice(("\n", "\r\n", ",", " ", "")) + line


def another_case(line: str, chance: random.Random) -> str:
    return chance.choice((str.upper, str.lower, str.title))(line)


FAULTS: tuple[Callable[[str, random.Random], str], ...] = (
    *(cut, other_digit, other_digit, inserted, inserted, other_separator, huge_number, other_time, other_time),
    *(other_zone, other_fraction, an_exception, doubled, another_case),
)

# The dialects: how each is read, and what the oracle says of it -------------------------------------------------------


def of_site(scale: int) -> Callable[[bytes, int], AnyEvent]:
    return lambda raw, n: decode(raw, "site", n, Rules(scale=scale, latest_ms=LATEST))


def of_colons(dialect: str, lowest: float, scale: float) -> Callable[[bytes, int], AnyEvent]:
    parse = movielens.ratings_separated("::", Rules(scale=scale, latest_ms=LATEST), dialect, lowest)

    def read(raw: bytes, n: int) -> AnyEvent:
        try:
            event = validated([parse(raw.decode().strip())[0]])[0]
        except (BadRecord, UnicodeDecodeError) as why:
            event = str(why)
        return unreadable(raw, "file", n, event, dialect) if isinstance(event, str) else event

    return read


DIALECTS: dict[str, tuple[list[str], Callable[[bytes, int], AnyEvent], Callable[[bytes], Fact], int]] = {
    "lines, ratings to 5": (site_lines(5), of_site(5), lambda raw: oracle_of_line(raw, 5), 4000),
    "lines, ratings to 10": (site_lines(10), of_site(10), lambda raw: oracle_of_line(raw, 10), 4000),
    "movielens": (
        colon_lines(("0.5", "3", "4.5", "5")),
        of_colons(movielens.DIALECT, movielens.LOWEST, movielens.SCALE),
        lambda raw: oracle_of_colons(raw, Decimal("0.5"), 5),
        1000,
    ),
    "movietweetings": (
        colon_lines(("0", "1", "7", "10")),
        of_colons(movietweetings.DIALECT, movietweetings.LOWEST, movietweetings.SCALE),
        lambda raw: oracle_of_colons(raw, Decimal(0), 10),
        1000,
    ),
}
assert sum(count for *_, count in DIALECTS.values()) == MUTATIONS


def fact_of(event: AnyEvent) -> Fact:
    """What the code made of a line, as the oracle says it."""
    if isinstance(event, Unreadable):
        return None
    if event.kind == "impression":
        assert (event.wall_ts, event.arm, event.k) == (event.ts, "site", len(event.items))
        return ("impression", event.ts, event.user_id, event.release, event.items, event.failure, event.latency_ms)
    given = event.model_dump(exclude={"version", "event_id", "kind", "ts", "user_id"})
    return (event.kind, event.ts, event.user_id, *given.values())  # type: ignore[union-attr]


def agree(code: Fact, oracle: Fact, raw: bytes) -> bool:
    """Equal; a time that is a number with a fraction may differ by the last millisecond, as doubles do."""
    if code is None or oracle is None:
        return code is oracle
    fraction = re.search(rb"^[0-9.eE+]+,|::[0-9.eE+]+\s*$", raw.strip())
    slack = 1 if fraction and re.search(rb"[.eE]", fraction[0]) else 0
    return abs(code[1] - oracle[1]) <= slack and (code[0], *code[2:]) == (oracle[0], *oracle[2:])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_mutated_line_is_decided_as_the_oracle_decides(dialect: str, home: Home) -> None:
    """None raises; each is stored once, as an event or in the dead letter, never both; originals are all accepted."""
    originals, read, oracle, count = DIALECTS[dialect]
    chance = random.Random(dialect)
    lines = [line.encode() for line in originals]
    lines += [mutated(chance.choice(originals), chance) for _ in range(count)]
    events = [read(raw, n) for n, raw in enumerate(lines)]
    wrong = [(raw, e, o) for raw, e in zip(lines, events, strict=True) if not agree(fact_of(e), o := oracle(raw), raw)]
    assert not wrong, f"{len(wrong)} differ; the first: {wrong[0]}"
    assert not any(isinstance(event, Unreadable) for event in events[: len(originals)])
    bad = [event for event in events if isinstance(event, Unreadable)]
    assert count / 5 < len(bad) < count * 0.95  # both ways are well trodden
    with LocalLog(home.log) as log:
        log.append_all(events)
        assert log.append_all(events).keys() == {event.topic for event in events}
        dead = {record.event.event_id for record in log.iterate(DEAD_LETTER)}
        kept = {r.event.event_id for topic in ("events", "impressions") for r in log.iterate(topic)}
    assert dead == {event.event_id for event in bad}
    assert kept == {event.event_id for event in events} - dead


@pytest.mark.parametrize("scale", [5, 10])
def test_what_was_accepted_is_written_and_read_as_the_same(scale: int) -> None:
    """From lines to events, to lines, to events; and to JSON and back."""
    chance, read = random.Random(scale), of_site(scale)
    lines = site_lines(scale)
    for line in lines + [mutated(chance.choice(lines), chance).decode("utf-8", "replace") for _ in range(1000)]:
        event = read(line.encode(), 1)
        assert decode(encode(event).encode(), "json", 1) == event
        if not isinstance(event, Unreadable):
            written = encode_line(event)  # type: ignore[arg-type]
            expected = [re.sub(r"[\r\n]+", " ", f) if isinstance(f, str) else f for f in fact_of(event) or ()]
            assert "\n" not in written
            assert list(fact_of(read(written.encode(), 1)) or ()) == expected, line


def test_a_json_line_is_never_a_reason_to_raise() -> None:
    chance = random.Random(1)
    lines = [
        '{"kind":"rating","user_id":"7","movie_id":"a+1999","rating":4,"ts":1741435200250}',
        '{"kind":"watch","user_id":"7","movie_id":"a+1999","minute":3,"ts":1741435200}',
        '{"kind":"account","user_id":"7","ts":"2025-03-08T12:00:00","event_id":"e1"}',
        '{"kind":"click","user_id":"7","movie_id":"m","request_id":null,"ts":1741435200.25}',
    ]
    hostile = ['{"kind":["rating"]}', '{"kind":{}}', '{"kind":"account","ts":[1]}', '{"a":' * 300 + "1" + "}" * 300,
               '{"kind":"account","user_id":"u","ts":1e999}', '{"kind":"account","user_id":"\\ud800","ts":1741435200}',
               '{"kind":"account","user_id":"u","ts":' + "9" * 5000 + "}", "{" * 5000]  # fmt: skip
    read = of_site(5)
    assert not any(isinstance(read(line.encode(), 1), Unreadable) for line in lines)
    assert {read(line.encode(), 1).ts % 86_400_000 for line in lines} == {43_200_000, 43_200_250}
    assert all(isinstance(read(line.encode(), 1), Unreadable) for line in hostile)
    for _ in range(2000):
        event = read(mutated(chance.choice(lines), chance), 1)
        assert decode(encode(event).encode(), "json", 1) == event

"""Gate `inputs`: is the data of a snapshot fit to learn from? Judged on its feature statistics alone.

Schema, ranges, units, missing values, duplicates, unreadable lines, volume, freshness. Anything but `pass`: no training
and no promotion on this snapshot.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from conf.sections.gates import InputsGate
from events.times import EARLIEST_MS, latest_plausible_ms
from mlflow_server.ledger import Decision
from monitoring.gates.verdict import Check, decide, failed, fold, passed

GATE = "inputs"
SCHEMA = {
    "user": "int32",
    "item": "int32",
    "time": "int64",
    "strength": "float",
    "id": "string",
    "title": "string",
    "genres": "list<element: string>",
}
DAY_MS = 86_400_000


@dataclass(frozen=True)
class InputsEvidence:
    """What the verdict rests on. Counts, shares of 1, times in ms; NaN where the snapshot has no such number."""

    snapshot: str  # its id
    schema: Mapping[str, str]
    interactions: float
    viewers: float
    items: float  # movies that anyone interacted with
    lowest: float  # strength
    highest: float
    not_finite_share: float
    missing_share: float  # of movies without title or genre
    duplicate_share: float  # of interactions that repeat viewer, movie and time
    unreadable_share: float  # of all lines read
    start_ms: float
    newest_ms: float
    now_ms: float  # the home's clock
    latest_ms: float  # what no event may be later than: wall time and five minutes
    no_catalogue: bool = False  # not one movie has a title or a genre: no catalogue was imported

    @classmethod
    def of(cls, snapshot: str, statistics: Mapping[str, Any], now_ms: int) -> "InputsEvidence":
        """From a snapshot's id and statistics.json, and the home's now."""
        interactions, unreadable = statistics["interactions"], statistics["unreadable"]
        quantiles, nan = statistics["strength"]["quantiles"], float("nan")
        return cls(
            snapshot=snapshot,
            schema=statistics["schema"],
            interactions=interactions,
            viewers=statistics["users"],
            items=statistics["movies_seen"],
            lowest=quantiles.get("0", nan),
            highest=quantiles.get("1", nan),
            not_finite_share=statistics["missing"]["strength"],
            missing_share=statistics["missing"]["either"],
            duplicate_share=statistics["same_moment"] / interactions if interactions else nan,
            unreadable_share=unreadable / max(1, statistics["events"] + unreadable),
            start_ms=statistics["start_ms"],
            newest_ms=statistics["newest_ms"],
            now_ms=now_ms,
            latest_ms=latest_plausible_ms(),
            no_catalogue=statistics["missing"]["title"] == statistics["missing"]["genres"] == 1.0,
        )


def judge(evidence: InputsEvidence, conf: InputsGate) -> Decision:
    """The verdict on a snapshot; it stands as long as the snapshot does."""
    checks = [*_form(evidence), *_content(evidence, conf), *_volume(evidence, conf), _freshness(evidence, conf)]
    return fold(GATE, checks, subject=evidence.snapshot, evidence={"snapshot": evidence.snapshot})


def _form(seen: InputsEvidence) -> Iterator[Check]:
    wrong = [
        f"{name} is {seen.schema.get(name, 'missing')}" for name in SCHEMA if seen.schema.get(name) != SCHEMA[name]
    ]
    yield failed("schema", "columns differ: " + ", ".join(wrong)) if wrong else passed("schema", "columns as declared")
    yield decide("lowest_strength", seen.lowest, at_least=0.0, what="the lowest strength")
    yield decide("highest_strength", seen.highest, at_most=1.0, what="the highest strength")
    yield decide("finite_strength", seen.not_finite_share, at_most=0.0, what="the share of strengths without a number")
    yield _time("first_time", seen.start_ms, seen)
    yield _time("newest_time", seen.newest_ms, seen)


def _time(name: str, moment_ms: float, seen: InputsEvidence) -> Check:
    """In milliseconds: a time in another unit falls before 1990 or after now."""
    if EARLIEST_MS <= moment_ms <= seen.latest_ms:
        return passed(name, f"{name} is between 1990 and now")
    return failed(name, f"{name} {moment_ms:.0f} ms is not between 1990 and now: another unit, or a wrong clock")


def _content(seen: InputsEvidence, conf: InputsGate) -> Iterator[Check]:
    yield _metadata(seen, conf)
    for name, share, limit, what in (
        ("duplicates", seen.duplicate_share, conf.max_duplicate_share, "the share of repeated interactions"),
        ("unreadable", seen.unreadable_share, conf.max_unreadable_share, "the share of unreadable lines"),
    ):
        yield decide(name, share, at_most=limit, what=what)


def _metadata(seen: InputsEvidence, conf: InputsGate) -> Check:
    """Titles are not needed to learn: none at all is a choice, many missing beside some are a fault of the source."""
    if seen.no_catalogue:
        return passed("missing", "no movie has a title or genres, so slates will carry ids only: import a catalogue")
    what = "the share of movies without title or genre"
    return decide("missing", seen.missing_share, at_most=conf.max_missing_share, what=what)


def _volume(seen: InputsEvidence, conf: InputsGate) -> Iterator[Check]:
    for name, count, limit in (
        ("interactions", seen.interactions, conf.min_interactions),
        ("viewers", seen.viewers, conf.min_viewers),
        ("items", seen.items, conf.min_items),
    ):
        yield decide(name, count, at_least=limit, what=f"the number of {name}")


def _freshness(seen: InputsEvidence, conf: InputsGate) -> Check:
    age_days = (seen.now_ms - seen.newest_ms) / DAY_MS
    return decide("freshness", age_days, at_most=conf.max_age_days, what="the age of the newest interaction in days")

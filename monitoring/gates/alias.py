"""May this release stand under this alias? The table of the gates and how long each verdict is valid, as one function.

    challenger   inputs, offline and infra pass; none other is in its A/B
    champion     those and online, won against the champion of today; or the release is `previous`: a rollback
    previous     never set by hand: it is the champion before this one

The first champion is decided by training alone, without an A/B: nobody could be compared with anybody before it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from mlflow_server.ledger import Decision
from monitoring.gates.verdict import Check, cannot_say, failed, fold, passed

GATE = "alias"
SCREEN = ("inputs", "offline", "infra")
AGAINST = ("champion", "popularity")  # the names under which a decision's evidence says whom it was compared with
TRAIN = "greenlight train makes and judges a new one"
AB = "only a passed A/B makes a champion: greenlight promote {version} --alias challenger lets it into one"


@dataclass(frozen=True)
class Standing:
    """A release that stands under an alias."""

    version: int
    release: str


@dataclass(frozen=True)
class AliasEvidence:
    """One release that is wanted under one alias, and everything that speaks for or against it.

    decisions: the newest of each gate, on the release and on its snapshot, by gate; now_ms: the home's now;
    first: training asks, to decide the first champion.
    """

    alias: str
    version: int
    release: str
    champion: Standing | None = None
    challenger: Standing | None = None
    previous: Standing | None = None
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    now_ms: int = 0
    first: bool = False


Move = Literal["nothing", "rollback", "promotion"]


def move(e: AliasEvidence) -> Move:
    """What it would be for the ledger. `nothing`: the release stands there already."""
    held = {"champion": e.champion, "challenger": e.challenger}.get(e.alias)
    if held and held.release == e.release:
        return "nothing"
    if e.alias == "champion" and e.previous and e.previous.release == e.release:
        return "rollback"
    return "promotion"


def judge(e: AliasEvidence) -> Decision:
    """The decision on one wish. Only `pass` opens; a missing, expired or outdated verdict of a gate never does."""
    if e.alias in QUESTIONS and (known := move(e)) != "promotion":
        words = {"nothing": f"version {e.version} is {e.alias} already", "rollback": "it is the champion before this"}
        checks = [passed(known, words[known])]
    elif e.alias in QUESTIONS and (early := champion_decided(e)).verdict != "pass":
        checks = [early]
    else:
        checks = [question(e) for question in QUESTIONS.get(e.alias, (settable,))]
    ids = {"alias": e.alias} | ({"champion": e.champion.release} if e.champion else {})
    return fold(GATE, checks, subject=e.release, evidence=ids)


# Who stands where -----------------------------------------------------------------------------------------------------


def settable(e: AliasEvidence) -> Check:
    if e.alias in QUESTIONS:
        return passed("settable", f"{e.alias} may be set")
    if e.alias == "previous":
        reason = (
            "previous is never set by hand: it is the champion before this one; greenlight rollback goes back to it"
        )
        return failed("settable", reason)
    return failed("settable", f"no alias {e.alias!r}: name champion or challenger")


def champion_decided(e: AliasEvidence) -> Check:
    """There is a champion, or training decides the first one now."""
    if e.champion is None and not e.first:
        return cannot_say("champion_decided", "there is no champion yet: greenlight train decides the first one")
    if e.champion is not None and e.first:
        return failed("champion_decided", f"version {e.champion.version} is the first champion already")
    return passed("champion_decided", "it is decided who is champion")


def not_the_champion(e: AliasEvidence) -> Check:
    if e.champion and e.champion.release == e.release:
        return failed("not_the_champion", f"version {e.version} is the champion: it cannot challenge itself")
    return passed("not_the_champion", "another one is champion")


def place_is_free(e: AliasEvidence) -> Check:
    """A newer challenger waits."""
    if e.challenger and e.challenger.release != e.release:
        reason = f"version {e.challenger.version} is in its A/B; version {e.version} waits until that one is decided"
        return failed("place_is_free", reason)
    return passed("place_is_free", "no other challenger stands")


# The gates ------------------------------------------------------------------------------------------------------------


def inputs(e: AliasEvidence) -> Check:
    return _opened(e, "inputs", TRAIN)


def infra(e: AliasEvidence) -> Check:
    return _opened(e, "infra", TRAIN)


def offline(e: AliasEvidence) -> Check:
    """Compared with the champion of today; before there is one, with anybody."""
    return _opened(e, "offline", TRAIN, against_champion=e.champion is not None)


def online(e: AliasEvidence) -> Check:
    """Won against the champion of today, and not too long ago. The first champion has nobody to win against."""
    if e.first:
        return passed("online", "nobody was served before the first champion")
    help_ = AB.format(version=e.version)
    decision = e.decisions.get("online")
    if decision and decision.verdict == "pass" and decision.valid_until_ms is None:
        return cannot_say("online", f"gate online names no day until which its verdict is valid; {help_}")
    return _opened(e, "online", help_, against_champion=True)


def _opened(e: AliasEvidence, gate: str, help_: str, *, against_champion: bool = False) -> Check:
    """Whether the newest verdict of a gate is `pass` and still valid; the reason names gate, verdict, why and help."""
    decision = e.decisions.get(gate)
    if decision is None:
        return cannot_say(gate, f"gate {gate} has not judged version {e.version}; {help_}")
    if decision.verdict != "pass":
        said = failed if decision.verdict == "fail" else cannot_say
        return said(gate, f"gate {gate} says {decision.verdict}: {decision.reason}; {help_}")
    if decision.observed is not None and not math.isfinite(decision.observed):
        return cannot_say(gate, f"gate {gate} says pass on {decision.observed}, which is no number; {help_}")
    if decision.valid_until_ms is not None and e.now_ms > decision.valid_until_ms:
        days = (e.now_ms - decision.valid_until_ms) / 86_400_000
        return failed(gate, f"gate {gate} says pass, valid until {days:.1f} days ago; {help_}")
    if against_champion and (why := _outdated(e, decision)):
        return failed(gate, f"gate {gate} says pass, {why}; {help_}")
    return passed(gate, f"gate {gate} says pass")


def _outdated(e: AliasEvidence, decision: Decision) -> str:
    """Why a comparison does not count today, or nothing."""
    with_whom = next((decision.evidence[name] for name in AGAINST if decision.evidence.get(name)), None)
    if with_whom is None:
        return "but not against whom"
    if e.champion is None or with_whom != e.champion.release:
        today = f"version {e.champion.version} ({e.champion.release[:8]})" if e.champion else "nobody"
        return f"but against {with_whom[:8]}, and {today} is champion now"
    return ""


Question = Callable[[AliasEvidence], Check]
QUESTIONS: dict[str, tuple[Question, ...]] = {
    "challenger": (settable, champion_decided, not_the_champion, place_is_free, inputs, offline, infra),
    "champion": (settable, champion_decided, inputs, offline, infra, online),
}

"""Who is in charge after a training: the first champion where there is none; later, at most a challenger."""

import getpass
from collections.abc import Sequence
from dataclasses import dataclass

from conf.home import Home
from mlflow_server.ledger import Entry
from mlflow_server.shown import signed
from models.ranking import Interval
from pipelines.attempt import Attempt, Work
from pipelines.promote import deciding
from pipelines.trained import Trained


@dataclass(frozen=True)
class Succession:
    """Who takes which alias, or why nobody does."""

    winner: Trained | None
    alias: str
    rule: str


def succeed(
    home: Home,
    work: Work,
    trained: Sequence[Trained],
    attempts: Sequence[Attempt],
    chosen: Attempt | None,
    old: Entry | None,
) -> Succession:
    """Decide and promote. `old` is the promotion of the champion, None where there is none; popularity comes first."""
    best = trained[attempts.index(chosen)] if chosen else None
    best = best if best and best.state == "passed" else None
    if old is None:
        ahead = _ahead(work, chosen, attempts[0])
        decided = _first_champion(best, trained[0], ahead)
    else:
        decided = _challenger(best, old)
    if decided.winner and (why := _promote(home, work, decided, decided.winner, first=old is None)):
        return Succession(None, decided.alias, why)
    return decided


def _challenger(best: Trained | None, old: Entry) -> Succession:
    if best is None:
        return Succession(None, "challenger", "no candidate passed its gates")
    if best.release == old.body["release"]:
        return Succession(None, "challenger", "the best candidate is the champion itself")
    return Succession(best, "challenger", "passed the offline and infra gates; the A/B test decides")


def _first_champion(best: Trained | None, popularity: Trained, ahead: Interval | None) -> Succession:
    """Decided once, before the first impression: the chosen one if it surely beats popularity on test."""
    why = "no candidate passed its gates"
    if best and ahead:
        numbers = f"{best.name} against popularity on the test window: {signed(ahead)} NDCG@10"
        if ahead.low > 0:
            return Succession(best, "champion", f"first champion: {numbers}, lower bound above 0")
        why = f"{numbers}, lower bound not above 0"
    if popularity.state == "passed":
        return Succession(popularity, "champion", f"first champion: popularity, since {why}")
    return Succession(None, "champion", "")


def _ahead(work: Work, chosen: Attempt | None, yardstick: Attempt) -> Interval | None:
    """How far the chosen one is ahead of popularity on the test window, where both were there."""
    if chosen and chosen.test and yardstick.test:
        return work.difference(chosen.test, yardstick.test)
    return None


def _promote(home: Home, work: Work, decided: Succession, winner: Trained, *, first: bool) -> str:
    """One ledger line, unless it stands there already. Judged like any other wish; why not, or nothing."""
    with deciding(home, work.settings) as chair:
        wanted = chair.registered(winner.version or 0)
        told = chair.wish(wanted, decided.alias, getpass.getuser(), rule=decided.rule, first=first)
    return "" if told.accepted else told.sentence.rstrip(".")

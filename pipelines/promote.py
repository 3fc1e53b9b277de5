"""`greenlight promote` and `rollback`: who is in charge, decided on the ledger alone, so that MLflow may be down.

Whoever decides (these verbs, training, the reconcile loop) holds one lock, judges by the alias gate on signed entries,
checks the release's files, and writes one line. Aliases in MLflow follow: see `pipelines.reconcile`.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from events.clock import now_ms
from mlflow_server.depot import Depot
from mlflow_server.in_charge import standing
from mlflow_server.ledger import Decision, Entry, Ledger
from mlflow_server.release import ReleaseError, verify
from monitoring.experiment import Plan, listed
from monitoring.gates import alias as gate
from monitoring.gates.alias import AliasEvidence, Standing

MOVES = ("promotion", "rollback", "withdrawal", "refusal")  # kinds of entry that say what became of a wish


class PromoteError(PlainError):
    """The wish makes no sense: no such version, or nothing to go back to."""


@dataclass(frozen=True)
class Outcome:
    """How a wish ended. `entry` is the line that it left in the ledger; None where there was nothing to do."""

    accepted: bool
    kind: Literal["promotion", "rollback", "withdrawal", "nothing", "refusal"]
    alias: str
    version: int
    release: str
    sentence: str
    entry: Entry | None = None


def promote(home: Home, settings: Settings, version: int, alias: str = "champion", *, actor: str) -> Outcome:
    """Put a version under an alias, if the alias gate allows. PromoteError where there is no such version."""
    with deciding(home, settings) as chair:
        return chair.wish(chair.registered(version), alias, actor)


def rollback(home: Home, settings: Settings, *, actor: str, reason: str = "") -> Outcome:
    """Go back to the champion before this one. A refusal where there is none, or its files are damaged."""
    with deciding(home, settings) as chair:
        previous = chair.in_charge.get("previous")
        if previous is None:
            champion = chair.in_charge.get("champion")
            words = f"version {champion.body['version']} is the first champion" if champion else "there is no champion"
            return Outcome(False, "nothing", "champion", 0, "", f"There is nothing to go back to: {words}.")
        return chair.back(previous, actor, f"rollback by {actor}" + (f": {reason}" if reason else ""))


@contextmanager
def deciding(home: Home, settings: Settings) -> Iterator["Chair"]:
    """The chair, for as long as one decision takes: one holder at a time, in any process.

    LedgerError where the ledger does not hold: nothing is decided on entries that were altered.
    """
    with (home.root / "promote.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield Chair(home, settings)


class Chair:
    """Decides while it is held. Reads the whole ledger, checked, when it is taken."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self.home, self.depot, self.settings = home, Depot(home, settings.storage), settings
        self.ledger = Ledger.to_write(home.ledger, home.keys)
        self.ledger.verify()
        self.entries = list(self.ledger.entries())
        self.now = now_ms(home, settings)

    @property
    def in_charge(self) -> dict[str, Entry]:
        return standing(self.entries)

    def registered(self, version: int) -> Entry:
        """The newest release that was registered under a number: numbers recur after a restore of MLflow."""
        found = [e for e in self.entries if e.kind == "registered" and e.body["version"] == version]
        if not found:
            known = sorted({e.body["version"] for e in self.entries if e.kind == "registered"})
            words = f"the ledger knows {', '.join(map(str, known))}" if known else "greenlight train makes the first"
            raise PromoteError(f"there is no version {version}: {words}")
        return found[-1]

    def wish(
        self, made: Entry, alias: str, actor: str, *, rule: str = "", first: bool = False, plan: Plan | None = None
    ) -> Outcome:
        """Judge one wish and write what came of it. `made` is the `registered` entry of what is wanted.

        rule: how training or an A/B decided; first: training decides the first champion; plan: of the experiment that a
        challenger begins, as the settings have it where none is given.
        """
        evidence, seqs = self._evidence(made, alias, first)
        move, decision = gate.move(evidence), gate.judge(evidence)
        version, release, name = made.body["version"], made.body["release"], named(made.body)
        if move == "nothing" and decision.verdict == "pass":
            return Outcome(True, "nothing", alias, version, release, f"{name} is {alias} already.")
        if decision.verdict != "pass":
            return self._refused(made, alias, actor, gate.GATE, decision)
        if fault := self._fault(release):
            return self._refused(made, alias, actor, "release", fault)
        if move == "rollback":
            return self._went_back(made.body, actor, f"rollback by {actor}")
        rule = rule or f"gates {listed([c['name'] for c in decision.checks if c['name'] in seqs])} passed"
        before = self.in_charge.get(alias)
        body = {"version": version, "release": release, "alias": alias, "rule": rule}
        body |= {"from": before.body["version"] if before else None, "evidence": seqs}
        if alias == "challenger":
            body["experiment"] = self._declare(made, plan, actor).hash
        return self._wrote("promotion", body, actor, f"{name} is {alias}: {rule}.")

    def back(self, target: Entry, actor: str, rule: str) -> Outcome:
        """Take the champion back to a former one."""
        made = self.origin(target.body)
        if fault := self._fault(target.body["release"]):
            return self._refused(made, "champion", actor, "release", fault)
        return self._went_back(made.body, actor, rule)

    def withdraw(self, actor: str, rule: str) -> Outcome:
        """Take the challenger out of its A/B."""
        body = {k: self.in_charge["challenger"].body[k] for k in ("version", "release", "alias")}
        words = f"{named(self.origin(body).body)} is challenger no more: {rule}."
        return self._wrote("withdrawal", {**body, "rule": rule}, actor, words)

    def refuse(self, body: dict[str, Any], alias: str, actor: str, why_gate: str, reason: str) -> Entry:
        """Write that a release may not stand under an alias, and why. The same again at once is not written twice."""
        facts = {"model": body.get("model"), "version": body.get("version"), "release": body.get("release")}
        facts |= {"alias": alias, "gate": why_gate, "reason": reason}
        about = [e for e in self.entries if e.kind in MOVES and e.body.get("alias") == alias]
        if about and (about[-1].kind, about[-1].actor, about[-1].body) == ("refusal", actor, facts):
            return about[-1]
        return self.append("refusal", facts, actor)

    # Small parts ------------------------------------------------------------------------------------------------------

    def _evidence(self, made: Entry, alias: str, first: bool) -> tuple[AliasEvidence, dict[str, int]]:
        """What the gate asks, and the seq of each gate's newest decision."""
        subjects = (made.body["release"], made.body["snapshot"])
        newest = {e.body["gate"]: e for e in self.entries if e.kind == "decision" and e.body["subject"] in subjects}
        decisions = {g: Decision(**{**e.body, "checks": tuple(e.body["checks"])}) for g, e in newest.items()}
        held = {a: Standing(e.body["version"], e.body["release"]) for a, e in self.in_charge.items()}
        version, release = made.body["version"], made.body["release"]
        evidence = AliasEvidence(alias, version, release, **held, decisions=decisions, now_ms=self.now, first=first)
        return evidence, {g: e.seq for g, e in newest.items()}

    def _declare(self, made: Entry, plan: Plan | None, actor: str) -> Entry:
        """Write what the experiment will ask, before anybody is in it. Every way to a challenger leads through here."""
        champion = self.in_charge["champion"].body
        plan = plan or Plan.from_settings("", self.settings.experiment)
        plan = replace(plan, name=plan.name or f"version {made.body['version']} against version {champion['version']}")
        body = {"plan": asdict(plan), "digest": plan.digest(), "salt": "hash of the promotion that follows"}
        body |= {name: made.body[name] for name in ("version", "release", "run_id")}
        body |= {"champion": champion["release"], "champion_version": champion["version"]}
        return self.append("experiment", body, actor)

    def origin(self, body: dict[str, Any]) -> Entry:
        """The `registered` entry of a release that stands somewhere."""
        found = [e for e in self.entries if e.kind == "registered" and e.body["release"] == body["release"]]
        if not found:
            raise PromoteError(f"release {body['release'][:12]} was never registered: greenlight ledger --verify")
        return found[-1]

    def _fault(self, release: str) -> str:
        """Why the files of a release may not be served, or nothing."""
        try:
            verify(self.depot.folder(release), self.ledger.key.public)
        except ReleaseError as why:
            return str(why)
        return ""

    def _went_back(self, made: dict[str, Any], actor: str, rule: str) -> Outcome:
        left = self.in_charge["champion"].body["version"]
        body = {"version": made["version"], "release": made["release"], "alias": "champion", "rule": rule, "from": left}
        return self._wrote("rollback", body, actor, f"{named(made)} is champion again, after version {left}: {rule}.")

    def _refused(self, made: Entry, alias: str, actor: str, why_gate: str, why: Decision | str) -> Outcome:
        reason = why if isinstance(why, str) else why.reason
        entry = self.refuse(made.body, alias, actor, why_gate, reason)
        words = f"{named(made.body)} cannot be {alias}: {reason}."
        return Outcome(False, "refusal", alias, made.body["version"], made.body["release"], words, entry)

    def _wrote(
        self, kind: Literal["promotion", "rollback", "withdrawal"], body: dict[str, Any], actor: str, sentence: str
    ) -> Outcome:
        entry = self.append(kind, body, actor)
        return Outcome(True, kind, body["alias"], body["version"], body["release"], sentence, entry)

    def append(self, kind: str, body: dict[str, Any], actor: str) -> Entry:
        """Write one line, dated the moment at which the chair was taken."""
        self.entries.append(self.ledger.append(kind, body, actor=actor, ts=self.now))
        return self.entries[-1]


def named(made: dict[str, Any]) -> str:
    """A version in words, from the body of its `registered` entry."""
    return f"Version {made['version']} ({made['model']})"

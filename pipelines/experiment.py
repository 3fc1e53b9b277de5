"""`greenlight experiment`: from a declared challenger to a verdict, and what the verdict asks for.

A plan is a line of the ledger ("experiment") before the line that makes the challenger: `Chair.wish` writes both, so
every way to a challenger leads through a plan. Each look reads the log and the archive, and keeps what it saw for the
picture. The look that ends it writes the line "verdict", the online gate's decision, a promotion or withdrawal, and a
letter to the lead; each once, so that who was killed between two of them is completed by the next.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from conf.environment import lead_mlflow
from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from events.clock import now_ms
from events.disk import write_whole
from mlflow_server.in_charge import standing
from mlflow_server.ledger import Decision, Entry, Ledger
from mlflow_server.pages import Pages, PagesError
from monitoring import sequence
from monitoring.experiment import Look, PerUser, Plan, Verdict, look, plain
from monitoring.gates import online
from monitoring.mail import stamped
from monitoring.outcomes import Viewers, per_viewer
from pipelines import outbox, verdict_letter
from pipelines.loop import read_json, write_json
from pipelines.outcomes import slates_between
from pipelines.promote import Chair, Outcome, deciding

log = logging.getLogger("greenlight.experiment")

SETTLING_MS = 60_000  # after the promotion, until every worker serves both arms: who meets both counts for neither
DAY_MS = 86_400_000
LOOKS = "looks.jsonl"


class ExperimentError(PlainError):
    """There is no experiment of which that could be asked."""


@dataclass(frozen=True)
class Course:
    """One experiment as the ledger tells it: its plan, the promotion that began it, how it ended."""

    declared: Entry
    begun: Entry
    verdict: Entry | None
    decided: bool  # the online gate's decision stands in the ledger, too
    challenging: bool  # its challenger still stands

    @property
    def id(self) -> str:
        return self.declared.hash

    @property
    def plan(self) -> Plan:
        return Plan.of(self.declared.body["plan"])

    @property
    def since_ms(self) -> int:
        """From when on slates count, on the home's clock."""
        return self.begun.ts + SETTLING_MS

    @property
    def until_ms(self) -> int:
        """The moment at which its declared maximum is reached."""
        return self.begun.ts + round(self.plan.max_days * DAY_MS)


@dataclass(frozen=True)
class Standing:
    """How the newest experiment stands. looks: as `Look.body()`, with `ts` of the home's clock, oldest first.

    verdict: None while it is not final; valid_until_ms: of a victory that waits for the lead.
    """

    state: Literal["none", "running", "ended"]
    sentence: str
    id: str = ""
    plan: Plan | None = None
    version: int | None = None
    champion_version: int | None = None
    run: str = ""  # of the challenger, in MLflow
    looks: tuple[dict[str, Any], ...] = ()
    verdict: Verdict | None = None
    valid_until_ms: int | None = None


def start(home: Home, settings: Settings, version: int, *, actor: str, plan: Plan) -> Outcome:
    """Declare a plan and make a version challenger, if the alias gate allows."""
    with deciding(home, settings) as chair:
        return chair.wish(chair.registered(version), "challenger", actor, plan=plan)


def advance(home: Home, settings: Settings, *, auto: bool, actor: str) -> Standing:
    """Look, and where that ends it, write the verdict and do what it asks for. auto: promote without the lead."""
    if (looked_at := course(_read(home))) is None:
        return kept(home)
    seen = _look(home, settings, looked_at)
    with deciding(home, settings) as chair:
        found = course(chair.entries)
        if found and found.id == looked_at.id:  # else another one began while this one was looked at
            if found.verdict is None and (ended := _ending(chair, found, seen)):
                found = _end(chair, found, *ended, actor)
            if found.verdict:
                _settle(chair, found, found.verdict, auto, actor)
        _tell(chair)
    return kept(home)


def status(home: Home, settings: Settings) -> Standing:
    """Look, without ending anything."""
    _look(home, settings, course(_read(home)))
    return kept(home)


def stop(home: Home, settings: Settings, *, actor: str, reason: str = "") -> Standing:
    """End the running experiment with `cannot say`, or give up its victory; its challenger is withdrawn."""
    rule = f"stopped by {actor}" + (f": {plain(reason)}" if reason else "")
    with deciding(home, settings) as chair:
        if "challenger" not in chair.in_charge:
            raise ExperimentError("no experiment runs: greenlight experiment start VERSION begins one")
        found = course(chair.entries)
        if found and found.challenging and found.verdict is None:
            found = _end(chair, found, "cannot say", rule, None, actor)
            if found.verdict:
                _settle(chair, found, found.verdict, False, actor)
        else:
            chair.withdraw(actor, rule)
        _tell(chair)
    return kept(home)


def course(entries: Sequence[Entry]) -> Course | None:
    """The newest experiment that began; None where none has."""
    begun = next((e for e in reversed(entries) if e.kind == "promotion" and "experiment" in e.body), None)
    if begun is None:
        return None
    declared = next(e for e in entries if e.hash == begun.body["experiment"])
    later = [e for e in entries if e.seq > begun.seq]
    verdict = next((e for e in later if e.kind == "verdict" and e.body["experiment"] == declared.hash), None)
    decided = any(e.kind == "decision" and e.body["evidence"].get("experiment") == declared.hash for e in later)
    challenger = standing(entries).get("challenger")
    return Course(declared, begun, verdict, decided, challenger is not None and challenger.seq == begun.seq)


def kept(home: Home) -> Standing:
    """How the newest experiment stands, by the ledger and the looks that were kept: reads files only."""
    entries = _read(home)
    found = course(entries)
    if found is None:
        return Standing("none", "No experiment has begun: greenlight experiment start VERSION begins one.")
    looks, verdict = tuple(_looks(home, found.id)), found.verdict
    told = {"id": found.id, "plan": found.plan, "version": found.begun.body["version"], "looks": looks}
    told |= {"champion_version": found.declared.body["champion_version"], "run": found.declared.body["run_id"]}
    against = f"Version {told['version']} against version {told['champion_version']}"
    if verdict is None and found.challenging:
        reason = looks[-1]["reason"] if looks else "not final: nobody has looked yet"
        if looks and looks[-1]["verdict"]:
            reason = f"{looks[-1]['verdict']}, since {reason}; greenlight experiment advance makes it final"
        return Standing("running", f"{against}: {reason}.", **told)
    if verdict is None:
        return Standing(
            "ended", f"{against}: cannot say, since its challenger was withdrawn.", **told, verdict="cannot say"
        )
    said, until = verdict.body["verdict"], verdict.body["decision"]["valid_until_ms"]
    sentence = f"{against}: {said}, since {verdict.body['reason']}."
    if not (said == "promote" and found.challenging):
        return Standing("ended", sentence + _in_vain(entries, verdict), **told, verdict=said)
    sentence += f" It waits for the lead: greenlight promote {told['version']}."
    return Standing("ended", sentence, **told, verdict=said, valid_until_ms=until)


def _in_vain(entries: Sequence[Entry], verdict: Entry) -> str:
    """What became of a victory that made no champion, as a sentence; nothing otherwise."""
    later = [e for e in entries if e.seq > verdict.seq and e.body.get("release") == verdict.body["release"]]
    gone = next((e for e in later if e.kind == "withdrawal"), None)
    won = verdict.body["verdict"] == "promote"
    return f" It was withdrawn all the same: {gone.body['rule']}." if won and gone else ""


# Looking --------------------------------------------------------------------------------------------------------------


def _look(home: Home, settings: Settings, found: Course | None) -> Look | None:
    """One look at what runs, kept for the picture; None where nothing runs or it has not begun."""
    if found is None or found.verdict or not found.challenging:
        return None
    until = min(now_ms(home, settings), found.until_ms)
    if until <= found.since_ms:
        return None
    plan = found.plan
    asked = {"window_hours": plan.window_hours, "max_slates_per_user_day": plan.max_slates_per_user_day}
    settings = settings.model_copy(update={"experiment": settings.experiment.model_copy(update=asked)})
    slates = slates_between(home, settings, since_ms=found.since_ms, until_ms=until + 1)
    viewers = per_viewer(slates, settings.experiment)
    arms = (arm_of(viewers, name) for name in ("champion", "challenger"))
    seen = look(plan, *arms, days=(until - found.begun.ts) / DAY_MS)
    _keep(home, found, {"ts": until, **seen.body(), "left_out": asdict(viewers.left_out)})
    return seen


def arm_of(viewers: Viewers, arm: str) -> PerUser:
    """The viewers of one arm, with the mean of everything that may be compared or guarded."""
    rows = viewers.arms == arm
    means = {name: viewers.means(name).mean[rows] for name in ("likes", "clicks", "watch_minutes")}
    served = 1 - viewers.means("fallbacks").mean[rows]
    return PerUser(tuple(viewers.users[rows].tolist()), {**means, "served": served})


def folder(home: Home, experiment: str) -> Path:
    """Where the looks and the picture of an experiment are kept."""
    return home.reports / f"experiment-{experiment[:16]}"


def draw(home: Home, settings: Settings, seen: Standing) -> tuple[Path | None, str]:
    """Draw the sequence into a file and the challenger's run in MLflow. The file, and what kept it from the run.

    Importing MLflow takes seconds, so a picture that is there and in the run already is left as it is.
    """
    if seen.plan is None or not seen.looks:
        return None, ""
    file, note = (folder(home, seen.id) / name for name in ("sequence.png", "drawn.json"))
    drawn = {"looks": len(seen.looks), "says": seen.sentence}
    if file.exists() and read_json(note) == drawn:
        return file, ""
    write_whole(file, sequence.picture(seen.plan, seen.looks, seen.sentence))
    if trouble := _attach(home, settings, seen, file):
        return file, f"it is not in MLflow: {trouble}"
    write_json(note, drawn)
    return file, ""


def _attach(home: Home, settings: Settings, seen: Standing, file: Path) -> str:
    """Put the picture and the sentence into the challenger's run; why that cannot be, or nothing."""
    lead_mlflow(settings.storage)
    pages = Pages(home, settings.registry.name)
    try:
        pages.attach(seen.run, file, "experiment", {"experiment": seen.sentence})
    except (PagesError, OSError) as why:
        return str(why)
    finally:
        pages.close()
    return ""


def _keep(home: Home, found: Course, seen: dict[str, Any]) -> None:
    """Append a look, unless the home's clock has not moved since the last."""
    if seen["ts"] == max((one["ts"] for one in _looks(home, found.id)), default=None):
        return
    place = folder(home, found.id)
    place.mkdir(parents=True, exist_ok=True)
    with (place / LOOKS).open("a") as file:
        file.write(json.dumps(seen, allow_nan=False) + "\n")


def _looks(home: Home, experiment: str) -> Iterator[dict[str, Any]]:
    """The looks that were kept. A line that was torn is passed over: it is only missing in the picture."""
    try:
        lines = (folder(home, experiment) / LOOKS).read_text().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _read(home: Home) -> list[Entry]:
    return list(Ledger.to_read(home.ledger, home.keys).entries())


# Ending ---------------------------------------------------------------------------------------------------------------


def _ending(chair: Chair, found: Course, seen: Look | None) -> tuple[Verdict, str, Look | None] | None:
    """The verdict, why, and the look that led to it; None while it goes on."""
    if trouble := _trouble(chair, found):
        return "cannot say", trouble, seen
    if seen and seen.verdict:
        return seen.verdict, seen.reason, seen
    return None


def _trouble(chair: Chair, found: Course) -> str:
    """What makes all that was measured worthless, or nothing."""
    later = [e for e in chair.entries if e.seq > found.begun.seq]
    if not found.challenging:
        gone = [e for e in later if e.kind == "withdrawal" and e.body["release"] == found.begun.body["release"]]
        return f"its challenger was withdrawn: {gone[0].body['rule']}" if gone else "its challenger stands no longer"
    champion, declared = chair.in_charge["champion"].body, found.declared.body
    if champion["release"] != declared["champion"]:
        return f"version {declared['champion_version']} was champion, and version {champion['version']} is now"
    judged = [e for e in later if e.kind == "decision" and e.ts <= found.until_ms]
    if moved := [e for e in judged if (e.body["gate"], e.body["verdict"]) == ("audience", "fail")]:
        return f"the audience moved meanwhile: {moved[0].body['reason']}"
    if lost := _lost(chair.home, found.begun.wall_ts):
        return f"{lost:,} slates were served and could not be written down, so nobody knows what came of them"
    return ""


def _lost(home: Home, since_wall_ms: int) -> int:
    """Impressions that workers had to drop since a moment. A torn line was told again by who wrote it."""
    if not home.lost.exists():
        return 0
    count = 0
    for line in home.lost.read_text().splitlines():
        try:
            told = json.loads(line)
            count += int(told["impressions"]) if told["wall_ts"] >= since_wall_ms else 0
        except (ValueError, KeyError, TypeError):
            continue
    return count


def _end(chair: Chair, found: Course, verdict: Verdict, reason: str, seen: Look | None, actor: str) -> Course:
    """Write the verdict, with the decision that follows from it."""
    made, champion = found.begun.body, found.declared.body["champion"]
    ended = min(chair.now, found.until_ms)
    evidence = online.OnlineEvidence(
        made["release"], champion, found.id, found.plan, verdict, reason, ended_ms=ended, look=seen
    )
    body = {"experiment": found.id, "verdict": verdict, "reason": reason, "version": made["version"]}
    body |= {"release": made["release"], "champion": champion, "look": seen.body() if seen else None}
    chair.append("verdict", {**body, "decision": asdict(online.judge(evidence))}, actor)
    return course(chair.entries) or found


def _settle(chair: Chair, found: Course, verdict: Entry, auto: bool, actor: str) -> None:
    """What a verdict asks for: its decision in the ledger, then a promotion, a withdrawal or, for a while, patience."""
    body = verdict.body["decision"]
    decision = Decision(**{**body, "checks": tuple(body["checks"])})
    if not found.decided:
        chair.append("decision", body, actor)
    if not found.challenging:
        return
    if why := _lost_hope(chair, found, decision, verdict):
        chair.withdraw(actor, why)
    elif auto:
        rule = f"won its A/B: {verdict.body['reason']}"
        told = chair.wish(chair.origin(verdict.body), "champion", actor, rule=rule)
        if not told.accepted:
            chair.withdraw(actor, told.sentence.rstrip("."))


def _lost_hope(chair: Chair, found: Course, decision: Decision, verdict: Entry) -> str:
    """Why a challenger cannot become champion by this experiment, or nothing."""
    if decision.verdict != "pass":
        return f"{verdict.body['verdict']}: {decision.reason}"
    if chair.in_charge["champion"].body["release"] != found.declared.body["champion"]:
        return "it won against a champion that is champion no more"
    if decision.valid_until_ms is not None and chair.now > decision.valid_until_ms:
        return "it won, and nobody promoted it while that was valid"
    return ""


# Telling --------------------------------------------------------------------------------------------------------------


def _tell(chair: Chair) -> None:
    """Post a letter about each verdict that has none, once each: whoever was killed before it is completed by the next.

    Where nobody knows any more which was told last, the newest is told. A full disk ends no experiment.
    """
    verdicts = [e for e in chair.entries if e.kind == "verdict"]
    told = (read_json(chair.home.told) or {}).get("verdict")
    known = next((place for place, e in enumerate(verdicts, start=1) if e.hash == told), len(verdicts) - 1)
    for verdict in verdicts[max(known, 0) :]:
        declared = next(e for e in chair.entries if e.hash == verdict.body["experiment"])
        looks = tuple(_looks(chair.home, declared.hash))
        became = verdict_letter.became([e for e in chair.entries if e.seq > verdict.seq], verdict.body)
        plan, champion = Plan.of(declared.body["plan"]), declared.body["champion_version"]
        letter = verdict_letter.letter(plan, verdict.body, champion, became, looks)
        stamp = stamped(datetime.fromtimestamp(verdict.wall_ts / 1000, UTC), verdict.hash[:8])
        try:
            outbox.post(chair.home, chair.settings, letter, stamp=stamp)
            write_json(chair.home.told, {"verdict": verdict.hash})
        except OSError as why:
            log.warning("no letter could be kept about an experiment's verdict: %s", why.strerror or why)
            return

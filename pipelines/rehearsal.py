"""The demo's second half: the audience reacts, its taste moves, and the loop answers.

    days with slates → taste moves → drift report, mailed → retrain → challenger → A/B → promotion → rollback

Viewers are fitted to the history that the first half served from, and meet the running service; every step is the verb
that a home runs by its schedule. What happens is decided by what the viewers do: the A/B is as long as it must be to
find a change worth finding, by what came of slates before it; where it does not show that the challenger is better, it
stays challenger no longer, and the story says so.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Literal

from conf.home import Home
from conf.settings import Settings
from events.sources.audience import Shift
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Ledger
from monitoring.experiment import listed
from pipelines import experiment, report, sizing, takeup
from pipelines.promote import rollback
from pipelines.reconcile import Reconciler
from pipelines.retrain import retrain
from pipelines.serve import Server
from pipelines.simulate import audience_of
from pipelines.snapshot import load as load_snapshot
from pipelines.stage import Stage
from pipelines.story import Story
from pipelines.train import train

Challenger = Literal["retrained", "equal", "worse"]
QUIET_DAYS, MOVED_DAYS = 7, 9  # a window that is compared with, then one that moved, looked at on two days
STRENGTH, SHARE = 1.0, 0.5  # of the movement, and of the viewers whom it takes
AB_DAYS = 14  # at most, so that a demo ends
EFFECT = 0.2  # a demo looks for a fifth more, a site, which has months, for a tenth
VISITS = 2000  # a day, of viewers fitted to a history: so that an A/B of days has as many slates as one of months
ACTOR = "demo"
WORSE = "pipelines.upside_down.UpsideDown"


def rehearsed(settings: Settings) -> Settings:
    """The settings of a demo, where none are set by hand: many visits a day, and an A/B of days."""
    audience, plan = settings.audience, settings.experiment
    limits: dict[str, float] = {"max_days": min(plan.max_days, max(AB_DAYS, plan.min_days))}
    if "effect" not in plan.model_fields_set:
        limits["effect"] = EFFECT
    return settings.model_copy(
        update={
            "audience": audience.model_copy(update={"fitted_visits": audience.fitted_visits or VISITS}),
            "experiment": plan.model_copy(update=limits),
        }
    )


@dataclass
class Rehearsal:
    """One telling, before a running service. `board` gets mail, drift, size and verdict."""

    home: Home
    settings: Settings
    story: Story
    board: dict[str, Any]
    seed: int
    challenger: Challenger = "retrained"

    def tell(self, server: Server, key: str) -> None:
        """The steps in order. An equal challenger learned from the champion's data: it is made while that is fresh."""
        early = self.challenger == "equal"
        with self.story.step("audience", "viewers fitted to the history; their taste will move, half-way") as step:
            shift = movement(self.home, QUIET_DAYS + (ceil(self.settings.experiment.max_days) if early else 0))
            audience = audience_of(self.home, self.settings, self.seed, shift)
            step.note = f"{len(audience.viewers):,} viewers; on day {shift.day} {_told(shift)}"
        stage = Stage(audience, self.home, self.settings, server.url, key)
        if early:
            self.challenge(stage)
        quiet = shift.day - stage.day
        self._play(stage, "viewers react", "every slate through the API, every click back through it", quiet)
        self._play(stage, "taste moves", "the same service, another audience", MOVED_DAYS - 1)
        self.drift(stage)
        if not early:
            self.challenge(stage)
        self.promoted()
        self.pages()

    def challenge(self, stage: Stage) -> None:
        """Without a challenger there is no A/B."""
        if stage.day:
            self.size()
        if self.retrain() is not None:
            self.experiment(stage)

    def _play(self, stage: Stage, name: str, why: str, days: int) -> None:
        with self.story.step(name, why) as step:
            played = stage.play(days, lambda so_far: self.story.tell(f"day {stage.day}: {so_far.sentence}"))
            truth = f"{played.mean_worth('champion'):.2f} likings a slate"
            if times := played.over_popularity:
                truth += f", {times:.2f} x popularity's"
            step.note = f"{days} days, {played.sentence}; in truth {truth}"

    def drift(self, stage: Stage) -> None:
        """Two runs on two days: a movement must show in two of the last three."""
        with self.story.step("drift report", "sampled traffic, whole viewers dealt out anew; mailed") as step:
            report.drift(self.home, self.settings, self.story.tell)
            stage.play(1)
            found = report.drift(self.home, self.settings, self.story.tell)
            self.board["mail"] = report.post(self.home, self.settings, found)
            self.board["drift"] = {"verdict": found.verdict, "report": str(found.html)}
            step.note = (
                f"{found.verdict}: {'. '.join(found.sentences[:2])}. Mail {self.board['mail']} is in the outbox."
            )

    def size(self) -> None:
        """Declare an A/B of as many days as its power asks for, within what a demo allows."""
        with self.story.step("size", "of the A/B, from the variance and the pace of the days before it") as step:
            plan = self.settings.experiment
            try:
                found = sizing.size(self.home, self.settings, days=MOVED_DAYS)
            except sizing.SizingError as why:
                step.note = f"{why}; declared: at most {plan.max_days:g} days"
                return
            self.board["size"] = asdict(found)
            days = float(min(max(ceil(found.days), plan.min_days), plan.max_days))
            planned = plan.model_copy(update={"max_days": days})
            self.settings = self.settings.model_copy(update={"experiment": planned})
            step.note = f"{found.sentence}; declared: at most {days:g} days"

    def retrain(self) -> int | None:
        """The challenger's version; None where nobody passed."""
        with self.story.step("retrain", "as the weekly job does it: drift report, gates, challenger") as step:
            version, step.note = self._challenger()
            if version is None:
                self.board["verdict"] = "keep"
        return version

    def _challenger(self) -> tuple[int | None, str]:
        if self.challenger == "retrained":
            made = retrain(self.home, self.settings, if_due=True, actor=ACTOR, report=self.story.tell)
            return (made.version if made.outcome == "challenger" else None), made.sentence
        champion = self._champion()
        equal = self.challenger == "equal"
        training = train(
            self.home,
            self.settings,
            models=(champion["model"] if equal else WORSE,),
            seed=self.seed + 1,
            snapshot=load_snapshot(self.home.snapshots / champion["snapshot"]) if equal else None,
            report=self.story.tell,
        )
        return training.challenger, training.sentence

    def experiment(self, stage: Stage) -> None:
        """Days of A/B, a look after each, until the verdict."""
        with self.story.step("A/B", "declared before the first slate; one mean per viewer; looks are free") as step:
            seen = experiment.kept(self.home)
            while seen.verdict is None:
                stage.play(1)
                seen = experiment.advance(self.home, self.settings, auto=True, actor=ACTOR)
                self.story.tell(seen.sentence)
            self.board["verdict"] = seen.verdict
            step.note = seen.sentence

    def promoted(self) -> None:
        """Every worker serves the winner; then one step back to who was champion before."""
        with self.story.step("promotion", "only a pass of the online gate opens; workers follow the ledger") as step:
            made = self._champion()
            step.note = f"version {made['version']} ({made['model']}) is champion"
            if self.board["verdict"] != "promote":
                step.note += " still: nothing is promoted"
                return
            step.note += f". {takeup.wait(self.home, made['release'], 'champion', lambda count: None).sentence}"
        with self.story.step("rollback", "to the last version that was served and green; always allowed") as step:
            outcome = rollback(self.home, self.settings, actor=ACTOR, reason="to show that it works")
            told = takeup.wait(self.home, outcome.release, "champion", lambda count: None)
            step.note = f"{outcome.sentence} {told.sentence}"

    def pages(self) -> None:
        """What the loop beside the API does all the time."""
        with self.story.step("pages", "aliases, words and the A/B's picture in MLflow follow the ledger") as step:
            with closing(Reconciler(self.home, self.settings, pack=False)) as reconciler:
                reconciler.step()
            _, trouble = experiment.draw(self.home, self.settings, experiment.kept(self.home))
            step.note = f"the registered model {self.settings.registry.name} says who is in charge, and why"
            if trouble:
                step.note += f"; the picture of the A/B: {trouble}"

    def _champion(self) -> dict[str, Any]:
        """The `registered` line of who is champion."""
        ledger = Ledger.to_read(self.home.ledger, self.home.keys)
        release = in_charge(ledger)["champion"].body["release"]
        return next(e.body for e in ledger.entries("registered") if e.body["release"] == release)


def movement(home: Home, day: int) -> Shift:
    """Half of the viewers turn, on a day, from the genres that are watched most to some that are watched less."""
    ledger = Ledger.to_read(home.ledger, home.keys)
    snapshot = next(reversed([entry.body["snapshot"] for entry in ledger.entries("registered")]))
    shares = load_snapshot(home.snapshots / snapshot).statistics["genres"]
    return _turned(day, sorted(shares, key=lambda genre: -shares[genre]))


def promotions(home: Home) -> list[dict[str, Any]]:
    """Every promotion of the ledger: version, alias and rule."""
    entries = Ledger.to_read(home.ledger, home.keys).entries("promotion")
    return [{name: entry.body[name] for name in ("version", "alias", "rule")} for entry in entries]


def _turned(day: int, ranked: Sequence[str]) -> Shift:
    """From at most three of the first genres to two of the middle; where there are too few, ratings fall instead."""
    middle = len(ranked) // 2
    if not middle:
        return Shift(day, "rating", strength=-STRENGTH / 2, share=SHARE)
    loses = tuple(ranked[: min(3, middle)])
    gains = ranked[max(middle - 2, len(loses)) : middle] or ranked[middle : middle + 2]
    return Shift(day, "taste", loses, tuple(gains), STRENGTH, SHARE)


def _told(shift: Shift) -> str:
    if shift.kind == "rating":
        return "half of them begin to rate lower"
    return f"half of them turn from {listed(shift.loses)} to {listed(shift.gains)}"

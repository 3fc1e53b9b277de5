"""`greenlight demo`: the whole loop in one sitting, from nothing to a served, explained, gated recommender.

Every step is the production code. The home is a demo's own and is emptied first; any other folder is refused.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from rich.console import Console

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from mlflow_server.accounts import FILE, LEAD
from models.interactions import Catalogue
from pipelines.callers import Answers, Callers
from pipelines.data import import_data
from pipelines.latest import latest
from pipelines.package import package_champion
from pipelines.rehearsal import Challenger, Rehearsal, movement, promotions, rehearsed
from pipelines.scoreboard import show
from pipelines.serve import Server, serve, serve_registry
from pipelines.simulate import audience_of
from pipelines.snapshot import Snapshot, cut
from pipelines.stage import Stage
from pipelines.story import Story
from pipelines.tether import tethered
from pipelines.train import train
from pipelines.trained import Training
from pipelines.weeks import Weeks
from pipelines.why import explain
from serving.keys import KeyStore

T = TypeVar("T")

BAD = "pipelines.upside_down.UpsideDown"
SETTLE_S = 0.5  # of load after the workers are back
PATIENCE_S = 60.0  # how long a step waits for what it says will happen


class DemoError(PlainError):
    """The demo cannot run here, or something it shows did not happen."""


@dataclass
class Demo:
    """One telling of the loop; `board` becomes `demo.json`."""

    home: Home
    settings: Settings
    source: str
    seed: int
    story: Story
    challenger: Challenger = "retrained"
    weeks: int = 0
    board: dict[str, Any] = field(
        default_factory=lambda: {"refused": [], "champion": None, "request_id": None, "verdict": None, "mail": None}
    )

    def tell(self, stay: Callable[[Server], None]) -> None:
        """The steps in order; nothing is served before the first champion is decided, and nothing if none is."""
        command = [sys.executable, "-m", "mlflow_server.registry", str(self.home.root)]
        with subprocess.Popen(command, env=self.home.environment()):  # MLflow takes seconds to make its database
            self.events_in()
            snapshot = self.snapshot()
        training = self.train(snapshot)
        self.gates(training)
        if training.candidates:
            self.refusal(training)
        if self.champion(training) is None:
            return
        self.bento(training)
        with self.serving() as server:
            self.first_slate(server, snapshot)
            self.break_and_mend(server, snapshot)
            self.rehearse(server)
            stay(server)

    def events_in(self) -> None:
        with self.story.step("events in", "ratings become events in a log that is durable when it says so") as step:
            report = import_data(self.home, self.settings, self.source, seed=self.seed)
            step.note = (
                f"{report.added:,} events from {report.source} ({report.dialect}), {report.unreadable} unreadable"
            )

    def snapshot(self) -> Snapshot:
        with self.story.step("snapshot", "a content-addressed cut of the history, the same for everyone") as step:
            snapshot = cut(self.home, self.settings)
            past = snapshot.interactions
            size = f"{len(past):,} interactions, {len(past.user_ids):,} viewers, {len(past.catalogue):,} movies"
            step.note = f"{snapshot.id[:12]}: {size}"
        return snapshot

    def train(self, snapshot: Snapshot) -> Training:
        with self.story.step(
            "train", "each candidate in a process of its own, evaluated day by day as deployed"
        ) as step:
            models = (BAD, *self.settings.train.models)
            training = train(
                self.home, self.settings, models=models, seed=self.seed, snapshot=snapshot, report=self.story.tell
            )
            step.note = (
                "; ".join(f"{c.name} NDCG@10 {c.quality.mean:.4f}" for c in training.candidates if c.quality)
                or training.sentence
            )
        return training

    def gates(self, training: Training) -> None:
        with self.story.step("gates", "pure functions of evidence: inputs, offline, infra; only a pass opens") as step:
            step.note = f"inputs {training.inputs.verdict}"
            if training.inputs.verdict != "pass":
                self.board["refused"] = [
                    {"candidate": "snapshot", "gate": training.inputs.gate, "reason": training.inputs.reason}
                ]
            for made in training.candidates:
                verdicts = (f"{gate} {d.verdict}" for gate, d in made.decisions.items() if gate != training.inputs.gate)
                step.note += f"; {made.name}: {', '.join(verdicts) or made.failed}"

    def refusal(self, training: Training) -> None:
        with self.story.step("a bad candidate", "one with a sign error was slipped in: who stops it?") as step:
            self.board["refused"] = [
                {"candidate": c.name, "gate": c.refused[0], "reason": c.refused[1]}
                for c in training.candidates
                if c.refused
            ]
            caught = next((r for r in self.board["refused"] if r["candidate"] == "UpsideDown"), None)
            if caught is None:
                raise DemoError("the candidate with the sign error was not refused")
            step.note = f"refused by {caught['gate']}: {caught['reason'].partition('; ')[0]}"

    def champion(self, training: Training) -> int | None:
        with self.story.step(
            "first champion", "decided once, before anyone is served, by a rule the ledger names"
        ) as step:
            step.note = training.sentence
            chosen = next((c for c in training.candidates if c.version == training.champion and c.version), None)
            if chosen:
                self.board["champion"] = {"version": chosen.version, "model": chosen.name, "rule": training.rule}
                return chosen.version
        return None

    def bento(self, training: Training) -> None:
        with self.story.step("Bento", "release, source and fallback in one package that needs nothing else") as step:
            step.note = package_champion(self.home, self.settings, training) or ""

    @contextmanager
    def serving(self) -> Iterator[Server]:
        with self.story.step("serve", f"bentoml serve with {self.settings.serving.workers} workers") as step:
            server = serve(self.home, self.settings)
            step.note = f"{server.url}, {len(server.workers)} workers"
            if server.first_key:
                self.story.announce(f"the first API key, with all scopes, shown only now: {server.first_key}")
        with server:
            yield server

    def first_slate(self, server: Server, snapshot: Snapshot) -> None:
        with self.story.step("first slate", "one viewer's recommendations, and why they are what they are") as step:
            viewer = viewers_of(snapshot, 1)[0]
            answer = httpx.get(f"{server.url}/recommend/{viewer}", params={"k": 10}, trust_env=False)
            request = answer.headers["X-Request-Id"]
            self.board |= {
                "first_recommendation_s": round(self.story.elapsed, 1),
                "request_id": request,
                "viewer": viewer,
            }
            trace = _within(
                lambda: explain(self.home, self.settings.storage, request), "the slate did not reach the journal"
            )
            titles = _titles(snapshot.interactions.catalogue, answer.text.strip().split(",")[:3])
            step.note = (
                f"viewer {viewer}: {titles} … — rung {trace.rung}, version {trace.model_version}, {trace.promoted_by}"
            )

    @contextmanager
    def _key(self) -> Iterator[str]:
        """An API key for as long as it is needed: strangers may not ask so often."""
        store = KeyStore(self.home, self.settings.door.environment)
        text, made = store.create("demo callers", ("read", "events"))
        try:
            yield text
        finally:
            store.revoke(made.id)

    def break_and_mend(self, server: Server, snapshot: Snapshot) -> None:
        places = _weights(self.home, server.readiness()["release"])
        with self._key() as key, Callers(server.url, viewers_of(snapshot, 64), key) as callers:
            with self.story.step(
                "weights gone", "the weights are taken away and a worker is killed, under load"
            ) as step:
                for weights in places:
                    weights.rename(weights.with_name("weights.away"))
                psutil.Process(server.workers[0]).kill()
                _within(lambda: callers.answers.lower or None, "no worker fell back to a lower rung")
                _within(lambda: _states(server) == "fallback-only" or None, "no worker said that it had fallen back")
                step.note = f"the restarted worker says fallback-only; so far {_told(callers.answers)}"
            with self.story.step("back", "the weights return; workers find them by themselves") as step:
                for weights in places:
                    weights.with_name("weights.away").rename(weights)
                _within(lambda: _states(server) == "ready" or None, "a worker did not go back to its model")
                time.sleep(SETTLE_S)
                step.note = _told(callers.answers)
                if callers.answers.failures:
                    raise DemoError(f"requests failed: {step.note}")

    def rehearse(self, server: Server) -> None:
        """The second half: the audience reacts, for some days, or for weeks."""
        with self._key() as key:
            if self.weeks:
                self.live_on(server, key)
                return
            story = (self.home, self.settings, self.story, self.board, self.seed, self.challenger)
            Rehearsal(*story).tell(server, key)

    def live_on(self, server: Server, key: str) -> None:
        with self.story.step(f"{self.weeks} weeks", "hands free: jobs, experiments, a taste that moves") as step:
            shift = movement(self.home, 7 * (self.weeks // 2))
            audience = audience_of(self.home, self.settings, self.seed, shift)
            stage = Stage(audience, self.home, self.settings, server.url, key)
            weeks = Weeks(self.home, self.settings, stage, server, self.story.tell).play(self.weeks)
            self.board["weeks"] = weeks
            times = [week["over_popularity"] for week in weeks if week["over_popularity"]]
            step.note = f"{sum(week['slates'] for week in weeks):,} slates"
            if times:
                step.note += f"; in truth {sum(times) / len(times):.2f} x what popularity would have been worth"


def run(
    home: Home,
    settings: Settings,
    *,
    source: str,
    seed: int,
    once: bool,
    out: Console,
    challenger: Challenger = "retrained",
    weeks: int = 0,
) -> dict[str, Any]:
    """Tell the story in a home of its own and return the scoreboard, which is also `demo.json` there, and shown on
    `out`."""
    _claim(home)
    console = Console(stderr=True, highlight=False)
    demo = Demo(home, rehearsed(settings), source, seed, Story(console), challenger, weeks)
    try:
        with tethered(), demo.story:
            demo.tell(lambda server: None if once else _stay(demo, server, out))
    except PlainError as why:
        console.print(f"the demo stopped: {why}", markup=False, soft_wrap=True)
    finally:
        _save(demo)
    if once or demo.board["champion"] is None:
        show(demo.board, out)
    return demo.board


def viewers_of(snapshot: Snapshot, count: int) -> list[str]:
    """Viewers to ask slates for: the most recent ones, so that their taste is known."""
    past = snapshot.interactions
    recent = dict.fromkeys(past.users[::-1].tolist())
    return [str(past.user_ids[code]) for code in list(recent)[:count]]


def _claim(home: Home) -> None:
    """Empty a demo's own home; refuse any other folder that holds something."""
    if home.root.exists() and home.root.is_dir() and any(home.root.iterdir()):
        if home.kind() != "demo":
            raise DemoError(f"{home.root} is not empty and not a demo's home: set GREENLIGHT_HOME to a new folder")
        shutil.rmtree(home.root)
    home.open("demo")


def _save(demo: Demo) -> None:
    steps = [step.record() for step in demo.story.steps]
    board = {"home": str(demo.home.root), "total_s": round(demo.story.elapsed, 1), "steps": steps}
    board["promotions"] = promotions(demo.home)
    demo.board |= board
    (demo.home.root / "demo.json").write_text(json.dumps(demo.board, indent=2, ensure_ascii=False))


def _stay(demo: Demo, server: Server, out: Console) -> None:
    """Show the scoreboard and keep the service and the registry's pages up until Ctrl-C."""
    demo.story.close()
    _save(demo)
    show(demo.board, out)
    with serve_registry(demo.home, demo.settings) as registry:
        out.print(f"API       {server.url}/recommend/{demo.board['viewer']}")
        out.print(f"registry  {registry.url}/#/models/{demo.settings.registry.name}")
        out.print(
            f"log in as {LEAD}, with the password that stands beside that name in {demo.home.keys / FILE}",
            soft_wrap=True,
        )
        out.print("Ctrl-C ends both.")
        with suppress(KeyboardInterrupt):
            server.process.wait()


def _weights(home: Home, release: str) -> list[Path]:
    """Where the weights of the served release are: in the Bento, and in the home, from which workers open it too."""
    bento, folders = latest(home), [home.releases / release]
    if bento:
        folders.insert(0, bento / "src" / "release")
    return [folder / "weights" for folder in folders if (folder / "weights").exists()]


def _told(got: Answers) -> str:
    failed = ", ".join(f"{count} {why}" for why, count in got.failures.items()) or "0"
    rungs = ", ".join(f"{count:,} {rung}" for rung, count in got.rungs.most_common())
    return f"{got.total:,} requests, {failed} failed; {rungs}; {got.asked_again} asked again as their worker died"


def _states(server: Server) -> str:
    """What the workers say of themselves, asked on enough new connections to meet both; the worst of it."""
    states = {server.readiness().get("state") for _ in range(16)}
    return "fallback-only" if "fallback-only" in states else "ready" if states == {"ready"} else "starting"


def _within(look: Callable[[], T | None], complaint: str) -> T:
    """What `look` finds, as soon as it finds something; DemoError after PATIENCE_S."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            if (found := look()) is not None:
                return found
        except (PlainError, httpx.TransportError, psutil.NoSuchProcess):
            pass
        time.sleep(0.1)
    raise DemoError(f"{complaint} within {PATIENCE_S:g} s")


def _titles(catalogue: Catalogue, movies: list[str]) -> str:
    return ", ".join(str(catalogue.titles[catalogue.index[movie]]) for movie in movies)

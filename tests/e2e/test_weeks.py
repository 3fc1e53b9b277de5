"""Weeks of a home's life, hands free: what is served, what is decided and why, what stays on the disk.

The short form has a small audience and one week; the long one is `greenlight demo --weeks 20` as people run it.
"""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from conf.home import Home
from conf.sections.audience import AudienceConf
from conf.sections.experiment import Experiment
from conf.sections.gates import InfraGate
from conf.sections.jobs import Retrain
from conf.sections.training import Evaluate, Train
from conf.settings import Settings
from mlflow_server.ledger import Entry, Ledger
from pipelines.data import import_data
from pipelines.package import package_champion
from pipelines.rehearsal import WORSE, movement, promotions
from pipelines.retrain import RETRAINED, RETRAINING
from pipelines.serve import serve
from pipelines.simulate import audience_of
from pipelines.stage import Stage
from pipelines.train import train
from pipelines.weeks import Weeks
from serving.keys import KeyStore

Greenlight = Callable[..., subprocess.CompletedProcess[str]]
Rows = list[dict[str, Any]]

pytestmark = pytest.mark.server
GOOD = f"{Path(__file__).parents[1] / 'zoo' / 'good.py'}:Good"
SMALL = Settings(
    audience=AudienceConf(viewers=700, movies=400, days=40),
    train=Train(models=("popularity", GOOD), popularity_trials=1),
    evaluate=Evaluate(bootstrap=300),
    infra=InfraGate(golden_requests=10),
    experiment=Experiment(min_days=3, max_days=6, min_users=50),
    retrain=Retrain(max_age_days=6),
)
DAY_MS = 86_400_000
SLATE_KB = 2.2  # that a kept one takes: a hundred ids and scores


@dataclass
class Lived:
    """What weeks left behind. rows: those of `demo.json`."""

    home: Home
    rows: Rows

    def entries(self, *kinds: str) -> list[Entry]:
        ledger = Ledger.to_read(self.home.ledger, self.home.keys)
        ledger.verify()
        return [entry for entry in ledger.entries() if not kinds or entry.kind in kinds]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """A week, at whose end an A/B begins."""
    home = Home(tmp_path_factory.mktemp("weeks") / "home").open()
    import_data(home, SMALL, "simulated", seed=1)
    training = train(home, SMALL, models=("popularity",))
    package_champion(home, SMALL, training)
    key, _ = KeyStore(home, SMALL.door.environment).create("a test", ("read", "events"))
    with serve(home, SMALL, port=0) as server:
        audience = audience_of(home, SMALL, 1, movement(home, 7))
        stage = Stage(audience, home, SMALL, server.url, key)
        rows = Weeks(home, SMALL, stage, server, lambda line: None).play(1)
    return Lived(home, json.loads(json.dumps(rows)))


def test_every_request_is_answered_and_the_loop_goes_round(lived: Lived) -> None:
    (week,) = lived.rows
    assert (week["failures"], week["retraining"], week["verdicts"]) == (0, "challenger", [])
    assert week["slates"] > 500
    check_causes(lived)
    check_promotions(lived)


def test_a_worse_challenger_meets_nobody(lived: Lived) -> None:
    before = promotions(lived.home)
    training = train(lived.home, SMALL, models=(WORSE,))
    (made,) = (candidate for candidate in training.candidates if candidate.name == "UpsideDown")
    assert made.refused
    assert made.refused[0] == "offline"
    assert promotions(lived.home) == before


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("challenger", ["equal", "worse"])
def test_who_is_no_better_is_not_promoted(tmp_path: Path, greenlight: Greenlight, challenger: str) -> None:
    done = greenlight(tmp_path / "home", "demo", "--once", "--challenger", challenger)
    assert done.returncode == 0, done.stderr[-3000:]
    board = json.loads((tmp_path / "home" / "demo.json").read_text())
    assert board["verdict"] in (("keep", "cannot say") if challenger == "equal" else ("keep",))
    assert [one["alias"] for one in board["promotions"]].count("champion") == 1


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_twenty_weeks(tmp_path: Path, greenlight: Greenlight) -> None:
    done = greenlight(tmp_path / "home", "demo", "--once", "--weeks", "20", "--data", "simulated")
    assert done.returncode == 0, done.stderr[-3000:]
    lived = Lived(Home(tmp_path / "home"), json.loads((tmp_path / "home" / "demo.json").read_text())["weeks"])
    assert "Week by week" in done.stdout
    assert [row["number"] for row in lived.rows] == list(range(1, 21))
    assert sum(row["failures"] for row in lived.rows) == 0
    check_movements(lived)
    check_causes(lived)
    check_promotions(lived)
    check_verdicts(lived)
    check_worth(lived)
    check_bounds(lived)


def check_movements(lived: Lived) -> None:
    """Taste moves in the middle; a retraining answers that within four weeks, and what it made becomes champion."""
    moved = [e for e in lived.entries("report") if e.body["verdict"] == "moved"]
    answers = [e for e in lived.entries(RETRAINING) if "the audience moved" in e.body["why"]]
    assert moved
    assert len(answers) >= 1
    assert any("the audience moved" in row["why"] for row in lived.rows[10:14]), [row["did"] for row in lived.rows]


def check_causes(lived: Lived) -> None:
    """No retraining without cause: each one's reason is checked against what the ledger and the snapshots say."""
    entries = lived.entries()
    for begun in (e for e in entries if e.kind == RETRAINING):
        before = [e for e in entries if e.seq < begun.seq]
        made = [e for e in before if e.kind == "registered"][-1]
        if "the audience moved" in begun.body["why"]:
            report = [e for e in before if e.kind == "report"][-1]
            assert (report.body["verdict"], report.seq > made.seq) == ("moved", True)
        else:
            assert "days old" in begun.body["why"], begun.body["why"]
            snapshot = next(row for row in entries if row.kind == "registered" and row.seq == made.seq)
            assert begun.ts - snapshot.ts > 6 * DAY_MS
        (after,) = [e for e in entries if e.seq > begun.seq and e.kind == RETRAINED][:1]
        assert after.body["why"] == begun.body["why"]


def check_promotions(lived: Lived) -> None:
    """Whoever was promoted had every gate green, by decisions that were in the ledger before."""
    entries = lived.entries()
    decisions = {e.seq: e for e in entries if e.kind == "decision"}
    for promotion in (e for e in entries if e.kind == "promotion"):
        body = promotion.body
        asked = {"inputs", "offline", "infra"} | ({"online"} if body["alias"] == "champion" and body["from"] else set())
        assert asked <= body["evidence"].keys()
        for gate in asked:
            evidence = decisions[body["evidence"][gate]]
            assert (evidence.body["gate"], evidence.body["verdict"]) == (gate, "pass")
            assert evidence.seq < promotion.seq
            assert gate == "inputs" or evidence.body["subject"] == body["release"]


def check_verdicts(lived: Lived) -> None:
    """Both arms had the viewers that were declared: on the event clock a day passes in less time than a worker needs to
    open a release, so the audience waits for it."""
    verdicts = [entry.body["verdict"] for entry in lived.entries("verdict")]
    assert verdicts
    assert "invalid" not in verdicts


def check_worth(lived: Lived) -> None:
    """By the simulator's truth never worth less than popularity for two weeks running."""
    below = [row["over_popularity"] < 1 for row in lived.rows]
    assert not any(a and b for a, b in pairwise(below)), lived.rows


def check_bounds(lived: Lived) -> None:
    """What is kept beside the log is so many of each and no more. The service's memory, once it has had two releases
    open, grows by less than what happened does, and by the slates that its workers keep."""
    kept = [row["disk_mb"] - row["log_mb"] for row in lived.rows]
    assert max(kept[14:]) < 1.25 * max(kept[:14]), kept
    memory, log = ([row[name] for row in lived.rows] for name in ("memory_mb", "log_mb"))
    slates_mb = Settings().serving.workers * Settings().cache.entries * SLATE_KB / 1000
    assert max(memory[6:]) - max(memory[:6]) < log[-1] - log[5] + slates_mb, (memory, log)

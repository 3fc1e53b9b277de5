"""Training from a snapshot to the first champion: what is in the registry, in the ledger, and after a kill."""

import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf.home import Home
from conf.settings import Settings
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Ledger, SigningKey
from mlflow_server.registry import Registry
from mlflow_server.release import verify
from pipelines.train import TrainError, Training, train
from tests.quarter import QUICK

pytestmark = pytest.mark.server  # candidates live in processes of their own

ZOO = Path(__file__).parents[1] / "zoo"
ROOT = Path(__file__).parents[2]


def settings(**sections: dict[str, Any]) -> Settings:
    return Settings.model_validate({**QUICK, **{k: {**QUICK.get(k, {}), **v} for k, v in sections.items()}})


def animal(name: str, cls: str) -> str:
    return f"{ZOO / name}.py:{cls}"


def ledger_of(home: Home) -> Ledger:
    return Ledger(home.ledger, SigningKey(home.keys))


@pytest.fixture(scope="module")
def trained(quarter: Home, tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Training, list[str]]:
    """REG-05: a path with spaces and letters beyond ASCII; popularity, a good model, one that raises, a bad one."""
    root = tmp_path_factory.mktemp("train") / "top movies" / "été v1"
    shutil.copytree(quarter.root, root)
    home, told = Home(root), list[str]()
    models = [animal("good", "Good"), animal("raises", "Raises"), animal("random_scores", "RandomScores")]
    return home, train(home, settings(), models=models, report=told.append), told


def test_popularity_is_version_1_and_the_good_one_meets_the_test_window(trained: tuple) -> None:
    _, training, told = trained
    by_name = {c.name: c for c in training.candidates}
    assert [c.name for c in training.candidates] == ["popularity", "Good", "Raises", "RandomScores"]
    assert (by_name["popularity"].version, training.champion) == (1, 1)
    assert by_name["Good"].state == "passed"
    assert {g: d.verdict for g, d in by_name["Good"].decisions.items()} == dict.fromkeys(
        ("inputs", "offline", "infra"), "pass"
    )
    assert training.rule.startswith("first champion: popularity, since Good against popularity on the test window")
    assert any("Good is the best on validation" in line for line in told)


def test_one_that_raises_is_marked_failed_and_the_others_go_on(trained: tuple) -> None:
    home, training, _ = trained
    failed = next(c for c in training.candidates if c.name == "Raises")
    assert (failed.state, failed.version, failed.release) == ("failed", None, None)
    assert failed.failed == "ValueError: no such column: director (raises.py, line 13)"
    run = Registry(home).client.get_run(failed.run)
    assert run.info.status == "FAILED"
    assert run.data.tags["failed"] == failed.failed


def test_the_bad_one_is_refused_and_the_ledger_says_why(trained: tuple) -> None:
    home, training, _ = trained
    bad = next(c for c in training.candidates if c.name == "RandomScores")
    assert bad.refused is not None
    assert bad.refused[0] == "offline"
    lines = {e.body["model"]: e.body for e in ledger_of(home).entries("refusal")}
    assert lines["RandomScores"]["version"] == bad.version
    assert lines["RandomScores"]["reason"] == bad.refused[1]
    assert (lines["Raises"]["version"], lines["Raises"]["gate"]) == (None, "train")


def test_the_ledger_holds_every_decision_and_the_rule(trained: tuple) -> None:
    home, training, _ = trained
    ledger = ledger_of(home)
    ledger.verify()
    assert Counter(e.kind for e in ledger.entries()) == {"decision": 7, "registered": 3, "refusal": 2, "promotion": 1}
    promotion = next(ledger.entries("promotion"))
    champion = training.candidates[0]
    assert promotion.body["evidence"].keys() == {"inputs", "offline", "infra"}
    assert {name: value for name, value in promotion.body.items() if name != "evidence"} == {
        "version": 1,
        "release": champion.release,
        "alias": "champion",
        "rule": training.rule,
        "from": None,
    }
    registered = next(e.body for e in ledger.entries("registered") if e.body["release"] == champion.release)
    assert (registered["snapshot"], registered["run_id"]) == (training.snapshot, champion.run)
    assert len(registered["commit"].removesuffix("-dirty")) in (7, 40)
    decisions = ledger.decisions(champion.release)
    assert decisions["offline"].evidence == {
        "snapshot": training.snapshot,
        "run": champion.run,
        "popularity": champion.release,
    }
    assert verify(home.releases / champion.release).model == "popularity"


def test_the_registry_names_the_version_to_promote_and_why(trained: tuple) -> None:
    home, training, _ = trained
    client = Registry(home).client
    page = client.get_registered_model("recommender")
    assert page.aliases == {"champion": 1}
    assert page.description.startswith("**Version 1 (popularity) is champion. First champion: popularity, since Good")
    assert "| 1 | popularity | 0." in page.description
    assert "**champion**" in page.description
    bad = next(v for v in client.search_model_versions("name = 'recommender'") if v.tags["model"] == "RandomScores")
    assert bad.tags["gate.offline"] == "fail"
    assert bad.tags["gate.inputs"] == "pass"
    assert bad.tags["verdict"].startswith("refused by offline: ")
    assert "Do not promote it. Refused by gate offline" in bad.description
    assert bad.tags["release"] in {c.release for c in training.candidates}


def test_runs_hold_parameters_metrics_with_intervals_dataset_and_decisions(trained: tuple) -> None:
    home, training, _ = trained
    client = Registry(home).client
    good = next(c for c in training.candidates if c.name == "Good")
    run = client.get_run(good.run)
    metrics = run.data.metrics
    assert metrics["ndcg_at_10_low"] < metrics["ndcg_at_10"] < metrics["ndcg_at_10_high"]
    assert metrics["seconds_fit"] > 0
    assert run.data.tags["mlflow.parentRunId"] == training.run
    assert [d.dataset.digest for d in run.inputs.dataset_inputs] == [training.snapshot]
    files = {a.path for a in client.list_artifacts(good.run)} | {
        a.path for a in client.list_artifacts(good.run, "decisions")
    }
    assert {"comparison.png", "decisions/offline.json", "decisions/offline.md", "decisions/infra.json"} <= files
    popularity = client.get_run(training.candidates[0].run)
    assert float(popularity.data.params["half_life_days"]) > 0
    trials = client.search_runs(
        [popularity.info.experiment_id], f"tags.`mlflow.parentRunId` = '{popularity.info.run_id}'"
    )
    assert len(trials) == 2
    assert "comparison.png" in {a.path for a in client.list_artifacts(training.run)}


def test_reg_05_the_registered_model_answers_from_a_cold_process(trained: tuple) -> None:
    """REG-05: spaces and é in the paths; MLflow's own loader, another process, another folder."""
    home, _, _ = trained
    code = f"""
import mlflow
mlflow.set_tracking_uri({home.registry_uri!r})
model = mlflow.pyfunc.load_model("models:/recommender@champion")
print([len(slate) for slate in model.predict(["nobody", "1"])])
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=home.root.parent)
    assert made.stdout.strip() == "[20, 20]", made.stderr[-2000:]


def test_the_same_training_again_makes_nothing_double(trained: tuple) -> None:
    """A champion is decided once: what passes afterwards is challenger. The same release is the same version."""
    home, first, _ = trained
    again = train(home, settings(), models=[animal("good", "Good")])
    versions = {c.name: c.version for c in first.candidates}
    assert [(c.name, c.version) for c in again.candidates] == [(n, versions[n]) for n in ("popularity", "Good")]
    assert (again.champion, again.challenger) == (1, versions["Good"])
    ledger = ledger_of(home)
    assert [e.body["alias"] for e in ledger.entries("promotion")] == ["champion", "challenger"]
    assert len(list(ledger.entries("registered"))) == 3
    offline = ledger.decisions(again.candidates[1].release)["offline"]
    assert offline.evidence["champion"] == first.candidates[0].release
    registry = Registry(home)
    assert registry.client.get_registered_model("recommender").aliases == {
        "champion": 1,
        "challenger": versions["Good"],
    }
    thrice = train(home, settings(), models=[animal("good", "Good")])
    assert thrice.challenger == versions["Good"]
    assert len(list(ledger.entries("promotion"))) == 2


def test_nobody_passed_is_an_honest_ending(fresh_home: Callable[[], Home]) -> None:
    home = fresh_home()
    training = train(home, settings(infra={"time_ratio": 1e-9}), models=[])
    assert (training.champion, training.rule) == (None, "")
    assert training.sentence.startswith("Nobody passed, so there is no champion: popularity by infra: the median time")
    assert "\n" not in training.sentence
    assert not in_charge(ledger_of(home))
    assert Registry(home).client.get_registered_model("recommender").aliases == {}


def test_bad_inputs_mean_no_training(fresh_home: Callable[[], Home]) -> None:
    home = fresh_home()
    training = train(home, settings(inputs={"min_viewers": 10**9}), models=[])
    assert (training.candidates, training.champion) == ((), None)
    assert training.sentence.startswith("Nothing was trained: gate inputs says fail: the number of viewers is ")
    assert [e.kind for e in ledger_of(home).entries()] == ["decision"]
    assert not home.releases.exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rankr", "no model 'rankr': name one of popularity, ease, als, ranker"),
        ("no/such.py:Model", "no file no/such.py"),
        ("nowhere.to.be.Found", "no model 'nowhere.to.be.Found'"),
    ],
)
def test_a_model_that_does_not_exist_is_named_at_once(home: Home, name: str, words: str) -> None:
    with pytest.raises(TrainError, match=words):
        train(home, settings(), models=[name])


def test_a_second_training_at_once_is_told_so(home: Home) -> None:
    with (home.root / "train.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TrainError, match="another training runs in"):
            train(home, settings(), models=[])


VICTIM = """
import sys
from pathlib import Path
from conf.home import Home
from conf.settings import Settings
from pipelines.train import train
train(Home(Path(sys.argv[1])), Settings.model_validate_json(sys.argv[2]), models=[sys.argv[3]],
      report=lambda line: print(line, flush=True))
"""


def _victim(home: Home, model: str) -> subprocess.Popen[str]:
    arguments = [str(home.root), settings().model_dump_json(), model]
    return subprocess.Popen([sys.executable, "-c", VICTIM, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT)


MOMENTS = ("snapshot", "on validation", "is version 1", "meets the test window", "is champion")


@pytest.mark.parametrize(
    "moments", [("is version 1",), pytest.param(MOMENTS, marks=pytest.mark.long)], ids=["one", "every"]
)
def test_killed_at_steps_in_turn_the_same_verb_succeeds_at_last(
    fresh_home: Callable[[], Home], moments: tuple[str, ...]
) -> None:
    home, good = fresh_home(), animal("good", "Good")
    for moment in moments:
        victim = _victim(home, good)
        assert any(moment in line for line in victim.stdout or ()), f"never told {moment!r}"
        os.kill(victim.pid, signal.SIGKILL)
        victim.communicate()
    training = train(home, settings(), models=[good])
    ledger, client = ledger_of(home), Registry(home).client
    ledger.verify()
    registered = [e.body["release"] for e in ledger.entries("registered")]
    versions = [v.tags["release"] for v in client.search_model_versions("name = 'recommender'")]
    assert sorted(registered) == sorted(versions) == sorted(set(versions))
    assert {p.name for p in home.releases.iterdir()} == set(versions)
    aliases = [e.body["alias"] for e in ledger.entries("promotion")]
    assert aliases == ["champion", "challenger"][: len(aliases)]
    assert training.champion == in_charge(ledger)["champion"].body["version"]
    with sqlite3.connect(home.registry) as database:
        assert "RUNNING" not in {status for (status,) in database.execute("select status from runs")}


TUNER = VICTIM.replace("models=[sys.argv[3]]", "models=[]")


def test_a_search_that_was_killed_goes_on_where_it_stopped(fresh_home: Callable[[], Home]) -> None:
    home, chosen = fresh_home(), settings(train={"popularity_trials": 8})
    command = [sys.executable, "-c", TUNER, str(home.root), chosen.model_dump_json()]
    victim = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    before = []
    for line in victim.stdout or ():
        before += [line.split()[2]] if "popularity: trial" in line else []
        if len(before) == 3:
            break
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    told: list[str] = []
    training = train(home, chosen, models=[], report=told.append)
    after = [line.split()[2] for line in told if "popularity: trial" in line]
    assert before == ["1", "2", "3"]
    assert "popularity: the search goes on where it stopped" in told
    assert 0 < len(after) <= 5
    assert not set(before) & set(after)
    under = f"tags.`mlflow.parentRunId` = '{training.candidates[0].run}'"
    registry = Registry(home)
    trials = registry.client.search_runs([registry.experiment], under)
    assert len(trials) == 8
    assert {run.data.tags["state"] for run in trials} <= {"complete", "pruned"}


CURVED = """
import numpy as np
from models.popularity import Popularity

class Curved(Popularity):
    def fit(self, history):
        self.curves = {names}
        return self
"""


def test_curves_of_a_fit_are_shown_on_its_run(fresh_home: Callable[[], Home], tmp_path: Path) -> None:
    home, file = fresh_home(), tmp_path / "curved.py"
    file.write_text(CURVED.format(names="{'loss': [3.0, float('nan'), np.float32(1.5)]}"))
    made = train(home, settings(), models=[f"{file}:Curved"]).candidates[1]
    shown = Registry(home).client.get_metric_history(made.run, "fit/loss")
    assert [(point.step, point.value) for point in shown] == [(1, 3.0), (3, 1.5)]
    assert not made.failed


def test_candidates_end_with_a_training_that_was_killed(fresh_home: Callable[[], Home]) -> None:
    home = fresh_home()
    victim = _victim(home, animal("hangs", "Hangs"))
    assert any("on validation" in line for line in victim.stdout or ())
    children = _children(victim.pid)
    assert children
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_an_interrupt_ends_it_soon_and_closes_its_runs(fresh_home: Callable[[], Home]) -> None:
    home = fresh_home()
    victim = _victim(home, animal("hangs", "Hangs"))
    assert any("is version 1" in line for line in victim.stdout or ())
    victim.send_signal(signal.SIGINT)
    victim.communicate(timeout=60)
    assert victim.returncode != 0
    with sqlite3.connect(home.registry) as database:
        found = database.execute("select status, count(*) from runs group by status").fetchall()
    assert {status for status, _ in found} <= {"FAILED", "FINISHED"}  # trials are finished


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in found for child in file.read_text().split()]

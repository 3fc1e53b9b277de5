"""What goes and what stays: a home with four versions, three of which have done nothing for long."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from conf.home import Home
from conf.sections.jobs import Retention
from conf.sections.mail import Mail, Smtp
from conf.settings import Settings
from mlflow_server.registry import Registry
from mlflow_server.release import verify
from monitoring.mail import Letter
from pipelines.outbox import post
from pipelines.promote import promote, rollback
from pipelines.prune import GONE, Pruned, prune
from serving.report import ArmReport, Reporter, WorkerReport
from tests import town

LEAST = Settings(clock="wall", retention=Retention(snapshots=1, releases=1, bentos=1, logged_models=1))
OLD = time.time() - 200 * 86_400


def age(home: Home) -> None:
    """Make all of it old: files by their times, logged models by MLflow's; and its artifacts those of this copy."""
    import sqlite3

    for path in home.root.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (OLD, OLD))
    with sqlite3.connect(home.registry) as database:
        database.execute(
            "UPDATE logged_models SET creation_timestamp_ms = creation_timestamp_ms - 17280000000, "
            "artifact_location = ? || substr(artifact_location, instr(artifact_location, '/artifacts/'))",
            (str(home.root),),
        )


def digests(home: Home) -> set[str]:
    return {folder.name for folder in home.releases.iterdir() if not folder.name.startswith(".")}


def release(home: Home, version: int) -> str:
    return str(town.made(home, version)["release"])


def kinds(done: Pruned) -> Counter[str]:
    assert done.troubles == []
    return Counter(item.kind for item in done.removed)


def test_the_old_and_unused_goes_and_what_is_in_charge_stays(townhome: Home) -> None:
    age(townhome)
    models = {kept.release: kept.model_id for kept in Registry.kept(townhome)}
    would = prune(townhome, LEAST, dry_run=True)
    assert len(digests(townhome)) == 4, "a dry run removes nothing"
    done = prune(townhome, LEAST)
    assert done.removed == would.removed
    assert kinds(done) == {"release": 2, "logged model": 2}  # version 1 is champion, version 4 the newest
    assert digests(townhome) == {release(townhome, 1), release(townhome, 4)}
    assert done.freed_bytes > 1000
    verify(townhome.releases / release(townhome, 1))
    assert {kept.release for kept in Registry.kept(townhome)} == {release(townhome, 1), release(townhome, 4)}
    for version in range(1, 5):
        there = (townhome.artifacts / "models" / models[release(townhome, version)] / "artifacts").exists()
        assert there == (version in (1, 4))
    assert prune(townhome, LEAST).removed == []
    assert len(town.lines(townhome)) > 0, "the ledger holds"


def test_challenger_previous_and_what_a_worker_serves_stay(townhome: Home) -> None:
    town.won(townhome, 2)
    assert promote(townhome, town.SETTINGS, 2, actor="ada").accepted
    assert rollback(townhome, town.SETTINGS, actor="ada").accepted  # version 1 again; 2 is nobody's
    town.judged(townhome, release(townhome, 3), "offline", evidence={"champion": release(townhome, 1)})
    assert promote(townhome, town.SETTINGS, 3, "challenger", actor="ada").accepted
    now = town.now()
    arms = {"champion": ArmReport(release=release(townhome, 2), since_wall_ms=now, state="ready")}
    report = WorkerReport(pid=os.getpid(), started_wall_ms=now, beat_wall_ms=now, clock_ms=now, offset=0, arms=arms)
    age(townhome)
    Reporter(townhome).write(report)
    assert prune(townhome, LEAST).removed == []
    Reporter(townhome).close()
    assert {item.name for item in prune(townhome, LEAST).removed if item.kind == "release"} == {release(townhome, 2)}


def test_an_alias_in_mlflow_alone_protects_too(townhome: Home) -> None:
    Registry(townhome).client.set_registered_model_alias("recommender", "favourite", "3")
    age(townhome)
    prune(townhome, LEAST)
    assert release(townhome, 3) in digests(townhome)
    assert release(townhome, 3) in {kept.release for kept in Registry.kept(townhome)}


def test_what_is_young_or_unknown_stays_until_it_is_old(townhome: Home) -> None:
    shutil.copytree(townhome.releases / release(townhome, 1), townhome.releases / "f")
    assert kinds(prune(townhome, LEAST))["release"] == 2
    assert (townhome.releases / "f").exists(), "a training may be about to register it"
    age(townhome)
    assert {item.name for item in prune(townhome, LEAST).removed if item.kind == "release"} == {"f"}


def bento(home: Home, name: str, digest: str) -> Path:
    folder = home.bentos / "bentos" / "greenlight" / name
    (folder / "src").mkdir(parents=True)
    facts = {"release": digest, "public": "", "measured": {}, "source": ""}
    (folder / "src" / "packaged.json").write_text(json.dumps(facts))
    return folder


def test_bentos_that_are_latest_in_charge_or_running_stay(townhome: Home) -> None:
    running, in_charge, latest, old = (
        bento(townhome, name, release(townhome, version))
        for name, version in (("running", 2), ("charge", 1), ("latest-one", 3), ("old", 4))
    )
    (latest.parent / "latest").write_text(latest.name)
    half = latest.parent / f"{GONE}killed"
    half.mkdir()
    age(townhome)
    os.utime(running.parent / "latest-one", (OLD + 9, OLD + 9))
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=running / "src", stdin=subprocess.PIPE) as process:
        assert [item.name for item in prune(townhome, LEAST).removed if item.kind == "bento"] == ["old"]
        process.communicate(b"\n")
    assert in_charge.exists()
    assert not old.exists()
    assert not half.exists(), "what a killed prune left is swept"
    assert [item.name for item in prune(townhome, LEAST).removed if item.kind == "bento"] == ["running"]


def test_snapshots_of_releases_that_stay_and_the_newest_stay(townhome: Home) -> None:
    for name in ("snap1", "other", "newest"):
        (townhome.snapshots / name).mkdir(parents=True)
    townhome.reports.mkdir()
    (townhome.reports / "drift.html").write_text("long ago")
    age(townhome)
    os.utime(townhome.snapshots / "newest", (OLD + 9, OLD + 9))
    (townhome.reports / "fresh.html").write_text("today")
    done = prune(townhome, LEAST)
    assert {item.name for item in done.removed if item.kind in ("snapshot", "report")} == {"other", "drift.html"}
    assert {f.name for f in townhome.snapshots.iterdir() if f.is_dir()} == {"snap1", "newest"}
    assert [f.name for f in townhome.reports.iterdir()] == ["fresh.html"]


@pytest.mark.server
def test_it_waits_for_a_training_and_can_be_killed_at_any_moment(townhome: Home) -> None:
    import fcntl

    age(townhome)
    command = [sys.executable, "-m", "greenlight", "prune", "--json"]
    sections = {"SNAPSHOTS": "1", "RELEASES": "1", "BENTOS": "1", "LOGGED_MODELS": "1"}
    environment = {**os.environ, "GREENLIGHT_HOME": str(townhome.root)}
    environment |= {f"GREENLIGHT_RETENTION__{name}": value for name, value in sections.items()}
    with (townhome.root / "train.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(command, env=environment, timeout=8, check=False)
        assert len(digests(townhome)) == 4
    for pause_s in (1.5, 2.5, 3.5):
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
            time.sleep(pause_s)
            process.kill()
        for digest in digests(townhome):
            verify(townhome.releases / digest)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert digests(townhome) == {release(townhome, 1), release(townhome, 4)}


def test_old_letters_go_but_those_that_wait(townhome: Home) -> None:
    away = Settings(mail=Mail(via="smtp", smtp=Smtp(host="127.0.0.1", port=9)))
    waits, fresh, old = (post(townhome, s, Letter("moved", "")) for s in (away, Settings(), Settings()))
    for file in (townhome.outbox / "waiting" / f"{waits}.eml", townhome.outbox / f"{old}.eml"):
        os.utime(file, (0, 0))
    done = prune(townhome, Settings())
    assert [item.name for item in done.removed if item.kind == "letter"] == [old]
    assert {file.stem for file in townhome.outbox.rglob("*.eml")} == {waits, fresh}

"""Aliases in MLflow that are moved by hand, by SQL, by deletion: accepted, or put back and explained."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from conf.home import Home
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Ledger, LedgerError
from mlflow_server.pages import PagesError
from pipelines.promote import promote, rollback
from pipelines.reconcile import LEAD, Reconciler
from tests import town

pytestmark = pytest.mark.server
ROOT = Path(__file__).parents[2]
NAME = "recommender"


@pytest.fixture
def loop(townhome: Home) -> Iterator[Reconciler]:
    """A loop that has looked once."""
    reconciler = Reconciler(townhome, town.SETTINGS, pack=False)
    reconciler.step()
    yield reconciler
    reconciler.close()


@pytest.fixture
def client(townhome: Home) -> MlflowClient:
    return MlflowClient(tracking_uri=townhome.registry_uri, registry_uri=townhome.registry_uri)


def aliases(client: MlflowClient) -> dict[str, int]:
    return {alias: int(v) for alias, v in client.get_registered_model(NAME).aliases.items()}


def standing(home: Home) -> dict[str, int]:
    return {a: e.body["version"] for a, e in in_charge(Ledger.to_read(home.ledger, home.keys)).items()}


def page(client: MlflowClient, version: int) -> Any:
    return client.get_model_version(NAME, str(version))


def model(client: MlflowClient) -> str:
    return str(client.get_registered_model(NAME).description)


def sql(home: Home, words: str, *values: object) -> None:
    with sqlite3.connect(home.registry) as database:
        database.execute(words, values)
    database.close()


def worker(home: Home, *, serves: dict[str, int], refuses: dict[int, str] | None = None, since: int = 0) -> Path:
    """The report of a worker; this process stands for it, since it lives."""
    home.workers.mkdir(exist_ok=True)
    arms = {
        a: {"release": town.made(home, v)["release"], "since_wall_ms": since, "state": "ready"}
        for a, v in serves.items()
    }
    why = {town.made(home, v)["release"]: {"reason": r, "wall_ms": town.now()} for v, r in (refuses or {}).items()}
    facts = {"pid": os.getpid(), "started_wall_ms": since, "beat_wall_ms": town.now(), "clock_ms": 0, "offset": 0}
    file = home.workers / f"{os.getpid()}.json"
    file.write_text(json.dumps({**facts, "arms": arms, "refused": why}))
    return file


def test_a_wish_that_the_gates_allow_becomes_a_line_and_is_served(
    townhome: Home, loop: Reconciler, client: MlflowClient
) -> None:
    town.won(townhome, 3)
    client.set_registered_model_alias(NAME, "champion", "3")
    loop.step()
    line = town.lines(townhome, "promotion")[-1]
    assert (line.actor, line.body["version"], line.body["alias"], line.body["from"]) == (LEAD, 3, "champion", 1)
    assert aliases(client) == {"champion": 3, "previous": 1} == standing(townhome)
    assert "Stands as champion since" in page(client, 3).description
    assert page(client, 3).description.endswith("Trained with boost 2.")
    assert model(client).startswith("**Version 3 (Tiny) is champion. Gates inputs, offline, infra and online passed.**")


def test_a_wish_that_they_refuse_is_put_back_and_the_page_says_why(
    townhome: Home, loop: Reconciler, client: MlflowClient
) -> None:
    client.set_registered_model_alias(NAME, "champion", "2")
    for _ in range(5):
        loop.step()
    (refusal,) = town.lines(townhome, "refusal")
    assert (refusal.actor, refusal.body["version"], refusal.body["alias"]) == (LEAD, 2, "champion")
    assert aliases(client) == {"champion": 1}
    assert "Refused as champion" in page(client, 2).tags["refused"]
    assert "gate online has not judged version 2" in page(client, 2).tags["refused"]
    assert "gate online has not judged version 2" in page(client, 2).description
    assert page(client, 2).tags["live"] == "no"


def test_a_wish_while_the_ledger_is_mirrored_is_judged_and_not_overwritten(
    townhome: Home, loop: Reconciler, client: MlflowClient
) -> None:
    """The lead moves the alias when the loop has looked, and is about to set it where a verb on the shell put it."""
    town.won(townhome, 3)
    wishes = ["4"]

    def rest() -> None:
        if wishes:
            client.set_registered_model_alias(NAME, "champion", wishes.pop())

    assert promote(townhome, town.SETTINGS, 3, actor="ada").accepted
    with closing(Reconciler(townhome, town.SETTINGS, pack=False, rest=rest)) as resting:
        resting.step()
        assert aliases(client)["champion"] == 4
        resting.step()
    (refusal,) = town.lines(townhome, "refusal")
    assert (refusal.actor, refusal.body["version"], refusal.body["alias"]) == (LEAD, 4, "champion")
    assert aliases(client) == {"champion": 3, "previous": 1} == standing(townhome)


def test_sql_round_everything_is_a_wish_like_any_other(townhome: Home, loop: Reconciler, client: MlflowClient) -> None:
    sql(townhome, "UPDATE registered_model_aliases SET version = 4 WHERE alias = 'champion'")
    loop.step()
    assert aliases(client) == {"champion": 1}
    assert town.lines(townhome, "refusal")[-1].body["version"] == 4
    sql(townhome, "INSERT INTO registered_model_aliases (alias, version, name) VALUES ('challenger', 4, ?)", NAME)
    loop.step()
    assert standing(townhome) == {"champion": 1, "challenger": 4}


def test_a_champion_that_is_removed_is_put_back_and_a_challenger_is_withdrawn(
    townhome: Home, loop: Reconciler, client: MlflowClient
) -> None:
    client.set_registered_model_alias(NAME, "challenger", "2")
    loop.step()
    client.delete_registered_model_alias(NAME, "champion")
    client.delete_registered_model_alias(NAME, "challenger")
    loop.step()
    assert aliases(client) == {"champion": 1}
    assert "cannot be removed, only moved" in page(client, 1).description
    assert town.lines(townhome, "withdrawal")[-1].actor == LEAD


def test_a_deleted_version_is_named_and_nothing_falls_over(
    townhome: Home, loop: Reconciler, client: MlflowClient
) -> None:
    """REG-01: by MLflow's client, and by SQL that leaves the alias dangling."""
    town.won(townhome, 2)
    promote(townhome, town.SETTINGS, 2, actor="ada")
    loop.step()
    client.delete_model_version(NAME, "2")
    loop.step()
    assert "Version 2 is champion, but is not in MLflow any more" in model(client)
    assert aliases(client) == {"previous": 1}
    sql(townhome, "INSERT INTO registered_model_aliases (alias, version, name) VALUES ('champion', 2, ?)", NAME)
    loop.step()
    assert aliases(client) == {"previous": 1}
    assert standing(townhome)["champion"] == 2
    client.set_registered_model_alias(NAME, "champion", "1")
    loop.step()
    assert (aliases(client), standing(townhome)) == ({"champion": 1}, {"champion": 1})
    assert "not in MLflow any more" not in model(client)


@pytest.mark.parametrize("alias", ["Champion", "champion ", "ｃhampion", "CHALLENGER"])
def test_an_alias_that_only_looks_like_ours_is_removed(
    townhome: Home, loop: Reconciler, client: MlflowClient, alias: str
) -> None:
    sql(townhome, "INSERT INTO registered_model_aliases (alias, version, name) VALUES (?, 3, ?)", alias, NAME)
    loop.step()
    assert aliases(client) == {"champion": 1}
    assert "only looks like" in page(client, 3).description


def test_other_aliases_are_left_alone(townhome: Home, loop: Reconciler, client: MlflowClient) -> None:
    client.set_registered_model_alias(NAME, "best-of-november", "3")
    loop.step()
    assert aliases(client) == {"champion": 1, "best-of-november": 3}


def test_two_wishes_within_50_ms_end_in_one_decision(townhome: Home, loop: Reconciler, client: MlflowClient) -> None:
    """REG-03: one sets it in MLflow, the other on the command line; both had won against version 1."""
    town.won(townhome, 2)
    town.won(townhome, 3)
    client.set_registered_model_alias(NAME, "champion", "3")
    assert promote(townhome, town.SETTINGS, 2, actor="ada").accepted
    loop.step()
    assert (aliases(client), standing(townhome)) == ({"champion": 2, "previous": 1},) * 2
    assert "is champion now" in page(client, 3).tags["refused"]
    client.set_registered_model_alias(NAME, "champion", "4")
    client.set_registered_model_alias(NAME, "champion", "1")
    loop.step()
    assert standing(townhome) == {"champion": 1}


def test_what_the_command_line_decided_is_mirrored_and_is_no_wish(
    townhome: Home, loop: Reconciler, client: MlflowClient
) -> None:
    town.won(townhome, 2)
    promote(townhome, town.SETTINGS, 2, actor="ada")
    loop.step()
    assert aliases(client) == {"champion": 2, "previous": 1}
    rollback(townhome, town.SETTINGS, actor="ada")
    count = len(town.lines(townhome))
    for _ in range(3):
        loop.step()
    assert aliases(client) == {"champion": 1}
    assert len(town.lines(townhome)) == count


def test_old_news_is_no_wish_after_a_restart_or_a_restore(townhome: Home, client: MlflowClient) -> None:
    """A loop that never ran before, and MLflow's database put back from a backup, do not undo a promotion."""
    backup = townhome.registry.read_bytes()
    town.won(townhome, 2)
    promote(townhome, town.SETTINGS, 2, actor="ada")
    first = Reconciler(townhome, town.SETTINGS, pack=False)
    first.step()
    assert aliases(client)["champion"] == 2
    part = townhome.registry.with_suffix(".restored")
    part.write_bytes(backup)
    part.replace(townhome.registry)
    first.step()
    with sqlite3.connect(townhome.registry) as file:  # what is in the file, not in one that somebody still holds open
        found = dict(file.execute("SELECT alias, version FROM registered_model_aliases").fetchall())
    file.close()
    assert (standing(townhome), found) == ({"champion": 2, "previous": 1},) * 2
    first.close()


def test_pages_say_who_serves_what_since_when(townhome: Home, loop: Reconciler, client: MlflowClient) -> None:
    since = 1_700_000_000_000
    file = worker(townhome, serves={"champion": 1}, refuses={2: "weights/a.npy: damaged"}, since=since)
    loop.step()
    words = f"by 1 of 1 workers (process {os.getpid()}) since 2023-11-14 22:13:20 UTC"
    assert page(client, 1).tags["live"] == f"champion {words}"
    assert f"Served {words}" in page(client, 1).description
    assert f"Refused by worker {os.getpid()}" in page(client, 2).tags["refused"]
    assert "weights/a.npy: damaged" in page(client, 2).description
    file.unlink()
    loop.step()
    assert page(client, 1).tags["live"] == "champion by nobody: no worker runs"
    assert "refused" not in page(client, 2).tags


def test_a_release_that_all_workers_refuse_is_taken_back(
    townhome: Home, loop: Reconciler, client: MlflowClient
) -> None:
    town.won(townhome, 2)
    promote(townhome, town.SETTINGS, 2, actor="ada")
    worker(townhome, serves={"champion": 1}, refuses={2: "its golden requests answer NaN"})
    townhome.registry.rename(townhome.registry.with_suffix(".away"))  # MLflow need not be there
    with pytest.raises(PagesError):
        loop.step()
    assert standing(townhome) == {"champion": 1}
    assert "golden requests" in town.lines(townhome, "rollback")[-1].body["rule"]
    townhome.registry.with_suffix(".away").rename(townhome.registry)
    for _ in range(3):
        loop.step()
    assert len(town.lines(townhome, "rollback")) == 1
    assert "Version 2 was taken back: all 1 workers refused version 2: its golden requests answer NaN" in model(client)
    assert "golden requests" in page(client, 2).description


def test_the_first_champion_refused_by_all_stays_and_it_is_said(
    townhome: Home, loop: Reconciler, client: MlflowClient
) -> None:
    worker(townhome, serves={}, refuses={1: "damaged"})
    loop.step()
    assert standing(townhome) == {"champion": 1}
    assert "There is nothing to go back to, and all 1 workers refused version 1: damaged" in model(client)


def test_nothing_is_written_while_nothing_happens(townhome: Home, loop: Reconciler) -> None:
    loop.step()
    loop.step()
    before = townhome.registry.stat().st_mtime_ns, townhome.ledger.stat().st_mtime_ns
    for _ in range(5):
        loop.step()
    assert (townhome.registry.stat().st_mtime_ns, townhome.ledger.stat().st_mtime_ns) == before


def test_a_version_that_no_training_registered_is_refused(
    townhome: Home, loop: Reconciler, client: MlflowClient
) -> None:
    tags = {"release": town.made(townhome, 1)["release"]}
    alien = client.create_model_version(NAME, f"models:/{NAME}/1", tags=tags)
    client.set_registered_model_alias(NAME, "challenger", alien.version)
    loop.step()
    assert aliases(client) == {"champion": 1}
    assert "not registered by greenlight train" in page(client, int(alien.version)).description


def test_an_altered_ledger_decides_nothing(townhome: Home, loop: Reconciler, client: MlflowClient) -> None:
    town.won(townhome, 3, verdict="fail")
    text = townhome.ledger.read_text()
    townhome.ledger.write_text(text.replace('"verdict":"fail"', '"verdict":"pass"'))
    client.set_registered_model_alias(NAME, "champion", "3")
    with pytest.raises(LedgerError, match="altered"):
        loop.step()


@pytest.mark.parametrize("trouble", ["missing", "locked"])
def test_the_loop_outlives_trouble_with_the_database(townhome: Home, client: MlflowClient, trouble: str) -> None:
    """`python -m pipelines.reconcile` as it runs for ever: one sentence for a trouble, then it goes on."""
    environment = {**os.environ, "GREENLIGHT_HOME": str(townhome.root), "GREENLIGHT_CLOCK": "wall"}
    output = townhome.root / "reconcile.log"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.reconcile", "--no-bento"],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=file,
        )
    try:
        until(lambda: "Stands as champion" in page(client, 1).description)
        away, holder = townhome.registry.with_suffix(".away"), sqlite3.connect(townhome.registry)
        if trouble == "missing":
            townhome.registry.rename(away)
        else:
            holder.execute("BEGIN EXCLUSIVE")
        until(lambda: "trying again" in output.read_text())
        town.won(townhome, 2)
        promote(townhome, town.SETTINGS, 2, actor="ada")
        time.sleep(3)
        assert process.poll() is None
        said = [line[24:] for line in output.read_text().splitlines()]  # after the time
        assert len(said) == len(set(said)) < 4, said
        holder.close()
        if trouble == "missing":
            away.rename(townhome.registry)
        until(lambda: aliases(client).get("champion") == 2)
        assert "Traceback" not in output.read_text()
    finally:
        process.terminate()
        process.wait()


def until(look: Callable[[], bool], patience_s: float = 120.0) -> None:
    end = time.monotonic() + patience_s
    while not look():
        assert time.monotonic() < end
        time.sleep(0.2)

"""Promotion and rollback: every row of the alias gate on a real ledger, MLflow down, two processes at once."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf.home import Home
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Ledger, LedgerError
from pipelines.promote import Outcome, PromoteError, deciding, promote, rollback
from tests import town

pytestmark = pytest.mark.server
ROOT = Path(__file__).parents[2]


def wish(home: Home, version: int, alias: str = "champion") -> Outcome:
    return promote(home, town.SETTINGS, version, alias, actor="ada")


def back(home: Home, reason: str = "") -> Outcome:
    return rollback(home, town.SETTINGS, actor="ada", reason=reason)


def standing(home: Home) -> dict[str, int]:
    return {a: e.body["version"] for a, e in in_charge(Ledger.to_read(home.ledger, home.keys)).items()}


def greenlight(home: Home, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "GREENLIGHT_HOME": str(home.root), "GREENLIGHT_CLOCK": "wall"}
    command = [sys.executable, "-m", "greenlight", *words]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def spoil(home: Home, version: int) -> None:
    weights = next((home.releases / town.made(home, version)["release"] / "weights").iterdir())
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")


def no_decision(home: Home) -> None:
    pass


def outdated(home: Home) -> None:
    town.won(home, 3)
    town.won(home, 2)
    assert wish(home, 2).accepted


ROWS: list[tuple[str, Callable[[Home], Any], int, str, bool, str, str]] = [
    ("no A/B", no_decision, 3, "champion", False, "alias", "gate online has not judged version 3"),
    ("A/B lost", lambda h: town.won(h, 3, verdict="fail"), 3, "champion", False, "alias", "gate online says fail"),
    ("A/B in doubt", lambda h: town.won(h, 3, verdict="cannot say"), 3, "champion", False, "alias", "cannot say"),
    ("A/B old", lambda h: town.won(h, 3, days=-2), 3, "champion", False, "alias", "valid until 2.0 days ago"),
    ("A/B against another", outdated, 3, "champion", False, "alias", "version 2 ("),
    ("A/B won", lambda h: town.won(h, 3), 3, "champion", True, "", "gates inputs, offline, infra and online passed"),
    ("screened", no_decision, 3, "challenger", True, "", "gates inputs, offline and infra passed"),
    ("the champion itself", no_decision, 1, "challenger", False, "alias", "version 1 is the champion"),
    ("champion already", no_decision, 1, "champion", True, "", "is champion already"),
    ("another in its A/B", lambda h: wish(h, 2, "challenger"), 3, "challenger", False, "alias", "version 3 waits"),
    ("previous by hand", no_decision, 3, "previous", False, "alias", "previous is never set by hand"),
    ("no such alias", no_decision, 3, "prod", False, "alias", "no alias 'prod'"),
    ("damaged", lambda h: spoil(h, 3), 3, "challenger", False, "release", "damaged"),
]
for _gate in ("inputs", "offline", "infra"):
    for _alias in ("champion", "challenger"):

        def _red(home: Home, gate: str = _gate) -> None:
            town.won(home, 3)
            subject = "snap1" if gate == "inputs" else town.made(home, 3)["release"]
            town.judged(home, subject, gate, "fail", evidence={"champion": town.made(home, 1)["release"]})

        ROWS.append((f"{_gate} red", _red, 3, _alias, False, "alias", f"gate {_gate} says fail"))


@pytest.mark.parametrize(
    ("prepare", "version", "alias", "accepted", "gate", "words"),
    [row[1:] for row in ROWS],
    ids=[f"{row[0]}, {row[3]}" for row in ROWS],
)
def test_each_row_of_the_alias_gate(
    townhome: Home,
    prepare: Callable[[Home], Any],
    version: int,
    alias: str,
    accepted: bool,
    gate: str,
    words: str,
) -> None:
    prepare(townhome)
    before, outcome = len(town.lines(townhome)), wish(townhome, version, alias)
    assert (outcome.accepted, words in outcome.sentence) == (accepted, True), outcome.sentence
    written = town.lines(townhome)[before:]
    if not accepted:
        (line,) = written
        assert (line.kind, line.actor, line.body["gate"], line.body["alias"]) == ("refusal", "ada", gate, alias)
        assert words in line.body["reason"]
        assert standing(townhome).get(alias) != version or alias == "champion"
    elif outcome.kind == "promotion":
        *plan, line = written
        assert [each.kind for each in plan] == (["experiment"] if alias == "challenger" else [])
        assert (line.kind, line.body["version"]) == ("promotion", version)
        assert standing(townhome)[alias] == version
        gates = {e.body["gate"] for e in town.lines(townhome, "decision") if e.seq in line.body["evidence"].values()}
        assert gates == set(line.body["evidence"])
    else:
        assert written == []


def test_the_same_refusal_at_once_is_one_line(townhome: Home) -> None:
    wish(townhome, 3)
    wish(townhome, 3)
    wish(townhome, 2)
    wish(townhome, 3)
    assert [e.body["version"] for e in town.lines(townhome, "refusal")] == [3, 2, 3]


def test_rollback_goes_back_step_by_step_and_says_where_it_ends(townhome: Home) -> None:
    town.won(townhome, 2)
    assert wish(townhome, 2).accepted
    town.won(townhome, 3, against=2)
    assert not wish(townhome, 3).accepted  # its offline comparison was with version 1
    town.judged(
        townhome, town.made(townhome, 3)["release"], "offline", evidence={"champion": town.made(townhome, 2)["release"]}
    )
    assert wish(townhome, 3).accepted
    assert standing(townhome) == {"champion": 3, "previous": 2}
    outcome = back(townhome, "slates repeat")
    assert outcome.sentence == "Version 2 (Tiny) is champion again, after version 3: rollback by ada: slates repeat."
    assert (outcome.kind, standing(townhome)) == ("rollback", {"champion": 2, "previous": 1})
    assert wish(townhome, 1).kind == "rollback"
    assert standing(townhome) == {"champion": 1}
    assert back(townhome).sentence == "There is nothing to go back to: version 1 is the first champion."


def test_rollback_refuses_damaged_files(townhome: Home) -> None:
    town.won(townhome, 2)
    wish(townhome, 2)
    spoil(townhome, 1)
    outcome = back(townhome)
    assert (outcome.accepted, standing(townhome)["champion"]) == (False, 2)
    assert "damaged" in outcome.sentence


@pytest.mark.parametrize("trouble", ["gone", "locked", "rubbish"])
def test_both_work_with_mlflow_down(townhome: Home, trouble: str) -> None:
    database = townhome.registry
    town.won(townhome, 2)
    holder = sqlite3.connect(database)
    if trouble == "locked":
        holder.execute("BEGIN EXCLUSIVE")
    elif trouble == "gone":
        database.rename(database.with_suffix(".away"))
    else:
        database.write_bytes(b"rubbish" * 1000)
    for words, champion in ((("promote", "2"), 2), (("rollback", "--reason", "MLflow is down"), 1)):
        verb = greenlight(townhome, *words, "--json")
        out, err = verb.communicate(timeout=300)
        assert verb.returncode == 0, err
        assert json.loads(out)["workers"]["sentence"] == "No worker runs: the next one to start serves it."
        assert standing(townhome)["champion"] == champion
    holder.close()


def test_of_two_wishes_at_once_one_wins_and_the_other_is_told(townhome: Home) -> None:
    """REG-03, from two processes."""
    town.won(townhome, 2)
    town.won(townhome, 3)
    both = [greenlight(townhome, "promote", str(version), "--json") for version in (2, 3)]
    ended = [(verb.communicate(timeout=300), verb.returncode) for verb in both]
    assert sorted(status for _, status in ended) == [0, 1], ended
    told = {json.loads(out)["version"]: json.loads(out) for (out, _), _ in ended}
    (winner,) = [version for version, one in told.items() if one["accepted"]]
    loser = 5 - winner
    assert standing(townhome) == {"champion": winner, "previous": 1}
    assert f"version {winner} (" in told[loser]["sentence"]
    assert "is champion now" in told[loser]["sentence"]
    assert [e.body["version"] for e in town.lines(townhome, "refusal")] == [loser]


def test_who_waits_for_the_chair_decides_on_what_was_decided_before(townhome: Home) -> None:
    """REG-03, in slow motion: a slow decision is under way while another is wished."""
    town.won(townhome, 2)
    town.won(townhome, 3)
    ended: list[Outcome] = []
    waiting = threading.Thread(target=lambda: ended.append(wish(townhome, 3)))
    with deciding(townhome, town.SETTINGS) as chair:
        waiting.start()
        waiting.join(1.0)
        assert chair.wish(chair.registered(2), "champion", "grace").accepted
    waiting.join(60)
    assert "is champion now" in ended[0].sentence
    assert standing(townhome)["champion"] == 2


def test_what_makes_no_sense_is_wrong_use(townhome: Home) -> None:
    with pytest.raises(PromoteError, match="there is no version 9: the ledger knows 1, 2, 3, 4"):
        wish(townhome, 9)
    verb = greenlight(townhome, "promote", "9")
    assert "there is no version 9" in verb.communicate(timeout=300)[1]
    assert verb.returncode == 2


def test_nothing_is_decided_on_an_altered_ledger(townhome: Home) -> None:
    town.won(townhome, 3, verdict="fail")
    text = townhome.ledger.read_text()
    townhome.ledger.write_text(text.replace('"gate":"online"', '"gate":"onlin_"'))
    with pytest.raises(LedgerError):
        wish(townhome, 3)


def test_a_new_home_has_nothing_to_promote(home: Home) -> None:
    with pytest.raises(PromoteError, match="there is no version 1: greenlight train makes the first"):
        wish(home, 1)
    assert back(home).sentence == "There is nothing to go back to: there is no champion."
    shutil.rmtree(home.root)

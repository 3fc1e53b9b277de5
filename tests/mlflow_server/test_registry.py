"""The MLflow side: the database is made whole or not at all, words and pictures say what was measured."""

import sqlite3
from pathlib import Path

import pytest

from conf.home import Home
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Ledger, SigningKey
from mlflow_server.registry import Registry
from mlflow_server.shown import Standing, comparison, ranged, signed
from models.ranking import Interval

HALF = Interval(0.5, 0.4, 0.6)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.jsonl", SigningKey(tmp_path / "keys"))


def promoted(ledger: Ledger, alias: str, release: str) -> None:
    body = {"version": int(release[1:]), "release": release, "alias": alias, "rule": "r", "from": None}
    ledger.append("promotion", body, actor="ada", ts=1)


def releases(ledger: Ledger) -> dict[str, str]:
    return {alias: entry.body["release"] for alias, entry in in_charge(ledger).items()}


def test_who_is_in_charge_follows_the_ledger(ledger: Ledger) -> None:
    assert releases(ledger) == {}
    promoted(ledger, "champion", "r1")
    assert releases(ledger) == {"champion": "r1"}
    promoted(ledger, "challenger", "r2")
    assert releases(ledger) == {"champion": "r1", "challenger": "r2"}
    promoted(ledger, "champion", "r2")
    assert releases(ledger) == {"champion": "r2", "previous": "r1"}
    promoted(ledger, "champion", "r2")
    assert releases(ledger) == {"champion": "r2", "previous": "r1"}
    promoted(ledger, "champion", "r1")
    assert releases(ledger) == {"champion": "r1", "previous": "r2"}


def test_a_challenger_that_is_withdrawn_leaves_its_place_free(ledger: Ledger) -> None:
    promoted(ledger, "champion", "r1")
    promoted(ledger, "challenger", "r2")
    ledger.append("withdrawal", {"alias": "challenger", "version": 3, "release": "r3"}, actor="ada", ts=1)
    assert releases(ledger) == {"champion": "r1", "challenger": "r2"}
    ledger.append("withdrawal", {"alias": "challenger", "version": 2, "release": "r2"}, actor="ada", ts=1)
    assert releases(ledger) == {"champion": "r1"}


def test_a_half_made_database_is_made_anew(home: Home) -> None:
    """What a killed first start leaves is a `.part`, never a registry that is half there."""
    half = home.registry.with_suffix(".part")
    with sqlite3.connect(half) as database:
        database.execute("create table experiments (experiment_id integer)")
    registry = Registry(home)
    assert not half.exists()
    experiment = registry.client.get_experiment(registry.experiment)
    assert (experiment.name, experiment.artifact_location) == ("recommender", str(home.artifacts))
    run = registry.start("one", {"kind": "candidate"})
    registry.measured(run, params={"a": 1}, metrics={"ndcg_at_10": HALF, "nothing": float("nan")})
    assert Registry(home).close_runs("KILLED", "the training was interrupted") == 1
    closed = registry.client.get_run(run)
    assert (closed.info.status, closed.data.tags["failed"]) == ("KILLED", "the training was interrupted")
    assert closed.data.metrics == {"ndcg_at_10": 0.5, "ndcg_at_10_low": 0.4, "ndcg_at_10_high": 0.6}


def test_numbers_in_words() -> None:
    assert ranged(HALF) == "0.5000 [0.4000, 0.6000]"
    assert signed(HALF) == "+0.5000 [+0.4000, +0.6000]"
    assert (ranged(None), signed(None)) == ("-", "-")


def test_the_picture_marks_the_champion_and_leaves_out_what_has_no_number() -> None:
    standings = [
        Standing("popularity", 1, HALF, None, "passed"),
        Standing("ranker", 2, HALF, Interval(0.1, 0.05, 0.2), "champion"),
        Standing("broken", None, None, None, "failed"),
    ]
    axes = comparison(standings).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["popularity (version 1)", "ranker (version 2)"]
    words = [text.get_text().strip() for text in axes.texts]
    assert words == ["passed", "champion  +0.1000 [+0.0500, +0.2000]"]


def test_a_picture_of_nothing_is_empty_and_not_an_error() -> None:
    assert list(comparison([Standing("broken", None, None, None, "failed")]).axes[0].texts) == []

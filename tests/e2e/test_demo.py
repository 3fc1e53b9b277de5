"""The whole loop as a newcomer runs it, and what it leaves behind: everything after it works with all servers down."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.browser import chromium
from conf.home import Home
from conf.settings import Settings
from mlflow_server.accounts import accounts
from pipelines.serve import serve_registry

Greenlight = Callable[..., subprocess.CompletedProcess[str]]

STEPS = [
    *("events in", "snapshot", "train", "gates", "a bad candidate", "first champion", "Bento", "serve"),
    *("first slate", "weights gone", "back"),
    *("audience", "viewers react", "taste moves", "drift report", "size", "retrain", "A/B", "promotion"),
]

pytestmark = [pytest.mark.server, pytest.mark.timeout(600), pytest.mark.xdist_group("demo")]


@pytest.fixture(scope="module")
def board(told: Path) -> dict[str, Any]:
    return json.loads((told / "demo.json").read_text())


def test_every_step_succeeds_in_order(board: dict[str, Any]) -> None:
    promoted = board["verdict"] == "promote"
    assert [step["name"] for step in board["steps"]] == [*STEPS, *(["rollback"] if promoted else []), "pages"]
    assert all(step["ok"] and step["note"] for step in board["steps"])
    assert 0 < board["first_recommendation_s"] <= board["total_s"]


def test_the_bad_candidate_was_refused_with_the_reason(board: dict[str, Any]) -> None:
    refused = {one["candidate"]: one for one in board["refused"]}
    assert refused["UpsideDown"]["gate"] == "offline"
    assert "random" in refused["UpsideDown"]["reason"]


def test_no_request_failed_while_a_worker_was_killed(board: dict[str, Any]) -> None:
    back = next(step["note"] for step in board["steps"] if step["name"] == "back")
    assert " 0 failed" in back
    assert "precomputed" in back


def test_the_taste_that_moved_was_found_and_mailed(told: Path, board: dict[str, Any]) -> None:
    assert board["drift"]["verdict"] == "moved"
    letter = (told / "outbox" / f"{board['mail']}.eml").read_text()
    assert "Subject: " in letter
    assert "moved" in letter.partition("\n\n")[0]


def test_the_verdict_and_the_ledger_agree(told: Path, board: dict[str, Any], greenlight: Greenlight) -> None:
    entries = json.loads(greenlight(told, "ledger", "--json").stdout)["entries"]
    verdicts = [entry["body"]["verdict"] for entry in entries if entry["kind"] == "verdict"]
    assert verdicts == [board["verdict"]]
    champions = [one["version"] for one in board["promotions"] if one["alias"] == "champion"]
    assert len(champions) == (2 if board["verdict"] == "promote" else 1)
    rollbacks = [entry["body"]["version"] for entry in entries if entry["kind"] == "rollback"]
    assert rollbacks == ([board["champion"]["version"]] if board["verdict"] == "promote" else [])


def test_what_learned_from_the_slates_is_promoted(board: dict[str, Any]) -> None:
    """By chance it is not, once in more than a hundred times: the A/B is sized to find a fifth more with 99 % power."""
    assert board["size"]["power"] == 0.99
    assert board["verdict"] == "promote"


def test_why_traces_the_first_slate(told: Path, board: dict[str, Any], greenlight: Greenlight) -> None:
    trace = json.loads(greenlight(told, "why", board["request_id"], "--json").stdout)
    assert trace["request_id"] == board["request_id"]
    assert (trace["rung"], trace["arm"]) == ("model", "champion")
    assert trace["model_version"] == board["champion"]["version"]
    assert {gate: d["verdict"] for gate, d in trace["gates"].items()} == dict.fromkeys(
        ("inputs", "offline", "infra"), "pass"
    )
    assert (told / "snapshots" / trace["snapshot"]).is_dir()
    assert (told / "releases" / trace["release"]).is_dir()
    assert trace["commit"]


def test_why_traces_a_slate_from_a_lower_rung(told: Path, board: dict[str, Any], greenlight: Greenlight) -> None:
    everything = greenlight(told, "data", "export", "-").stdout.splitlines()
    rows = [json.loads(line) for line in everything if '"impression"' in line]
    lower = next(row for row in rows if row["rung"] == "precomputed")
    trace = json.loads(greenlight(told, "why", lower["event_id"], "--json").stdout)
    assert (trace["rung"], trace["model_version"]) == ("precomputed", board["champion"]["version"])
    assert set(lower["propensities"]) == {1.0}


def test_the_ledger_and_every_part_hold_afterwards(told: Path, greenlight: Greenlight) -> None:
    assert json.loads(greenlight(told, "ledger", "--verify", "--json").stdout)["holds"]
    status = greenlight(told, "status", "--json")
    assert status.returncode == 0
    parts = {part["name"]: part["state"] for part in json.loads(status.stdout)["parts"]}
    filled = ("log", "history", "snapshot", "ledger", "registry", "champion", "bento", "aliases", "disk")
    assert {name: parts[name] for name in filled} == dict.fromkeys(filled, "ok")
    assert set(parts.values()) <= {"ok", "empty"}  # nothing runs any more


def test_no_server_is_left_behind(told: Path) -> None:
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(told) not in running


@pytest.fixture(scope="module")
def registry(told: Path) -> Iterator[str]:
    with serve_registry(Home(told), Settings(), port=0) as server:
        yield server.url


def test_the_registry_page_names_the_champion_and_why(
    registry: str, told: Path, board: dict[str, Any], need: Callable[[str], str]
) -> None:
    """Someone who sees only this page names the version to promote and why."""
    champion, lead = board["champion"], accounts(Home(told)).lead
    with chromium(need("chromium")) as page:
        page.log_in(lead.name, lead.password)
        page.open(
            f"{registry}/#/models/recommender", f"Version {champion['version']} ({champion['model']}) is champion"
        )
        assert "refused by offline" in page.text()


def test_the_registry_has_each_candidate_as_a_run_for_those_who_log_in(registry: str, told: Path) -> None:
    wanted = f"{registry}/api/2.0/mlflow/registered-models/get-latest-versions", {"name": "recommender"}
    lead = accounts(Home(told)).lead
    found = httpx.post(wanted[0], json=wanted[1], auth=(lead.name, lead.password)).json()
    assert found["model_versions"]
    assert httpx.post(wanted[0], json=wanted[1]).status_code == 401
    assert httpx.post(wanted[0], json=wanted[1], auth=(lead.name, "guess")).status_code == 401


def test_a_source_too_small_to_learn_from_ends_honestly(tmp_path: Path, greenlight: Greenlight) -> None:
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n" + "".join(f"{u},{u % 3},4.0,{1_700_000_000 + u}\n" for u in range(30))
    )
    done = greenlight(tmp_path / "home", "demo", "--once", "--json", "--data", str(tmp_path / "ratings.csv"))
    assert done.returncode == 1
    board = json.loads((tmp_path / "home" / "demo.json").read_text())
    assert json.loads(done.stdout) == board
    assert "inputs" in done.stderr
    assert board["champion"] is None
    assert board["refused"][0]["gate"] == "inputs"
    assert "request_id" in board

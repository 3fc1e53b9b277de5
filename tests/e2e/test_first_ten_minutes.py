"""Each command of the README's first ten minutes, as it stands there, in one bash, on the home that the demo left."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from benchmarks.browser import Page, chromium
from benchmarks.running import ROOT, up
from conf.home import Home
from mlflow_server.accounts import accounts
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Decision, Ledger
from serving.report import reports

SECTION = re.search(r"## The first ten minutes\n(.*?)\n### ", (ROOT / "README.md").read_text(), re.DOTALL)
COMMANDS = re.findall(r"^    (\S(?:.*\\\n)*.*)$", SECTION[1] if SECTION else "", re.MULTILINE)
PATIENCE_S = 120.0
EDITOR = "document.querySelector('[data-component-id*=modelversionviewaliaseditor]')"
FIELD = "document.querySelector('[role=dialog] input[role=combobox]')"
SAVE = "document.querySelector('[data-component-id=\"mlflow.edit-aliases-modal.save-button\"]:not([disabled])')"

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]


class Running(NamedTuple):
    """A home with everything up."""

    home: Home
    ready: dict[str, Any]
    api: httpx.Client

    def release_of(self, user: str) -> str:
        answer = self.api.get(f"/recommend/{user}")
        assert answer.status_code == 200
        return answer.headers["x-release"]


def eventually(what: Callable[[], Any]) -> Any:
    until = time.monotonic() + PATIENCE_S
    while not (found := what()) and time.monotonic() < until:
        time.sleep(0.1)
    assert found
    return found


@pytest.fixture(scope="module")
def home(told: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("minutes") / "home"
    shutil.copytree(told, root, ignore=shutil.ignore_patterns("api-keys.*"))  # so that a first key is made here
    return root


@pytest.fixture(scope="module")
def running(home: Path) -> Iterator[Running]:
    with up(Home(home)) as ready:
        key = {"Authorization": f"Bearer {ready['key']}"}
        with httpx.Client(base_url=ready["api"], headers=key, trust_env=False, timeout=PATIENCE_S) as api:
            yield Running(Home(home), ready, api)


def bash(home: Path, command: str, **more: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "GREENLIGHT_HOME": str(home), "PATH": path, **more}
    return subprocess.run(
        ["bash", "-c", command], cwd=home.parent, env=environment, capture_output=True, text=True, check=False
    )


def commands(*words: str) -> list[str]:
    """Those of the README that hold all of the words, without the comment at their end."""
    found = [re.sub(r"\s+# .*$", "", c) for c in COMMANDS if all(word in c for word in words)]
    assert found, words
    return found


def test_the_readme_has_the_commands_that_are_run_here() -> None:
    heads = ["source", "export", "greenlight", "curl"]
    assert len(COMMANDS) >= 14
    assert {command.split()[0] for command in COMMANDS} == set(heads)


@pytest.mark.parametrize("words", [("data import",), ("data export",), ("status",)], ids=" ".join)
def test_what_needs_no_server(home: Path, words: tuple[str, ...]) -> None:
    for command in commands("greenlight", *words):
        done = bash(home, command)
        assert done.returncode == 0, done.stderr


def test_training(fresh_home: Callable[[], Home]) -> None:
    """On a quarter of the ratings: every model of the README and 20 trials take minutes on all of them."""
    home = fresh_home()
    for command in commands("greenlight train"):
        done = bash(home.root, command)
        assert done.returncode in (0, 1), done.stderr  # 1: nobody passed


def test_asking_posting_and_why(running: Running) -> None:
    settings = {"KEY": running.ready["key"]}
    for command in commands("curl"):
        done = bash(running.home.root, command.replace("localhost:3000", running.ready["api"]) + " --fail", **settings)
        assert done.returncode == 0, done.stdout + done.stderr
    request = running.api.get("/recommend/42").headers["x-request-id"]
    (why,) = commands("greenlight why")
    eventually(lambda: bash(running.home.root, why.replace("<the X-Request-Id>", request)).returncode == 0)


def test_changing_ones_mind(running: Running) -> None:
    (promote,), (rollback,), (keys,) = commands("promote"), commands("rollback"), commands("keys")
    refused = bash(running.home.root, promote)
    assert (refused.returncode, "cannot be challenger" in refused.stdout + refused.stderr) == (1, True)
    assert bash(running.home.root, rollback).returncode == 1  # the first champion has nobody before it
    assert "gl_local_" in bash(running.home.root, keys).stdout


def test_everything_is_well(running: Running) -> None:
    def parts() -> dict[str, str]:
        return {
            p["name"]: p["state"]
            for p in json.loads(bash(running.home.root, "greenlight status --json").stdout)["parts"]
        }

    eventually(lambda: set(parts().values()) == {"ok"})


def test_what_a_viewer_has_just_watched_is_not_offered_again(running: Running) -> None:
    first = running.api.get("/recommend/newcomer", params={"k": 3}).text.strip().split(",")[0]
    watched = {"kind": "watch", "user_id": "newcomer", "movie_id": first, "minute": 1}
    answer = running.api.post("/v1/events", json=[watched])
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
    slates = lambda: [running.api.get("/recommend/newcomer").text.strip().split(",") for _ in range(20)]  # noqa: E731
    eventually(lambda: not any(first in slate for slate in slates()))


def set_alias(page: Page, url: str, version: int, alias: str) -> None:
    """As a person does: the editor on the version's page, a name, Save."""
    page.open(f"{url}/#/models/recommender/versions/{version}", "Aliases")
    page.press(EDITOR)
    page.wait(f"{FIELD} && (document.activeElement === {FIELD} || ({FIELD}.focus(), false))")  # the dialog moves first
    page.type(alias)
    page.wait(f"{FIELD}.value == {alias!r}")
    page.enter()
    page.wait(f"{FIELD}.value == ''")
    page.press(SAVE)
    page.wait("!document.querySelector('[role=dialog]')")


def test_a_promotion_in_mlflows_pages_changes_what_the_service_answers(
    running: Running, need: Callable[[str], str]
) -> None:
    home, lead = running.home, accounts(running.home).lead
    bash(home.root, 'greenlight experiment stop --reason "the lead has seen enough"')  # of one that training began
    ledger = Ledger.to_write(home.ledger, home.keys)
    first = in_charge(ledger)["champion"].body
    wanted = next(e.body for e in ledger.entries("registered") if e.body["model"] == "popularity")
    pages = f"{running.ready['registry']}/#/models/recommender/versions/{wanted['version']}"
    eventually(lambda: {running.release_of(str(user)) for user in range(40)} == {first["release"]})
    with chromium(need("chromium")) as page:
        page.log_in(lead.name, lead.password)
        set_alias(page, running.ready["registry"], wanted["version"], "champion")
        page.open(pages, "Refused as champion")  # no A/B has shown that it is better
        refusal = list(ledger.entries("refusal"))[-1]
        assert refusal.body["reason"] in page.text()
        assert running.release_of("42") == first["release"]
        ts = max(entry.ts for entry in ledger.entries())
        for gate in ("offline", "online"):
            evidence = {"champion": first["release"]}
            found = Decision(
                gate, "pass", wanted["release"], None, None, "better", evidence=evidence, valid_until_ms=2 * ts
            )
            ledger.record(found, actor="test", ts=ts)
        set_alias(page, running.ready["registry"], wanted["version"], "champion")
        eventually(lambda: {running.release_of(str(user)) for user in range(40)} == {wanted["release"]})
        page.open(pages, "Live as champion since")
        page.open(f"{running.ready['registry']}/#/models/recommender", f"Version {wanted['version']} (popularity) is")
    for entry in (refusal, list(ledger.entries("promotion"))[-1]):
        assert (entry.actor, entry.body["version"]) == ("lead, in MLflow", wanted["version"])
    assert not any(lead.password in file.read_text() for file in home.logs.iterdir())
    back = bash(home.root, "greenlight rollback --json")
    assert back.returncode == 0, back.stderr
    assert {report.arms["champion"].release for report in reports(home)} == {first["release"]}
    assert {running.release_of(str(user)) for user in range(40)} == {first["release"]}

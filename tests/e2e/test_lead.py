"""The ML lead's way: an alias set in MLflow's own pages, in a browser, is judged, and the page says what came of it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.browser import Page, chromium
from conf.home import Home
from mlflow_server.accounts import accounts
from mlflow_server.in_charge import in_charge
from mlflow_server.ledger import Ledger
from pipelines.serve import serve_registry
from tests import town

ROOT = Path(__file__).parents[2]
EDITOR = "document.querySelector('[data-component-id*=modelversionviewaliaseditor]')"
FIELD = "document.querySelector('[role=dialog] input[role=combobox]')"
SAVE = "document.querySelector('[data-component-id=\"mlflow.edit-aliases-modal.save-button\"]:not([disabled])')"

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]


@pytest.fixture
def lived(townhome: Home) -> Home:
    town.won(townhome, 3)
    return townhome


@pytest.fixture
def registry(lived: Home) -> Iterator[str]:
    """MLflow's server, and the loop beside it as `greenlight up` runs it."""
    environment = {**os.environ, "GREENLIGHT_HOME": str(lived.root), "GREENLIGHT_CLOCK": "wall"}
    loop = subprocess.Popen([sys.executable, "-m", "pipelines.reconcile", "--no-bento"], cwd=ROOT, env=environment)
    try:
        with serve_registry(lived, town.SETTINGS, port=0) as server:
            yield server.url
    finally:
        loop.terminate()
        loop.wait()


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


def test_the_lead_promotes_in_the_browser(lived: Home, registry: str, need: Callable[[str], str]) -> None:
    lead = accounts(lived).lead
    with chromium(need("chromium")) as page:
        page.log_in(lead.name, lead.password)
        set_alias(page, registry, 2, "champion")
        page.open(f"{registry}/#/models/recommender/versions/2", "Refused as champion")
        assert "gate online has not judged version 2" in page.text()
        set_alias(page, registry, 3, "champion")
        page.open(f"{registry}/#/models/recommender/versions/3", "Stands as champion since")
        assert "Served by nobody: no worker runs" in page.text()
        page.open(f"{registry}/#/models/recommender", "Version 3 (Tiny) is champion")
    refusal, promotion = town.lines(lived, "refusal")[-1], town.lines(lived, "promotion")[-1]
    assert (refusal.actor, refusal.body["version"]) == ("lead, in MLflow", 2)
    assert (promotion.actor, promotion.body["version"]) == ("lead, in MLflow", 3)
    assert in_charge(Ledger.to_read(lived.ledger, lived.keys))["champion"].body["version"] == 3
    assert lead.password not in (lived.root / "registry.log").read_text()

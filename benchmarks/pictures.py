"""`make pictures`: the pictures in docs/, from a demo's home: python -m benchmarks.pictures [HOME]. Needs Chromium."""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from PIL import Image
from rich.console import Console

from benchmarks import letters
from benchmarks.browser import Page, chromium
from benchmarks.running import up
from conf.home import Home
from conf.settings import load
from mlflow_server.accounts import accounts
from pipelines.scoreboard import parts_table, show
from pipelines.status import parts

DOCS = Path(__file__).resolve().parent.parent / "docs"
COLUMNS = 118  # of the terminal
COLOURS = 256  # of a picture: half of the bytes
THERE = "/srv/greenlight"  # where the home is in the pictures, wherever it is
RENAME = """(() => { const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replace(%s, %s) })()"""
CLOSE = "document.querySelector('[aria-label=\"Close\"]')"  # the assistant, which MLflow opens beside its pages


def main(home: Home) -> None:
    board = json.loads((home.root / "demo.json").read_text())
    with tempfile.TemporaryDirectory() as scratch, chromium() as browser:
        page = Path(scratch) / "page.html"
        _terminal(browser, page, "scoreboard", lambda console: show(board | {"home": ".greenlight/demo"}, console))
        page.write_text(letters.page(next(home.outbox.rglob(f"{board['mail']}.eml")).read_bytes()))
        for width in (390, 1000):
            _file(browser, page, f"mail-{width}", width, 1300)
        _file(browser, Path(board["drift"]["report"]), "drift", 760, 960)
        with up(home) as ready:
            _mlflow(home, ready["registry"], board["champion"]["version"], browser)
            _terminal(browser, page, "status", lambda console: _status(home, console))
    for name, file in (("candidates", _plots(home, "comparison")[0]), ("experiment", _plots(home, "sequence")[-1])):
        shutil.copyfile(file, DOCS / f"{name}.png")
    for picture in DOCS.glob("*.png"):
        Image.open(picture).convert("RGB").quantize(COLOURS).save(picture, optimize=True)


def _terminal(browser: Page, page: Path, name: str, draw: Callable[[Console], None]) -> None:
    with open("/dev/null", "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, highlight=False)
        draw(console)
    page.write_text(console.export_html(inline_styles=True))
    _file(browser, page, name, 1160)


def _file(browser: Page, page: Path, name: str, width: int, height: int = 0) -> None:
    browser.open(page.as_uri())
    browser.picture(DOCS / f"{name}.png", width, height)


def _mlflow(home: Home, registry: str, champion: int, browser: Page) -> None:
    """Pages as the lead sees them."""
    lead = accounts(home).lead
    browser.log_in(lead.name, lead.password)
    model = f"{registry}/#/models/recommender"
    browser.open(model, "is champion")
    browser.press(CLOSE)
    browser.picture(DOCS / "registry.png", 1500, 850)
    browser.open(f"{model}/versions/{champion}", "Live as champion since")
    browser.picture(DOCS / "version.png", 1500, 850)
    file = _plots(home, "sequence")[-1]  # RUN/artifacts/experiment/sequence.png
    browser.open(f"{registry}/#/experiments/1/runs/{file.parents[2].name}/artifacts/experiment/{file.name}", file.name)
    browser.ask(RENAME % (json.dumps(str(home.root)), json.dumps(THERE)))
    browser.picture(DOCS / "run.png", 1500, 850)


def _status(home: Home, console: Console) -> None:
    root, found = str(home.root), parts(home, load())
    named = [replace(p, detail=p.detail.replace(root, THERE), next=p.next.replace(root, THERE)) for p in found]
    console.print(parts_table(named))


def _plots(home: Home, name: str) -> list[Path]:
    """Those of this name in MLflow's runs, oldest first."""
    return sorted(home.artifacts.rglob(f"{name}.png"), key=lambda file: file.stat().st_mtime)


if __name__ == "__main__":
    main(Home(Path(sys.argv[1] if len(sys.argv) > 1 else ".greenlight/demo").absolute()))

"""`make pictures`: the pictures in docs/, from a demo's home: python -m benchmarks.pictures [HOME]. Needs Chromium."""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

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


def main(home: Home) -> None:
    board, lead = json.loads((home.root / "demo.json").read_text()), accounts(home).lead
    with tempfile.TemporaryDirectory() as scratch, chromium() as browser:
        page = Path(scratch) / "page.html"
        page.write_text(_page(lambda console: show(board | {"home": ".greenlight/demo"}, console)))
        browser.open(page.as_uri())
        browser.picture(DOCS / "scoreboard.png", 1200, 500)
        browser.log_in(lead.name, lead.password)
        with up(home) as ready:
            model = f"{ready['registry']}/#/models/recommender"
            browser.open(f"{model}/versions/{board['champion']['version']}", "Live as champion since")
            browser.picture(DOCS / "version.png", 1900, 900)
            browser.open(model, "is champion")
            browser.picture(DOCS / "registry.png", 1900, 1000)
            page.write_text(_page(lambda console: console.print(parts_table(parts(home, load())))))
        browser.open(page.as_uri())
        browser.picture(DOCS / "status.png", 1200, 410)
        _letter(home, browser, page)
    plots = sorted(home.artifacts.rglob("*.png"), key=lambda file: file.stat().st_mtime)
    shutil.copyfile(plots[-1], DOCS / "candidates.png")


def _letter(home: Home, browser: Page, page: Path) -> None:
    """The newest letter in the outbox, as a phone and a desk show it."""
    for letter in sorted(home.outbox.glob("*.eml"))[-1:]:
        page.write_text(letters.page(letter.read_bytes()))
        browser.open(page.as_uri())
        for width in (390, 1000):
            browser.picture(DOCS / f"mail-{width}.png", width, 1500)


def _page(draw: Callable[[Console], None]) -> str:
    console = Console(record=True, width=118, file=open("/dev/null", "w"))  # noqa: SIM115 - lives as long as the process
    draw(console)
    return console.export_html(inline_styles=True)


if __name__ == "__main__":
    main(Home(Path(sys.argv[1] if len(sys.argv) > 1 else ".greenlight/demo").absolute()))

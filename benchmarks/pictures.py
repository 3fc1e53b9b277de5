"""`make pictures`: the pictures in docs/, from a demo's home: python -m benchmarks.pictures [HOME]. Needs Chromium."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from conf.home import Home
from conf.settings import load
from pipelines.scoreboard import show
from pipelines.serve import serve_registry

DOCS = Path(__file__).resolve().parent.parent / "docs"
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--virtual-time-budget=20000",  # the pages fetch what they show
)


def main(home: Home) -> None:
    board = json.loads((home.root / "demo.json").read_text())
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "scoreboard.html"
        page.write_text(_page(board))
        _picture(page.as_uri(), DOCS / "scoreboard.png", "1200,500", scratch)
        with serve_registry(home, load(), port=0) as registry:
            model = f"{registry.url}/#/models/recommender"
            _picture(model, DOCS / "registry.png", "1900,1000", scratch)
            _picture(f"{model}/versions/{board['champion']['version']}", DOCS / "version.png", "1900,900", scratch)
    plots = sorted(home.artifacts.rglob("*.png"), key=lambda file: file.stat().st_mtime)
    shutil.copyfile(plots[-1], DOCS / "candidates.png")


def _page(board: dict) -> str:
    console = Console(record=True, width=118, file=open("/dev/null", "w"))  # noqa: SIM115 - lives as long as the process
    show(board | {"home": ".greenlight/demo"}, console)
    return console.export_html(inline_styles=True)


def _picture(url: str, target: Path, size: str, scratch: str) -> None:
    command = ["chromium", *FLAGS, f"--user-data-dir={scratch}/chromium", f"--window-size={size}"]
    subprocess.run([*command, f"--screenshot={target}", url], check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    main(Home(Path(sys.argv[1] if len(sys.argv) > 1 else ".greenlight/demo").absolute()))

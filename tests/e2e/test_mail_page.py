"""Letters in a browser, wide as a phone and as a desk: nothing sticks out, nothing is fetched, every plot is seen."""

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure

from benchmarks.browser import chromium
from benchmarks.letters import page
from conf.sections.mail import Mail
from monitoring.mail import Letter, Plot, Section, compose

matplotlib.use("Agg")
ID = "3f2a9c" * 12
COLUMNS = tuple(f"column {n}" for n in range(25))


def plot(name: str, width: float) -> Plot:
    figure, out = Figure(figsize=(width, 4)), io.BytesIO()
    figure.subplots().plot([1, 3, 2])
    figure.savefig(out, format="png")
    return Plot(name, out.getvalue(), f"{name} over time")


LETTERS = {
    "report": Letter(
        "The audience has moved: rating, genre",
        "2 of the last 3 runs found a difference.",
        (
            Section(
                "Every column", (), (("column", "verdict", "p"), ("rating", "moved", "0.003"), ("hour", "quiet", "1"))
            ),
            Section("rating", plot=plot("rating", 6)),
            Section("genre", ("Horror rose.",), plot=plot("genre", 20)),
        ),
        "https://mlflow.example.org/#/experiments/1",
    ),
    "hostile": Letter(
        ID * 3,
        ID * 10 + " " + "ü" * 500,
        (
            Section(
                ID, (ID * 5, "<img src=http://example.test/x.png width=5000>"), (COLUMNS, (ID,) * 25, ("12.5 %",) * 25)
            ),
            Section("שלום" * 40, ("\u202e" + "שלום " * 100,), ((ID, "a"), ("b", "long words " * 30)), plot("wide", 30)),
        ),
        "https://mlflow.example.org/" + ID * 10,
    ),
}
SEEN = """(() => { const seen = [...document.images].map(i => i.complete && i.naturalWidth > 0);
  return {wide: document.documentElement.scrollWidth, window: innerWidth,
          images: seen.length, broken: seen.filter(s => !s).length,
          fetched: performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length,
          size: parseFloat(getComputedStyle(document.querySelector('p:not(.from)')).fontSize)} })()"""


@pytest.mark.server
def test_letters_fit_a_phone_and_a_desk(tmp_path: Path, need: Callable[[str], str]) -> None:
    with chromium(need("chromium")) as browser:
        for name, letter in LETTERS.items():
            (tmp_path / "page.html").write_text(page(compose(letter, Mail()).as_bytes()))
            browser.open((tmp_path / "page.html").as_uri(), letter.sections[0].heading)
            for width in (390, 1000):
                browser.picture(tmp_path / f"{name}-{width}.png", width, 900)
                seen = browser.ask(SEEN)
                assert (seen["window"], seen["wide"] <= width) == (width, True), (name, seen)
                assert (seen["images"], seen["broken"], seen["fetched"]) == (len(plots(letter)), 0, 0), (name, seen)
                assert seen["size"] >= 16


def plots(letter: Letter) -> list[Plot]:
    return [section.plot for section in letter.sections if section.plot]

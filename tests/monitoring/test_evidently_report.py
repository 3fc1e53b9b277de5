"""Evidently's report of traffic whose catalogue was written by who knows whom."""

from pathlib import Path

import numpy as np
import pytest

from monitoring.columns import Window, columns
from monitoring.drift import compare
from monitoring.drift_plots import plots
from monitoring.evidently_report import save

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!-- <img src=x onerror=alert(1)>",
    "$\\frac{",
    "a\nb\0c",
    "x" * 9999,
    "映画",
)


def window(seed: int) -> Window:
    rng, rows = np.random.default_rng(seed), 600
    genres = np.zeros((rows, len(HOSTILE)), bool)
    genres[np.arange(rows), rng.integers(0, len(HOSTILE) - seed, rows)] = True
    users = np.sort(rng.integers(0, 60, rows))
    viewers = np.array([f"u{n}" for n in range(60)])
    return Window(
        viewers,
        users,
        rng.integers(0, 99, rows),
        rng.integers(0, 10**9, rows),
        rng.random(rows),
        rng.random(rows) * 90,
        genres,
    )


@pytest.mark.filterwarnings("error")
def test_a_genre_is_a_name_in_the_page_and_in_the_picture_and_nothing_else(tmp_path: Path) -> None:
    before, after = window(0), window(1)
    assert save(before, after, HOSTILE, tmp_path) == ""
    page = (tmp_path / "evidently.html").read_text()
    assert "alert(1)" in page
    for raw in ("<script>alert(1)", "<!-- <img", "x" * 81):
        assert raw not in page
    found = compare(columns(before, after, HOSTILE, 20), level=0.01)
    assert all(plot.png.startswith(b"\x89PNG") for plot in plots(found))

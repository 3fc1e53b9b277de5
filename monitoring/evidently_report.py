"""Evidently's own report of two windows, kept as HTML and JSON for people to look into. It decides nothing.

Its default verdicts fire without drift on recommender traffic, where rows of a viewer resemble each other; the verdict
is drift.py's. Importing it takes seconds: only a short-lived process does.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from monitoring.columns import HOURS, POPULAR, Window, hour_bins, rank_bins
from monitoring.letter import one_line, shortened

NUMBERS = ("rating", "watched minutes", "movies of the viewer")
NAMES = ("genre", "hour", "popularity")
LONGEST = 80  # characters of a genre's name
NO_MARKUP = str.maketrans("<>", "‹›")  # Evidently writes names into a script of its page as they are


def save(reference: Window, current: Window, genres: Sequence[str], folder: Path) -> str:
    """Write evidently.html and evidently.json into a folder. Empty, or the reason why there is none, in words.

    A column that either window has no data of is left out: Evidently would refuse the whole report.
    """
    before, after = frame(reference, genres), frame(current, genres)
    whole = [name for name in before.columns if before[name].notna().any() and after[name].notna().any()]
    if not whole:
        return "one of the windows is empty"
    try:
        _save(before[whole], after[whole], folder)
    except Exception as why:  # noqa: BLE001 - its checks of the data raise anything; the verdict does not need it
        return f"Evidently could not make its report: {type(why).__name__}: {' '.join(str(why).split())[:300]}"
    return ""


def frame(window: Window, genres: Sequence[str]) -> pd.DataFrame:
    """One row for each viewer and movie. A viewer's number of movies stands in the viewer's first row only."""
    first = np.zeros(len(window), bool)
    first[np.unique(window.users, return_index=True)[1]] = True
    movies = np.bincount(window.users, minlength=len(window.viewers)).astype(float)[window.users]
    return pd.DataFrame(
        {
            "rating": np.where(np.isfinite(window.ratings), window.ratings, np.nan),
            "watched minutes": np.where(np.isfinite(window.minutes), window.minutes, np.nan),
            "movies of the viewer": np.where(first, movies, np.nan),
            "genre": _named(
                [_tame(name) for name in genres], np.where(window.genres.any(axis=1), window.genres.argmax(axis=1), -1)
            )
            if len(genres)
            else np.full(len(window), None),
            "hour": _named(HOURS, hour_bins(window.times)),
            "popularity": _named(POPULAR, rank_bins(window)),
        }
    )


def _tame(name: str) -> str:
    """A genre as its catalogue calls it, harmless in a page that people open."""
    return shortened(one_line(name), LONGEST).translate(NO_MARKUP)


def _named(names: Sequence[str], places: np.ndarray) -> np.ndarray:
    """(n,) the name at each place, None where the place is -1."""
    return np.array([*names, None], dtype=object)[places]


def _save(before: pd.DataFrame, after: pd.DataFrame, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports, and of constant columns in its histograms
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        definition = DataDefinition(
            numerical_columns=[name for name in NUMBERS if name in before],
            categorical_columns=[name for name in NAMES if name in before],
        )
        current, reference = (Dataset.from_pandas(part, data_definition=definition) for part in (after, before))
        made = Report([DataDriftPreset()], include_tests=True).run(current, reference)
    made.save_html(str(folder / "evidently.html"))
    made.save_json(str(folder / "evidently.json"))

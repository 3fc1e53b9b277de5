"""Finding a model by name, and what is said when it cannot be found or loaded."""

from pathlib import Path

import pytest

from models import shelf
from models.base import Recommender

GOOD = """
from models.base import Recommender
class Mine(Recommender):
    def fit(self, history): return self
    def score(self, histories, live, now_ms): return None
"""


def written(folder: Path, text: str, name: str = "mine.py") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("name", [*shelf.SHELF, "models.ease.EASE"])
def test_names_of_the_tree_are_found(name: str) -> None:
    found = shelf.find(name)
    assert issubclass(found.cls, Recommender)
    assert found.source is None


def test_a_file_outside_is_found_with_its_source(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD, "été model.py")
    found = shelf.find(f"{file}:Mine")
    assert (found.name, found.source) == ("Mine", file)
    assert shelf.find(f"{file}:Mine").cls is found.cls


def test_an_edited_file_is_another_module(tmp_path: Path) -> None:
    first = shelf.find(f"{written(tmp_path, GOOD)}:Mine").cls
    second = shelf.find(f"{written(tmp_path, GOOD + '    half_lives_days = (7.0,)')}:Mine").cls
    assert first is not second
    assert second.half_lives_days == (7.0,)


@pytest.mark.parametrize(
    ("text", "cls", "says"),
    [
        ("def f(:\n", "Mine", r"mine\.py, line 1: invalid syntax"),
        ("import nowhere_at_all\n", "Mine", "cannot be loaded: No module named"),
        ("raise SystemExit(3)\n", "Mine", "raised SystemExit"),
        (GOOD, "Mien", "no class 'Mien' there; did you mean Mine?"),
        ("Mine = 3\n", "Mine", "no class 'Mine' there"),
        ("class Mine: pass\n", "Mine", "Mine has no method fit and no score"),
        (GOOD.replace("def score", "def rate"), "Mine", "Mine has no method score"),
        (GOOD.replace("(Recommender)", ""), "Mine", "must derive from models.base.Recommender"),
    ],
)
def test_a_broken_file_is_refused_in_words(tmp_path: Path, text: str, cls: str, says: str) -> None:
    with pytest.raises(shelf.ModelNotFound, match=says):
        shelf.find(f"{written(tmp_path, text)}:{cls}")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rankr", "no model 'rankr'.*did you mean ranker?"),
        ("nowhere.Model", "no model 'nowhere.Model'"),
        ("models.ease.EASY", "no class 'EASY' there; did you mean EASE"),
        ("/no/such/file.py:Mine", "/no/such/file.py: cannot be read: No such file"),
        ("", "no model ''"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, says: str) -> None:
    with pytest.raises(shelf.ModelNotFound, match=says):
        shelf.find(name)

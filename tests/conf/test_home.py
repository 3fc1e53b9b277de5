from pathlib import Path

import pytest

from conf.home import Home, HomeError


def test_open_makes_a_home_and_opening_again_is_safe(tmp_path: Path) -> None:
    home = Home(tmp_path / "h").open("demo")
    assert home.open().kind() == "demo"


def test_programs_that_were_fetched_first_are_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "services" / "kafka").mkdir(parents=True)
    assert Home(tmp_path).open().kind() == "home"


def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(HomeError, match="not empty and not a Greenlight home"):
        Home(tmp_path).open()
    with pytest.raises(HomeError, match="is a file"):
        Home(tmp_path / "thesis.tex").open()


def test_a_half_written_home_opens(tmp_path: Path) -> None:
    """Killed before its marker was whole: the folder is empty, or holds the marker's first part."""
    (tmp_path / "home.part").write_text('{"form')
    assert Home(tmp_path).open().kind() == "home"

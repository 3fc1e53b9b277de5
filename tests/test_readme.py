"""The README stays true: its model is the one under test, its commands and files exist."""

import re
from pathlib import Path

import pytest

from greenlight import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_model_of_its_own_is_the_one_under_test() -> None:
    assert f"```python\n{(ROOT / 'tests/models/neighbours.py').read_text()}```" in README
    body = [line for line in (ROOT / "tests/models/neighbours.py").read_text().splitlines() if line.strip()]
    assert len(body) <= 20


GROUPS = {str(group.name): group.typer_instance for group in app.registered_groups}
VERB = rf"greenlight ((?:(?:{'|'.join(GROUPS)}) )?[a-z]+)"


@pytest.mark.parametrize("verb", sorted(set(re.findall(VERB, README))))
def test_every_command_exists(verb: str) -> None:
    known = {f"{name} {c.name}" for name, group in GROUPS.items() if group for c in group.registered_commands}
    known |= {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    assert verb in known


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make ([a-z-]+)", README))))
def test_every_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_every_link_and_picture_is_there(link: str) -> None:
    assert link.startswith("http") or (ROOT / link).exists()

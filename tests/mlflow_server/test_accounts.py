"""MLflow's logins: drawn once, kept to their owner, and never shown."""

import configparser
import threading
from pathlib import Path

import pytest

from conf.home import Home
from conf.sections.storage import Storage
from mlflow_server.accounts import Accounts, AccountsError, accounts
from mlflow_server.app import command, environment


def test_they_are_drawn_once_and_only_their_owner_reads_them(home: Home) -> None:
    first = accounts(home)
    assert accounts(home) == first
    assert (first.service.name, first.lead.name) == ("greenlight", "lead")
    assert len({first.service.password, first.lead.password, first.secret}) == 3
    assert min(len(first.service.password), len(first.lead.password)) >= 32
    assert (home.keys / "registry.json").stat().st_mode & 0o777 == 0o600
    assert home.keys.stat().st_mode & 0o777 == 0o700
    assert sorted(p.name for p in home.keys.iterdir()) == ["registry.ini", "registry.json"]


def test_of_several_who_draw_at_once_one_wins(home: Home) -> None:
    found: list[Accounts] = []
    threads = [threading.Thread(target=lambda: found.append(accounts(home))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({one.lead.password for one in found}) == 1


def test_no_password_is_shown_or_passed_as_an_argument(home: Home) -> None:
    drawn = accounts(home)
    secret = {drawn.service.password, drawn.lead.password, drawn.secret}
    assert not [s for s in secret if s in f"{drawn!r} {' '.join(command(home, 5000))}"]
    passed = environment(home, Storage())
    assert drawn.secret == passed["MLFLOW_FLASK_SERVER_SECRET_KEY"]
    assert not [s for s in (drawn.service.password, drawn.lead.password) if s in str(passed)]
    assert drawn.lead.password not in Path(passed["MLFLOW_AUTH_CONFIG_PATH"]).read_text()


def test_a_damaged_file_is_named(home: Home) -> None:
    accounts(home)
    (home.keys / "registry.json").write_text('{"lead": ')
    with pytest.raises(AccountsError, match=r"registry\.json does not hold MLflow's passwords"):
        accounts(home)


def test_mlflow_reads_the_database_of_logins_in_any_folder(tmp_path: Path) -> None:
    home = Home(tmp_path / "100 % été").open()
    read = configparser.ConfigParser()
    read.read(accounts(home).settings)
    assert read["mlflow"]["database_uri"] == f"sqlite:///{home.logins}"
    assert read["mlflow"]["admin_username"] == "greenlight"

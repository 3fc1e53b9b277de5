"""Who may log in to MLflow: a service user, who administers, and the ML lead, who edits and sets aliases and tags.

Passwords are drawn on first use and kept in the home's keys folder (mode 0600); nobody else has them. MLflow's server
gets them through files and its environment, never as arguments, which every user of the machine can read.
"""

import json
import os
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from conf.errors import PlainError
from conf.home import Home
from events.disk import sync

FILE = "registry.json"
SERVICE, LEAD = "greenlight", "lead"
CACHE_S = 60  # a login that was checked is believed for so long: checking one takes a good part of a second


class AccountsError(PlainError):
    """The file with the passwords cannot be read; the message names it and says what to do."""


@dataclass(frozen=True)
class Account:
    name: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Accounts:
    """`service` administers, `lead` edits; `secret` signs MLflow's forms; `settings` is the file that it reads."""

    service: Account
    lead: Account
    secret: str = field(repr=False)
    settings: Path

    def environment(self) -> dict[str, str]:
        """What MLflow's server reads besides its arguments."""
        return {"MLFLOW_AUTH_CONFIG_PATH": str(self.settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": self.secret}


def accounts(home: Home) -> Accounts:
    """The accounts of a home, made on first use. AccountsError where their file is damaged."""
    path = home.keys / FILE
    if not path.exists():
        home.keys.mkdir(parents=True, exist_ok=True, mode=0o700)
        drawn = {name: secrets.token_urlsafe(24) for name in (SERVICE, LEAD, "secret")}
        _write_once(path, json.dumps(drawn))
    try:
        kept = json.loads(path.read_text())
        service, lead = Account(SERVICE, kept[SERVICE]), Account(LEAD, kept[LEAD])
        secret = kept["secret"]
    except (ValueError, KeyError, TypeError) as why:
        raise AccountsError(
            f"{path} does not hold MLflow's passwords: put it back from a backup, or remove it and "
            f"{home.logins} beside it, and new ones are made"
        ) from why
    return Accounts(service, lead, secret, _settings(home, service))


def _settings(home: Home, service: Account) -> Path:
    """MLflow's own file of settings; it names the admin by name only: `mlflow_server.app` makes the users."""
    path = home.keys / "registry.ini"
    database = f"sqlite:///{home.logins}".replace("%", "%%")  # a lone % means something in such files
    content = (
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {database}\n"
        f"admin_username = {service.name}\nauth_cache_ttl_seconds = {CACHE_S}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    if not path.exists() or path.read_text() != content:
        _part(path, content).replace(path)
    return path


def _write_once(path: Path, content: str) -> None:
    """Write a file that only its owner reads; of several who do so at once, the first wins."""
    part = _part(path, content)
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    finally:
        part.unlink()
    sync(path.parent)


def _part(path: Path, content: str) -> Path:
    """A file of mode 0600 beside `path`, on disk, that becomes it by link or rename."""
    handle, name = tempfile.mkstemp(prefix=".", dir=path.parent)
    with os.fdopen(handle, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return Path(name)

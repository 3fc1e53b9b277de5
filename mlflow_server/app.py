"""MLflow's server as Greenlight runs it: with a login. `python -m mlflow_server.app HOME PORT`, on loopback.

No password is an argument. Who starts it with `command` gives it `environment` for settings other than those in force.
"""

import sys
from pathlib import Path

from conf.environment import mlflow_storage, take
from conf.home import Home
from conf.sections.storage import Storage
from conf.settings import load
from mlflow_server.accounts import Account, accounts

HOST = "127.0.0.1"
EDITS = ("registered_model", "experiment")  # kinds of things in which the lead may edit everything


def command(home: Home, port: int) -> list[str]:
    return [sys.executable, "-m", "mlflow_server.app", str(home.root), str(port)]


def environment(home: Home, storage: Storage) -> dict[str, str]:
    """Of the server's process: no telemetry, no job runner (seven processes, 0.8 GB), the logins of this home, and
    how artifacts in a bucket are read."""
    return home.environment(
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
        MLFLOW_DISABLE_TELEMETRY="true",
        **accounts(home).environment(),
        **mlflow_storage(storage),
    )


def make_users(home: Home) -> None:
    """Both users, as the passwords on file say: made where missing, and their passwords and rights put right."""
    from mlflow.server.auth import store

    known = accounts(home)
    store.init_db(f"sqlite:///{home.logins}")
    _user(store, known.service, admin=True)
    _user(store, known.lead, admin=False)
    for kind in EDITS:
        store.grant_user_permission(known.lead.name, kind, "*", "EDIT")


def _user(store: object, account: Account, *, admin: bool) -> None:
    if not store.has_user(account.name):  # type: ignore[attr-defined]
        store.create_user(account.name, account.password, is_admin=admin)  # type: ignore[attr-defined]
    elif not store.authenticate_user(account.name, account.password):  # type: ignore[attr-defined]
        store.update_user(account.name, password=account.password, is_admin=admin)  # type: ignore[attr-defined]


def main(home: Home, port: str) -> None:
    from mlflow.cli import cli

    make_users(home)
    home.logins.chmod(0o600)
    server = ["server", "--app-name", "basic-auth", "--backend-store-uri", home.registry_uri, "--workers", "1"]
    cli([*server, "--host", HOST, "--port", port])


if __name__ == "__main__":
    served = Home(Path(sys.argv[1]).absolute()).open()
    take(environment(served, load().storage))  # of the command as people type it
    main(served, sys.argv[2])

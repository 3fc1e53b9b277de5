"""MLflow's server as Greenlight runs it: with a login. `python -m mlflow_server.app HOME PORT`, on loopback.

No password is an argument. Who starts it with `command` gives it `environment` for settings other than those in force.

`mlflow server` is a process that imports all of MLflow (7 s, 250 MB), then starts uvicorn in another one, which does it
again, and waits. Here uvicorn runs in the process that has just made the users: `_worker` is what it is told there.
"""

import sys
from pathlib import Path

from conf.environment import mlflow_storage, take
from conf.home import Home
from conf.sections.storage import Storage
from conf.settings import load
from mlflow_server.accounts import Account, accounts

HOST = "127.0.0.1"
ARTIFACTS = "mlflow-artifacts:/"  # through the server, where an experiment says no other place
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


def _worker(home: Home) -> dict[str, str]:
    """What `mlflow server` sets for its worker (mlflow.server.constants, mlflow.environment_variables)."""
    return {
        "_MLFLOW_SERVER_FILE_STORE": home.registry_uri,
        "_MLFLOW_SERVER_REGISTRY_STORE": home.registry_uri,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": ARTIFACTS,
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(home.root / "mlartifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "_MLFLOW_IN_JOB_EXECUTOR": "false",
    }


def main(home: Home, port: int) -> None:
    take(_worker(home))
    make_users(home)
    home.logins.chmod(0o600)
    import uvicorn
    from mlflow import server
    from mlflow.server.auth import create_app

    server.handlers.initialize_backend_stores(home.registry_uri, home.registry_uri, ARTIFACTS)
    dated = Path(server.__file__).with_name("uvicorn_log_config.yaml")
    uvicorn.run(create_app(), host=HOST, port=port, log_config=str(dated))


if __name__ == "__main__":
    served = Home(Path(sys.argv[1]).absolute()).open()
    take(environment(served, load().storage))  # of the command as people type it
    main(served, int(sys.argv[2]))

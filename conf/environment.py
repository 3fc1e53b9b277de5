"""What other programs read from the environment. Only `conf/` touches it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from conf.sections.storage import Storage

QUIET = {  # no telemetry, no progress bars in logs
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # its errors arrive as exceptions, and are said once
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",  # a database that was put back from a backup is another file
}


def silence_mlflow() -> None:
    """Set before mlflow is imported: it reports usage and prints progress otherwise."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def encryption(storage: Storage) -> dict[str, str]:
    """What is asked for with every object that is put into the bucket, in boto3's words."""
    key = storage.kms_key if storage.encryption == "aws:kms" else ""  # S3 refuses a key beside AES256
    asked = {"ServerSideEncryption": storage.encryption, "SSEKMSKeyId": key}
    return {name: value for name, value in asked.items() if value}


def mlflow_storage(storage: Storage) -> dict[str, str]:
    """The environment in which MLflow uses the bucket as we do; empty where artifacts lie in folders."""
    if not storage.bucket:
        return {}
    found = {"AWS_RETRY_MODE": "standard", "AWS_MAX_ATTEMPTS": str(storage.attempts)}
    if asked := encryption(storage):
        found["MLFLOW_S3_UPLOAD_EXTRA_ARGS"] = json.dumps(asked)
    if storage.endpoint:
        found |= {"MLFLOW_S3_ENDPOINT_URL": storage.endpoint, "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "path"}
    if storage.region:
        found["AWS_DEFAULT_REGION"] = storage.region
    return found


def lead_mlflow(storage: Storage) -> None:
    """Set before mlflow writes its first artifact in this process."""
    take(mlflow_storage(storage))


def take(environment: Mapping[str, str]) -> None:
    """Make it this process's own, before a library reads it."""
    os.environ.update(environment)


def keep_peers() -> None:
    """Set before the web server starts: it would take whatever X-Forwarded-For says for the caller's address."""
    os.environ["FORWARDED_ALLOW_IPS"] = ""


THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def for_foreign_code(folder: str, threads: int) -> dict[str, str]:
    """The environment of a process that runs a candidate's code: nothing of ours but what Python needs.

    More threads than cores wait for each other busily: several processes at once share the cores out.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GREENLIGHT_", "MLFLOW_", "AWS_", "BENTOML_"))}
    kept |= dict.fromkeys(THREADS, str(threads))
    return {**kept, "HOME": folder, "TMPDIR": folder, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "random"}


def kafka_jars() -> Path:
    """Where the jars of a Kafka broker are: of the one that KAFKA_HOME names, or those that `make services` fetched."""
    named = os.environ.get("KAFKA_HOME")
    return Path(named) / "libs" if named else Path(__file__).parents[1] / ".greenlight" / "services" / "kafka"

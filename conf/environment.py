"""What other programs read from the environment. Only `conf/` touches it."""

import os

QUIET = {  # no telemetry, no progress bars in logs
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # its errors arrive as exceptions, and are said once
    "GIT_PYTHON_REFRESH": "quiet",
}


def silence_mlflow() -> None:
    """Set before mlflow is imported: it reports usage and prints progress otherwise."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def for_foreign_code(folder: str, threads: int) -> dict[str, str]:
    """The environment of a process that runs a candidate's code: nothing of ours but what Python needs.

    More threads than cores wait for each other busily: several processes at once share the cores out.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GREENLIGHT_", "MLFLOW_", "AWS_", "BENTOML_"))}
    kept |= dict.fromkeys(THREADS, str(threads))
    return {**kept, "HOME": folder, "TMPDIR": folder, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "random"}

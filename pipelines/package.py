"""Package a release as a Bento: the serving source, the release, and who vouches for it. It needs nothing else to run.

BentoML imports what it builds, so the build runs in a child process, on a staged copy:
`python -m pipelines.package FOLDER VERSION`.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.errors import PlainError
from conf.home import Home
from conf.settings import Settings
from mlflow_server.ledger import finite
from mlflow_server.release import Release, ReleaseError, verify

if TYPE_CHECKING:
    from pipelines.trained import Training

SERVICE = "greenlight"
ROOT = Path(__file__).resolve().parent.parent
SOURCE = (
    "conf/*.py",
    "conf/sections/*.py",
    "conf/*.yaml",
    "events/*.py",
    "models/*.py",
    "serving/*.py",
    "monitoring/__init__.py",
    "monitoring/lag.py",
    *(
        f"mlflow_server/{name}.py"
        for name in ("__init__", "depot", "in_charge", "ledger", "refreshed", "release", "topk", "viewers")
    ),
)
REQUIREMENTS = (
    *("apsw", "bentoml", "boto3", "cryptography", "numpy", "orjson", "prometheus-client", "pyarrow", "pydantic"),
    *("pyyaml", "scipy", "implicit", "scikit-learn", "threadpoolctl", "safetensors"),
)


class PackageError(PlainError):
    """The Bento could not be built; the message has the end of what BentoML said."""


def package(home: Home, settings: Settings, release: Release, measured: dict[str, Any]) -> str:
    """Build the Bento of a release into the home's `BENTOML_HOME` and return its tag; `greenlight:latest` is it then.

    `measured` is what the infra gate saw: `median_ms` decides whether scoring runs on the event loop. A Bento of the
    same release, source and measurements is left as it is.
    """
    name = f"{re.sub('[^a-z0-9]+', '-', release.manifest.model.lower()).strip('-')}-{release.digest[:8]}"
    public = json.loads((release.folder / "signature.json").read_text())["public"]
    known = {name: finite(value) if isinstance(value, float) else value for name, value in measured.items()}
    facts = {"release": release.digest, "public": public, "measured": known, "source": _source_digest()}
    bentos = home.bentos / "bentos" / SERVICE
    if not _stands(bentos / name / "src", facts):
        shutil.rmtree(bentos / name, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="greenlight-package-") as staged:
            _stage(Path(staged), release, facts)
            _build(home, Path(staged), name)
    _point(bentos / "latest", name)
    return f"{SERVICE}:{name}"


def package_champion(home: Home, settings: Settings, training: "Training") -> str | None:
    """The tag of the Bento of the champion that a training decided; None where it decided none."""
    chosen = next((c for c in training.candidates if c.version and c.version == training.champion), None)
    if chosen is None:
        return None
    folder = home.releases / str(chosen.release)
    return package(home, settings, Release(folder.name, folder, verify(folder)), chosen.measured)


def _stage(folder: Path, release: Release, facts: dict[str, Any]) -> None:
    for path in _source_files():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    shutil.copytree(release.folder, folder / "release")
    (folder / "packaged.json").write_text(json.dumps(facts, sort_keys=True, allow_nan=False))


def _build(home: Home, staged: Path, name: str) -> None:
    command = [sys.executable, "-m", "pipelines.package", str(staged), name]
    done = subprocess.run(command, cwd=staged, env=home.environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PackageError(f"BentoML could not build {SERVICE}:{name}: {done.stderr.strip()[-2000:]}")


def _stands(source: Path, facts: dict[str, Any]) -> bool:
    """Whether a whole Bento with these facts is there: a build that was killed leaves less."""
    try:
        if json.loads((source / "packaged.json").read_text()) != json.loads(json.dumps(facts)):
            return False
        verify(source / "release", facts["public"])
    except (OSError, ValueError, ReleaseError):
        return False
    return (source.parent / "bento.yaml").exists()


def _point(latest: Path, name: str) -> None:
    """Make `greenlight:latest` mean this Bento, also where it was built earlier."""
    part = latest.with_suffix(".part")
    part.write_text(name)
    part.replace(latest)


def _source_files() -> list[Path]:
    return sorted(path for pattern in SOURCE for path in ROOT.glob(pattern))


def _source_digest() -> str:
    found = hashlib.sha256()
    for path in _source_files():
        found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return found.hexdigest()


def _build_here(staged: str, name: str) -> None:
    """In the child process: BentoML's own build, from the staged copy."""
    import bentoml

    packages = [f"{package}=={version(package)}" for package in REQUIREMENTS]
    python = {"packages": packages, "lock_packages": False}
    bentoml.build("serving.service:Greenlight", version=name, build_ctx=staged, python=python, include=["**"])


if __name__ == "__main__":
    _build_here(*sys.argv[1:])

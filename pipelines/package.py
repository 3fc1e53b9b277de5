"""Package a release as a Bento: the serving source, the release, and who vouches for it. It needs nothing else to run.

BentoML imports what it builds, so the build runs in a child process, on a staged copy:
`python -m pipelines.package FOLDER VERSION`.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.home import Home
from conf.settings import Settings
from mlflow_server.ledger import finite
from mlflow_server.release import Checked, Release, ReleaseError, canonical, sha256_of, verify
from pipelines.latest import (
    ROOT,
    SERVICE,
    PackageError,
    bentos,
    facts_of,
    latest,
    source_digest,
    source_files,
)

if TYPE_CHECKING:
    from pipelines.trained import Training

REQUIREMENTS = (
    *("apsw", "bentoml", "boto3", "cryptography", "numpy", "orjson", "prometheus-client", "pyarrow", "pydantic"),
    *("pyyaml", "scipy", "implicit", "scikit-learn", "threadpoolctl", "safetensors"),
)


def package(home: Home, settings: Settings, release: Release, measured: dict[str, Any]) -> str:
    """Build the Bento of a release into the home's `BENTOML_HOME` and return its tag; `greenlight:latest` is it then.

    ReleaseError where the release is damaged, PackageError where BentoML fails; the Bentos that are there stay.
    `measured` is what the infra gate saw: `median_ms` decides whether scoring runs on the event loop. A Bento of the
    same release, source and measurements is left as it is; one of another source has another name, since a server that
    runs from it would read half of each.
    """
    public = json.loads((release.folder / "signature.json").read_text())["public"]
    known = {name: finite(value) if isinstance(value, float) else value for name, value in measured.items()}
    facts = {"release": release.digest, "public": public, "measured": known, "source": source_digest()}
    model = re.sub("[^a-z0-9]+", "-", release.manifest.model.lower()).strip("-")
    name = f"{model}-{release.digest[:8]}-{sha256_of(canonical(facts))[:8]}"
    folder = bentos(home) / name
    if not _stands(folder / "src", facts):
        verify(release.folder, public)
        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="greenlight-package-") as staged:
            _stage(Path(staged), release, facts)
            _build(home, Path(staged), name)
    _point(bentos(home) / "latest", name)
    return f"{SERVICE}:{name}"


def renew(home: Home, settings: Settings) -> str | None:
    """Build the latest Bento again from the source that is here; its tag, or None where there is none.

    PackageError or ReleaseError where that fails: the one before is as it was.
    """
    bento = latest(home)
    if bento is None:
        return None
    facts, folder = facts_of(bento), bento / "src" / "release"
    release = Release(facts["release"], folder, Checked(folder, facts["public"]).manifest)
    return package(home, settings, release, facts["measured"])


def package_champion(home: Home, settings: Settings, training: "Training") -> str | None:
    """The tag of the Bento of the champion that a training decided; None where it decided none."""
    chosen = next((c for c in training.candidates if c.version and c.version == training.champion), None)
    if chosen is None:
        return None
    folder = home.releases / str(chosen.release)
    return package(home, settings, Release(folder.name, folder, Checked(folder).manifest), chosen.measured)


def _stage(folder: Path, release: Release, facts: dict[str, Any]) -> None:
    for path in source_files():
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


def _build_here(staged: str, name: str) -> None:
    """In the child process: BentoML's own build, from the staged copy."""
    import bentoml

    packages = [f"{package}=={version(package)}" for package in REQUIREMENTS]
    python = {"packages": packages, "lock_packages": False}
    bentoml.build("serving.service:Greenlight", version=name, build_ctx=staged, python=python, include=["**"])


if __name__ == "__main__":
    _build_here(*sys.argv[1:])

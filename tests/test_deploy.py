"""What people deploy with: one version of Kafka everywhere, nothing open beyond this machine, services fetched once."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"


def test_docker_brings_the_kafka_that_is_tested_and_opens_it_to_this_machine_alone() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    tested = re.search(r"kafka_2\.13</artifactId>\s*<version>([^<]+)", (DEPLOY / "kafka" / "pom.xml").read_text())
    assert tested
    assert services["kafka"]["image"] == f"apache/kafka:{tested[1]}"
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service["ports"])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A clone in which every program is there, and `mvn` is one that leaves a trace."""
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (tmp_path / "bin").mkdir()
    for name in ("strace", "chromium", "redis-server", "java"):
        _program(tmp_path / "bin" / name, "exit 0")
    _program(tmp_path / "bin" / "mvn", 'echo called >> "$TRACE"; exit "${MVN_EXIT:-0}"')
    return tmp_path


def _program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def services(tree: Path, **environment: str) -> str:
    known = {k: v for k, v in os.environ.items() if k != "KAFKA_HOME"}
    there = {"PATH": f"{tree / 'bin'}:{os.environ['PATH']}", "TRACE": str(tree / "trace")}
    done = subprocess.run(
        ["bash", "deploy/services.sh"],
        cwd=tree,
        env={**known, **there, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def calls(tree: Path) -> int:
    trace = tree / "trace"
    return len(trace.read_text().split()) if trace.exists() else 0


def test_services_are_fetched_once_and_again_when_the_version_changes(tree: Path) -> None:
    assert "fetching Kafka" in services(tree)
    assert services(tree) == ""
    assert calls(tree) == 1
    pom = tree / "deploy" / "kafka" / "pom.xml"
    pom.write_text(pom.read_text().replace("4.3.1", "4.3.9"))
    services(tree)
    assert calls(tree) == 2


def test_services_that_cannot_be_fetched_stop_nobody_and_leave_nothing(tree: Path) -> None:
    assert "the tests that use it will be skipped" in services(tree, MVN_EXIT="1")
    assert list((tree / ".greenlight" / "services").iterdir()) == []


def test_a_kafka_that_is_installed_is_used(tree: Path) -> None:
    assert services(tree, KAFKA_HOME="/opt/kafka") == ""
    assert calls(tree) == 0

"""`greenlight up --kafka local`: a broker of the home's own, watched and ended like all else."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conf.home import Home
from conf.sections.kafka import Kafka
from events.event import EVENTS, Account
from events.kafka_link import KafkaError
from events.kafka_log import KafkaLog
from models.shelf import load_file
from pipelines.child import MARK
from pipelines.strays import end_marked, marked
from pipelines.up import CHILDREN, mark

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
BROKER = load_file(ROOT / "tests" / "faults" / "broker.py")
PATIENCE_S = 200.0


@pytest.fixture
def up(home: Home, kafka: Any) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts it with these settings; `kafka` is asked for because it skips where there is none."""
    started: list[subprocess.Popen[str]] = []

    def start(**settings: str) -> "subprocess.Popen[str]":
        ports = {"GREENLIGHT_SERVING__PORT": "0", "GREENLIGHT_REGISTRY__PORT": "0", "GREENLIGHT_HOME": str(home.root)}
        command = [sys.executable, "-m", "greenlight", "up", "--kafka", "local", "--json"]
        started.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **ports, **settings},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()
    for name in CHILDREN:
        end_marked(f"{MARK}={mark(home, name)}")


def told(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout
    assert process.stderr
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return json.loads(line)


def ended(process: "subprocess.Popen[str]") -> int:
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    return process.returncode


def child(home: Home, name: str) -> dict[str, Any]:
    return next(one for one in json.loads(home.up.read_text())["children"] if one["name"] == name)


def ids(conf: Kafka, *added: str) -> list[str]:
    """What the broker holds, after these were added; tried until it answers."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            log = KafkaLog(conf)
            log.append(EVENTS, [Account(event_id=event_id, ts=1, user_id="u1") for event_id in added])
            found = [record.event.event_id for record in log.read(EVENTS, "test")]
            log.close()
            return found
        except KafkaError:
            assert time.monotonic() < until
            time.sleep(0.2)


def test_a_broker_of_its_own_that_keeps_its_data(home: Home, up: Callable[..., Any]) -> None:
    (port,) = BROKER.free_ports(1)
    servers = f"127.0.0.1:{port}"
    first = up(GREENLIGHT_KAFKA__SERVERS=servers)
    assert told(first)["kafka"] == servers
    assert {"kafka", "mirroring"} <= {one["name"] for one in json.loads(home.up.read_text())["children"]}
    assert ids(Kafka(servers=servers), "e1") == ["e1"]
    os.kill(child(home, "kafka")["pid"], signal.SIGKILL)
    assert ids(Kafka(servers=servers), "e2") == ["e1", "e2"]
    assert ended(first) == 0
    assert [pid for name in CHILDREN for pid in marked(f"{MARK}={mark(home, name)}")] == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"GREENLIGHT_KAFKA__SERVERS": "broker-1.example:9092"}, "but kafka.servers is broker-1.example:9092"),
        ({"GREENLIGHT_KAFKA__SECURITY": "tls"}, "starts a broker without TLS and login"),
        ({"PATH": "/nowhere"}, "Java is not installed and Kafka needs it"),
        ({"KAFKA_HOME": "/nowhere"}, "no Kafka in /nowhere/libs: `make services` fetches it, or KAFKA_HOME names one"),
    ],
)
def test_what_stands_in_its_way(up: Callable[..., Any], settings: dict[str, str], said: str) -> None:
    process = up(**settings)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert said in errors
    assert process.returncode == 2

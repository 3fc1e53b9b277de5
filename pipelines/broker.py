"""A Kafka broker on this machine, without ZooKeeper and without Docker: `greenlight up --kafka local`, and the tests.

One process is broker and controller. Its jars are those that `make services` fetched, or those of `KAFKA_HOME`.
"""

import base64
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conf.environment import kafka_jars, take
from conf.errors import PlainError
from conf.home import Home
from conf.settings import PREFIX, Settings, load

JVM = (  # it starts in half the time, and a small broker needs no more
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


ADDRESS = "127.0.0.1:9092"  # of a home's own broker, where kafka.servers names no other
VARIABLE = f"{PREFIX}KAFKA__SERVERS"


class BrokerError(PlainError):
    """No broker can run here; the message says why and what to do."""


@dataclass(frozen=True)
class Node:
    """One broker: its folder, its ports on loopback, and who votes. A cluster is several nodes with the same voters."""

    folder: Path
    port: int
    controller_port: int
    number: int = 1
    voters: str = ""  # number@host:port of each controller; empty: this one alone
    cluster: str = field(default_factory=lambda: base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("="))
    more: Mapping[str, str] = field(default_factory=dict)  # properties beside those below, or in their place

    @property
    def properties(self) -> dict[str, str]:
        """server.properties of Kafka."""
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.number),
            "controller.quorum.voters": self.voters or f"{self.number}@127.0.0.1:{self.controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "log.dirs": str(self.folder / "data"),
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": "5",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            **self.more,
        }

    def prepare(self, *format_with: str) -> list[str]:
        """The command that runs it; its folder is made ready first, once. format_with: more for Kafka's own format."""
        settings = self.folder / "server.properties"
        self.folder.mkdir(parents=True, exist_ok=True)
        settings.write_text("".join(f"{name}={value}\n" for name, value in self.properties.items()))
        if not (self.folder / "data" / "meta.properties").exists():
            named = f"--cluster-id={self.cluster}"  # in one word: an id may begin with a dash
            formatted = ["format", named, "-c", str(settings), *format_with]
            _run([*java(), "kafka.tools.StorageTool", *formatted])
        return [*java(), "kafka.Kafka", str(settings)]


def with_own(settings: Settings) -> Settings:
    """The settings with a broker of this home's own, for all that is started from here: where `kafka.servers` says.
    BrokerError where that, or another setting, is of somebody else's."""
    wanted = settings.kafka.servers or ADDRESS
    if wanted.rpartition(":")[0] not in ("127.0.0.1", "localhost"):
        raise BrokerError(f"--kafka local starts a broker here, but kafka.servers is {wanted}: leave out one of them")
    if settings.kafka.security != "plaintext" or settings.kafka.mechanism:
        raise BrokerError("--kafka local starts a broker without TLS and login: leave out kafka.security and mechanism")
    take({VARIABLE: wanted})
    return load()


def of_home(home: Home, port: int) -> Node:
    """A home's own broker, with its data in the home."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Node(home.broker, port, probe.getsockname()[1])


def java() -> list[str]:
    """The start of a command that runs a class of Kafka. BrokerError where Java or Kafka is missing."""
    program, jars = shutil.which("java"), kafka_jars()
    if program is None:
        raise BrokerError("Java is not installed and Kafka needs it, version 17 or newer: `make services` installs it")
    if not any(jars.glob("kafka_*.jar")):
        raise BrokerError(f"no Kafka in {jars}: `make services` fetches it, or KAFKA_HOME names one that is installed")
    return [program, *JVM, "-cp", f"{jars}/*"]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise BrokerError(f"Kafka cannot format its folder: {lines[0] if lines else done.returncode}")

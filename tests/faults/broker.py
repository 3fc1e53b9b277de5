"""Real Kafka brokers on free ports, to be stopped, killed and started again on their data.

with Broker(tmp_path) as broker: ...                one broker
with Broker(tmp_path, secured(tmp_path)) as ...     one that asks for TLS and a login
with cluster(tmp_path, 3) as brokers: ...           several, each in a zone; replication 3, at least 2 in sync
"""

import random
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from conf.sections.kafka import Kafka
from events.kafka_link import client
from models.shelf import load_file
from pipelines.broker import Node

certificates = load_file(Path(__file__).with_name("certificates.py")).certificates
LOGIN = "SCRAM-SHA-512"
START_S = 240.0
STOP_S = 60.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now, below those that the system gives to connections of others: while a broker is down
    for a test, none of them takes its port."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 1000):
        if len(found) < count and _is_free(port):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Broker:
    """One node. `servers` is where clients begin; `conf()` the settings with which Greenlight finds it.

    settings: of `conf()`, beside the servers. inside: a port without TLS and login, where it has one for itself.
    """

    def __init__(
        self,
        folder: Path,
        node: Node | None = None,
        servers: str = "",
        settings: dict[str, Any] | None = None,
        inside: int = 0,
        users: dict[str, str] | None = None,
    ) -> None:
        if node is None:
            port, controller = free_ports(2)
            node = Node(folder / "kafka", port, controller)
        self.node = node
        self.servers = servers or f"127.0.0.1:{node.port}"
        self.log = node.folder / "broker.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._settings, self._inside = settings or {}, inside or node.port
        self._users = users or {}

    def conf(self, **more: Any) -> Kafka:
        return Kafka.model_validate({"servers": self.servers, **self._settings, **more})

    def inside(self, **more: Any) -> Kafka:
        """As who may do everything."""
        return Kafka.model_validate({"servers": f"127.0.0.1:{self._inside}", **more})

    def start(self) -> Self:
        """Begin, and wait until it answers."""
        self.begin()
        self.wait()
        return self

    def begin(self) -> None:
        """Start the process, on the data that is there."""
        command = self.node.prepare(*(f"--add-scram={LOGIN}=[name={n},password={p}]" for n, p in self._users.items()))
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, cwd=self.node.folder)

    def wait(self, brokers: int = 1) -> None:
        """Until so many brokers of the cluster are there, as this one sees it."""
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.process and self.process.poll() is None:
            if self._sees() >= brokers:
                return
            time.sleep(0.1)
        raise RuntimeError(f"the broker does not answer: {self.log.read_text(errors='replace')[-4000:]}")

    def stop(self) -> None:
        """As an operator does it: SIGTERM, and it ends by itself."""
        if self.process:
            self.process.terminate()
            self.process.wait(STOP_S)
            self.process = None

    def kill(self) -> None:
        """kill -9."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *why: object) -> None:
        self.kill()

    def _sees(self) -> int:
        try:
            with socket.create_connection(("127.0.0.1", self._inside), 5):
                pass
            admin = KafkaAdminClient(**client(self.inside(timeout_s=5)))
        except (OSError, KafkaError):
            return 0
        try:
            return len(admin.describe_cluster()["brokers"])
        except KafkaError:
            return 0
        finally:
            admin.close()


def secured(folder: Path) -> Broker:
    """One that lets in who trusts its new authority and logs in: `greenlight`, who may do everything, and `guest`, who
    may do nothing; the authority is `conf().authority`."""
    authority, certificate = certificates(folder, "127.0.0.1")
    port, inside, controller = free_ports(3)
    login = f"listener.name.sasl_ssl.{LOGIN.lower()}.sasl.jaas.config"
    listeners = {"SASL_SSL": port, "INSIDE": inside}
    addresses = [f"{name}://127.0.0.1:{at}" for name, at in listeners.items()]
    more = {
        "listeners": ",".join([*addresses, f"CONTROLLER://127.0.0.1:{controller}"]),
        "advertised.listeners": ",".join(addresses),
        "listener.security.protocol.map": "SASL_SSL:SASL_SSL,INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "INSIDE",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificate),
        "sasl.enabled.mechanisms": LOGIN,
        login: "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:greenlight",
    }
    users = {"greenlight": "Correct Horse", "guest": "battery staple"}
    settings = {
        "security": "tls",
        "authority": str(authority),
        "mechanism": LOGIN,
        "user": "greenlight",
        "password": users["greenlight"],
    }
    return Broker(folder, Node(folder / "kafka", port, controller, more=more), "", settings, inside, users)


@contextmanager
def cluster(folder: Path, count: int) -> Iterator[Sequence[Broker]]:
    """So many running brokers, each its own zone. What is made in it has 3 replicas, at least 2 in sync."""
    ports = free_ports(2 * count)
    voters = ",".join(f"{n + 1}@127.0.0.1:{port}" for n, port in enumerate(ports[count:]))
    servers = ",".join(f"127.0.0.1:{port}" for port in ports[:count])
    every = str(min(3, count))
    copies = dict.fromkeys(("default.replication.factor", "offsets.topic.replication.factor"), every)
    shared = {**copies, "min.insync.replicas": "2" if count > 2 else "1", "num.partitions": "3"}
    first = Node(folder / "kafka-1", ports[0], ports[count])
    brokers = [
        Broker(
            folder,
            Node(
                folder / f"kafka-{n + 1}",
                ports[n],
                ports[count + n],
                number=n + 1,
                voters=voters,
                cluster=first.cluster,
                more={**shared, "broker.rack": f"zone-{n + 1}"},
            ),
            servers,
        )
        for n in range(count)
    ]
    with ExitStack() as running:
        for broker in brokers:
            running.callback(broker.kill)
            broker.begin()
        for broker in brokers:
            broker.wait(count)
        yield brokers

"""A Kafka broker with two addresses: its own, by which a test sees the truth, and a proxy's, which spoils connections.

Clients begin at an address and then connect to what the broker tells them (`advertised.listeners`): each listener
tells its own address, so whoever begins at the proxy stays behind it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pipelines.broker import Node
from tests.faults.broker import Broker, free_ports
from tests.faults.proxy import Proxy


class Proxied(NamedTuple):
    broker: Broker
    proxy: Proxy


@contextmanager
def proxied(folder: Path) -> Iterator[Proxied]:
    """A running broker, and the proxy before its other listener."""
    port, behind, controller = free_ports(3)
    with Proxy(f"127.0.0.1:{behind}") as proxy:
        listeners = {
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "listeners": f"PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{behind},"
            f"CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},PROXIED://{proxy.address}",
            "inter.broker.listener.name": "PLAINTEXT",
            "broker.session.timeout.ms": "3000",  # after a kill, it is not let in again before
            "broker.heartbeat.interval.ms": "500",
        }
        with Broker(folder, Node(folder / "kafka", port, controller, more=listeners)) as broker:
            yield Proxied(broker, proxy)

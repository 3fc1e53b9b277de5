"""The proxy does what its toxics are named for, before a server that repeats what it hears."""

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.proxy import Proxy

PATIENCE_S = 20.0


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65_536):
            self.server.heard += len(data)  # type: ignore[attr-defined]
            self.request.sendall(data)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads, allow_reuse_address, heard = True, True, 0


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Echo) as made:
        threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(f"127.0.0.1:{server.server_address[1]}") as made:
        yield made


def connect(proxy: Proxy) -> socket.socket:
    host, _, port = proxy.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def said(client: socket.socket, text: bytes) -> bytes:
    client.sendall(text)
    return heard(client, len(text))


def heard(client: socket.socket, length: int) -> bytes:
    found = b""
    while len(found) < length and (data := client.recv(65_536)):
        found += data
    return found


def test_without_a_toxic_everything_comes_through_and_ends_when_it_ends(proxy: Proxy) -> None:
    text = bytes(range(256)) * 4_000
    with connect(proxy) as client:
        threading.Thread(target=client.sendall, args=(text,)).start()
        assert heard(client, len(text)) == text
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert proxy.accepted == 1


def test_down_refuses_and_cuts_off_and_comes_back_at_the_same_address(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert said(client, b"before") == b"before"
        proxy.add("down")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.remove()
    with connect(proxy) as client:
        assert said(client, b"after") == b"after"


def test_timeout_accepts_and_holds_what_flows_on_when_it_is_over(proxy: Proxy, server: Server) -> None:
    with connect(proxy) as old:
        assert said(old, b"before") == b"before"
        proxy.add("timeout")
        with connect(proxy) as new:
            for client in (old, new):
                client.sendall(b"held")
                client.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    client.recv(1)
                client.settimeout(PATIENCE_S)
            assert server.heard == len(b"before")
            proxy.remove()
            assert [heard(client, 4) for client in (old, new)] == [b"held", b"held"]


def test_reset_peer_cuts_each_connection_in_the_middle_of_a_request(proxy: Proxy, server: Server) -> None:
    proxy.add("reset_peer", 10)
    for _ in range(2):
        with connect(proxy) as client:
            assert said(client, b"12345") == b"12345"
            with pytest.raises(ConnectionResetError):
                said(client, b"1234567890")
    until = time.monotonic() + PATIENCE_S
    while server.heard < 20 and time.monotonic() < until:
        time.sleep(0.01)
    assert server.heard <= 20
    proxy.remove()
    with connect(proxy) as client:
        assert said(client, b"1234567890ab") == b"1234567890ab"


def test_latency_delays_answers_and_not_one_by_one(proxy: Proxy, server: Server) -> None:
    with connect(proxy) as client:
        proxy.add("latency", 0.3)
        begun = time.monotonic()
        for number in range(10):
            client.sendall(b"%d" % number)
            time.sleep(0.02)
        assert heard(client, 10) == b"0123456789"
        assert time.monotonic() - begun >= 0.3
        assert server.heard == 10


def test_bandwidth_and_slow_close_take_their_time(proxy: Proxy) -> None:
    with connect(proxy) as client:
        proxy.add("bandwidth", 100_000)
        begun = time.monotonic()
        assert len(said(client, b"x" * 20_000)) == 20_000
        assert time.monotonic() - begun >= 0.4
        proxy.add("slow_close", 0.5)
        begun = time.monotonic()
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        assert time.monotonic() - begun >= 0.5


def test_a_server_that_is_not_there_is_a_connection_that_ends() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with Proxy(f"127.0.0.1:{free.getsockname()[1]}") as proxy, pytest.raises(ConnectionResetError):
            connect(proxy).recv(1)

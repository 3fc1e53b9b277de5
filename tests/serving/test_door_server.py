"""The door of a running server: what two workers share, what reaches the log, who holds sockets, where it binds."""

import datetime
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from conf.home import Home
from conf.sections.serving import Serving
from conf.settings import Settings
from mlflow_server.release import Release
from pipelines.package import package
from pipelines.serve import Server, serve
from serving.bind import BindError
from serving.keys import KeyStore

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, built: Callable[[str], Release]) -> Home:
    made = Home(tmp_path_factory.mktemp("door") / "home").open()
    package(made, Settings(), built("Tiny"), {"median_ms": 0.1})
    return made


@pytest.fixture(scope="module")
def server(home: Home) -> Iterator[Server]:
    with serve(home, Settings(), port=0) as running:
        yield running


def get(server: Server, path: str = "/recommend/u0", **headers: str) -> httpx.Response:
    """On a new connection, so that either worker may answer; once more where a killed one dropped it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    for _ in range(20):
        try:
            return httpx.get(f"{server.url}{path}", headers=named, timeout=30)
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"{path} was not answered")


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.1)
    return False


def test_the_first_key_is_made_at_the_first_start_and_opens_everything(server: Server, home: Home) -> None:
    assert server.first_key is not None
    assert get(server, x_api_key=server.first_key).status_code == 200
    event = {"kind": "click", "user_id": "u", "movie_id": "m"}
    posted = httpx.post(f"{server.url}/v1/events", json=event, headers={"x-api-key": server.first_key}, timeout=30)
    assert posted.json()["stored"] == 1
    kept = (file for file in home.root.rglob("*") if file.is_file() and not file.is_symlink())
    assert not [file for file in kept if server.first_key.encode() in file.read_bytes()]


def test_two_workers_share_a_limit_and_one_that_is_killed_does_not_reset_it(server: Server, home: Home) -> None:
    """SEC-01 too: the server does not believe a forwarded address of its neighbour either."""
    begun = time.monotonic()
    got = [get(server, x_forwarded_for=f"203.0.113.{n}").status_code for n in range(200)]
    if time.monotonic() - begun < 55:  # on a slower machine the first requests are a minute old by now
        assert got == [200] * 100 + [429] * 100
    victim = server.workers[0]
    while get(server).status_code == 200:
        pass
    os.kill(victim, signal.SIGKILL)
    assert within(90, lambda: len(server.workers) == 2 and victim not in server.workers)
    answers = [get(server) for _ in range(20)]
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert 429 in {answer.status_code for answer in answers}


def test_a_revoked_key_is_out_in_every_worker_within_five_seconds(server: Server, home: Home) -> None:
    text, made = KeyStore(home).create("site")
    assert {get(server, x_api_key=text).status_code for _ in range(20)} == {200}
    KeyStore(home).revoke(made.id)
    time.sleep(5)
    assert {get(server, x_api_key=text).status_code for _ in range(40)} == {401}


def test_sec_03_no_key_reaches_a_log(server: Server, home: Home) -> None:
    text, _ = KeyStore(home).create("site")
    secrets = (text, text[:-1] + "!", "GL-TEST-123")
    for secret in secrets:
        encoded = "".join(f"%{ord(letter):02x}" for letter in secret)
        for query in (f"api_key={secret}", f"%61pi_key={encoded}"):
            assert get(server, f"/recommend/u0?{query}").status_code == 400
            assert get(server, f"/nowhere?{query}").status_code == 400
        assert get(server, x_api_key=f"{secret}x").status_code == 401
        with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as raw:
            raw.sendall(f"GET /?api_key={secret} HTTP/9\r\nX-API-Key: {secret}\r\n:\r\n\r\n".encode())
            raw.recv(100)
    logged = b"".join(file.read_bytes() for file in home.root.glob("*.log*")) + (home.root / "log.db-wal").read_bytes()
    for secret in secrets:
        assert secret.encode() not in logged
        assert secret[-20:].encode() not in logged


def test_srv_05_fifty_megabytes_chunked_are_413_and_memory_stays_flat(server: Server, home: Home) -> None:
    text, _ = KeyStore(home).create("poster", ("events", "read"))

    def memory() -> int:
        return sum(psutil.Process(worker).memory_info().rss for worker in server.workers)

    def chunks() -> Iterator[bytes]:
        for _ in range(800):
            yield b"x" * 65_536

    for path in ("/v1/events", "/v1/recommend", "/beneath"):
        before = memory()
        answer = httpx.post(f"{server.url}{path}", content=chunks(), headers={"x-api-key": text}, timeout=60)
        assert answer.status_code == 413, path
        assert memory() - before < 30 << 20
    assert get(server, x_api_key=text).status_code == 200


def test_srv_05_two_hundred_slow_sockets_are_closed_and_trouble_nobody(server: Server, home: Home) -> None:
    text, _ = KeyStore(home).create("slow", ("events", "read"))
    port = int(server.url.rsplit(":", 1)[1])
    head = f"POST /v1/recommend HTTP/1.1\r\nHost: x\r\nX-API-Key: {text}\r\nContent-Length: 1000\r\n\r\n"
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    try:
        for one in slow:
            one.sendall(head.encode())
            one.setblocking(False)
        closed: set[int] = set()

        def all_closed() -> bool:
            assert get(server, x_api_key=text).status_code == 200
            for number, one in enumerate(slow):
                try:
                    one.send(b"x")
                    if number not in closed and one.recv(4096) == b"":
                        closed.add(number)
                except BlockingIOError:
                    pass
                except OSError:
                    closed.add(number)
            time.sleep(0.9)
            return len(closed) == len(slow)

        assert within(60, all_closed), f"{len(closed)} of {len(slow)} were closed"
    finally:
        for one in slow:
            one.close()


def bentoml_serve(home: Home, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bentoml", "serve", "greenlight:latest", *words]
    environment = home.environment_of(Settings(serving=Serving(workers=1)))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=home.root.parent, env=environment, **pipes)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_plain_bentoml_serve_refuses_an_open_bind_in_one_sentence(home: Home, host: str) -> None:
    process = bentoml_serve(home, "--host", host, "--port", "0")
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"{host} can be reached from other machines, so this needs TLS" in said
    assert "Traceback" not in said


def test_ours_refuses_an_open_bind_and_half_a_certificate(home: Home, tmp_path: Path) -> None:
    with pytest.raises(BindError, match="needs TLS: set GREENLIGHT_SERVING__TLS_CERTIFICATE"):
        serve(home, Settings(serving=Serving(host="0.0.0.0")), port=0)
    with pytest.raises(BindError, match="tls_key = ''"):
        serve(home, Settings(serving=Serving(tls_certificate=certificate(tmp_path)[0])), port=0)


def test_with_tls_and_a_key_it_serves_beyond_this_machine(home: Home, tmp_path: Path) -> None:
    files = certificate(tmp_path)
    text, _ = KeyStore(home).create("far")
    settings = Settings(
        serving=Serving(host="0.0.0.0", tls_certificate=files[0], tls_key=files[1], workers=1, exploration_share=0)
    )
    with serve(home, settings, port=0) as running:
        assert running.url.startswith("https://127.0.0.1:")
        answer = httpx.get(f"{running.url}/recommend/u0?k=2", headers={"x-api-key": text}, verify=False, timeout=30)
        assert answer.text == "m21,m20"
        listening = [c.laddr.ip for c in psutil.Process(running.process.pid).net_connections() if c.status == "LISTEN"]
        assert "0.0.0.0" in listening


def certificate(folder: Path) -> tuple[str, str]:
    """A certificate for this machine, and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*form))
    made = builder.sign(key, hashes.SHA256())
    (folder / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return str(folder / "certificate.pem"), str(folder / "key.pem")

"""A local S3: moto's server in a process of its own stands for Amazon's. And a proxy before it, which breaks the link.

moto keeps objects in memory, keeps and returns what encryption was asked for without encrypting, and checks no
signature unless it is told to: what rests on that is shown here only as far as our side goes.
"""

import os
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LOST = ("content-length", "connection", "expect", "transfer-encoding")  # headers of one link, not of the message
START_S = 60.0


@contextmanager
def moto(log: Path, **environment: str) -> Iterator[str]:
    """A running S3; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})
    try:
        _wait(f"http://127.0.0.1:{port}/moto-api/", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"moto does not answer: {log.read_text()}")


class _Quiet(ThreadingHTTPServer):
    daemon_threads, block_on_close = True, False

    def handle_error(self, request: object, client_address: object) -> None:
        """A broken link is what this is for."""


Fault = Callable[[int, str, str], str]  # number of the request (from 1), method, path; the name of a fault, or ""


class Proxy:
    """Passes requests on to `target`, but for those that `fault` names one for.

    503 SlowDown, 403 AccessDenied, ...: this answer, and nothing is passed on
    cut        passed on; half of the answer's body comes back, then the connection is reset
    cut-up     the connection is reset while the request's body arrives, and nothing is passed on
    lost       passed on, and the connection is reset instead of an answer
    hole       nothing comes back until the proxy stops
    flipped    passed on, and one byte of the answer's body is changed
    """

    def __init__(self, target: str) -> None:
        self.fault: Fault = lambda number, method, path: ""
        self.seen: list[tuple[str, str]] = []
        self._target = urlsplit(target)
        self._lock, self._over = threading.Lock(), threading.Event()
        self._server = _Quiet(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        return self

    def __exit__(self, *why: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def calls(self, method: str) -> int:
        return sum(seen == method for seen, _ in self.seen)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy._serve(self)

            do_PUT = do_HEAD = do_DELETE = do_POST = do_GET

            def log_message(self, *words: object) -> None:
                pass

        return Handler

    def _serve(self, asked: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.seen.append((asked.command, asked.path))
            fault = self.fault(len(self.seen), asked.command, asked.path)
        if fault == "cut-up":
            asked.rfile.read(1)
            return _reset(asked)
        body = _body(asked)
        if fault == "hole":
            self._over.wait()
            return _reset(asked)
        if fault[:1].isdigit():
            status, _, code = fault.partition(" ")
            told = f"<Error><Code>{code}</Code><Message>No.</Message></Error>".encode()
            return _answer(asked, int(status), [("content-type", "application/xml")], told)
        status, headers, content = self._passed_on(asked, body)
        if fault == "lost":
            return _reset(asked)
        if fault == "flipped":
            content = bytes([content[0] ^ 1]) + content[1:]
        return _answer(asked, status, headers, content, cut=fault == "cut")

    def _passed_on(self, asked: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        link = HTTPConnection(str(self._target.hostname), self._target.port, timeout=60)
        try:
            kept = {name: value for name, value in asked.headers.items() if name.lower() not in LOST}
            link.request(asked.command, asked.path, body, kept)
            answer = link.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            link.close()


def _body(asked: BaseHTTPRequestHandler) -> bytes:
    if asked.headers.get("transfer-encoding") != "chunked":
        return asked.rfile.read(int(asked.headers.get("content-length", 0)))
    parts = []
    while size := int(asked.rfile.readline(), 16):
        parts.append(asked.rfile.read(size))
        asked.rfile.readline()
    asked.rfile.readline()
    return b"".join(parts)


def _answer(
    asked: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], content: bytes, *, cut: bool = False
) -> None:
    asked.send_response_only(status)
    size = next((v for k, v in headers if k.lower() == "content-length"), str(len(content)))  # HEAD has no body
    for name, value in headers:
        if name.lower() not in LOST:
            asked.send_header(name, value)
    asked.send_header("content-length", size if asked.command == "HEAD" else str(len(content)))
    asked.end_headers()
    if asked.command != "HEAD":
        asked.wfile.write(content[: len(content) // 2] if cut else content)
    if cut:
        _reset(asked)


def _reset(asked: BaseHTTPRequestHandler) -> None:
    asked.close_connection = True
    asked.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    asked.connection.close()


def client(url: str) -> Any:
    """boto3's, to look at the bucket from outside."""
    import boto3

    return boto3.client("s3", endpoint_url=url, region_name="us-east-1")

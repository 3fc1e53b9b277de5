"""Beyond this machine the service listens only with TLS and a key: asked before it starts, and by every worker."""

import socket
from ipaddress import ip_address
from pathlib import Path

from conf.errors import PlainError
from conf.home import Home
from conf.sections.serving import Serving
from serving.keys import KeyStore


class BindError(PlainError):
    """The service will not listen there; the message says what is missing."""


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_bind(host: str, has_tls: bool, home: Home | None) -> None:
    """BindError where other machines could reach `host` and TLS or a live key is missing."""
    if is_loopback(host):
        return
    missing = []
    if not has_tls:
        missing.append("TLS: set GREENLIGHT_SERVING__TLS_CERTIFICATE and GREENLIGHT_SERVING__TLS_KEY to PEM files")
    if home is None:
        missing.append("API keys: set GREENLIGHT_HOME to a home that has some")
    elif not KeyStore(home).any_live():
        missing.append("an API key: make one with `greenlight keys create`")
    if missing:
        raise BindError(f"{host} can be reached from other machines, so this needs {'; and '.join(missing)}")


def check_socket(descriptor: int, has_tls: bool, home: Home | None) -> None:
    """As `check_bind`, of a socket that was bound already."""
    with socket.socket(fileno=socket.dup(descriptor)) as bound:
        if bound.family != socket.AF_UNIX:
            check_bind(bound.getsockname()[0], has_tls, home)


def tls_files(serving: Serving) -> tuple[str, str] | None:
    """Certificate and key, or None where neither is set. BindError where one is missing or is no file."""
    named = {"tls_certificate": serving.tls_certificate, "tls_key": serving.tls_key}
    if not any(named.values()):
        return None
    for name, path in named.items():
        if not Path(path).is_file():
            raise BindError(f"setting serving.{name} = {path!r}: there is no such file; both TLS files are needed")
    return serving.tls_certificate, serving.tls_key

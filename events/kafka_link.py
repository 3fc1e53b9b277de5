"""How clients of Kafka are made from the settings, and how their errors become one plain sentence.

kafka-python waits 30 s for a broker that is not there, and as long between two tries to reach one that was away: both
are shortened here, since the spool does the waiting. It has no bound on what is in flight: who sends must bound it.
"""

import logging
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kafka import errors

from conf.settings import Kafka
from events.log import LogError


class KafkaError(LogError):
    """Kafka cannot be reached, or refused; the message names the servers, the cause and what to do."""


class KafkaAway(KafkaError):
    """No broker answers, or not in time: the same thing may work later."""


PROBE_S = 3.0  # for a look at why TLS fails
METADATA_MS = 10_000  # new partitions are seen after so long
RECONNECT_MS = 1000  # the longest pause between two tries to reach a broker


def client(conf: Kafka, **more: Any) -> dict[str, Any]:
    """Keyword arguments of every kafka-python client, and `more`. KafkaError where a file for them is unusable."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters comes as an error, and is said once
    timeout_ms = int(conf.timeout_s * 1000)
    scheme = ("SASL_" if conf.mechanism else "") + ("SSL" if conf.security == "tls" else "PLAINTEXT")
    login = {
        "sasl_mechanism": conf.mechanism,
        "sasl_plain_username": conf.user,
        "sasl_plain_password": _password(conf),
    }
    return {
        "bootstrap_servers": conf.servers.split(","),
        "client_id": "greenlight",
        "security_protocol": scheme,
        "ssl_context": _context(conf) if conf.security == "tls" else None,
        "request_timeout_ms": timeout_ms,
        "bootstrap_timeout_ms": timeout_ms,
        "metadata_max_age_ms": METADATA_MS,
        "reconnect_backoff_max_ms": RECONNECT_MS,
        **(login if conf.mechanism else {}),
        **more,
    }


@contextmanager
def plain_errors(conf: Kafka, doing: str) -> Iterator[None]:
    """kafka-python's errors as KafkaError, each one sentence. doing: what was tried, such as "reading events"."""
    try:
        yield
    except errors.KafkaError as why:
        raise plain(conf, doing, why) from why


def plain(conf: Kafka, doing: str, why: BaseException) -> KafkaError:
    """One error of kafka-python as a plain sentence."""
    where = f"Kafka at {conf.servers}"
    for kinds, sentence in REFUSALS.items():
        if isinstance(why, kinds):
            return KafkaError(f"{where}: {sentence.format(doing=doing, user=conf.user or 'anonymous', conf=conf)}")
    if isinstance(why, errors.RetriableError):
        if distrust := _distrust(conf):
            return KafkaError(f"{where}: {distrust}")
        return KafkaAway(f"{where} does not answer within {conf.timeout_s:g} s while {doing} ({type(why).__name__})")
    return KafkaError(f"{where}: {type(why).__name__} while {doing}")


REFUSALS: dict[tuple[type[BaseException], ...], str] = {
    (errors.SaslAuthenticationFailedError,): "it does not let user {user} in: kafka.user, kafka.password or "
    "kafka.mechanism {conf.mechanism} is not what it knows",
    (
        errors.UnsupportedSaslMechanismError,
        errors.IllegalSaslStateError,
    ): "it takes no login by kafka.mechanism {conf.mechanism}",
    (errors.AuthorizationError,): "user {user} lacks the right for {doing}; who runs Kafka gives it",
    (
        errors.MessageSizeTooLargeError,
        errors.RecordListTooLargeError,
    ): "a record is larger than the topic takes (its max.message.bytes), while {doing}",
    (
        errors.InvalidReplicationFactorError,
    ): "it has fewer brokers than kafka.replication {conf.replication} asks for, while {doing}",
    (errors.PolicyViolationError,): "its policy forbids it, while {doing}",
}


def _distrust(conf: Kafka) -> str:
    """What stands in the way of TLS with a broker that can be reached; kafka-python says only that it had no answer."""
    if conf.security != "tls":
        return ""
    for server in conf.servers.split(","):
        host, _, port = server.rpartition(":")
        host = host.strip("[]")
        try:
            with socket.create_connection((host, int(port)), PROBE_S) as link:
                link.settimeout(PROBE_S)
                with _context(conf).wrap_socket(link, server_hostname=host):
                    return ""
        except ssl.SSLCertVerificationError as why:
            return f"the certificate that {server} shows is not trusted ({why.verify_message}): see kafka.authority"
        except ssl.SSLError as why:
            return f"{server} makes no TLS connection ({(why.reason or 'no reason given').lower().replace('_', ' ')})"
        except OSError:
            continue
    return ""


def _password(conf: Kafka) -> str:
    if not conf.password_file:
        return conf.password
    try:
        return Path(conf.password_file).read_text(encoding="utf-8").split("\n", 1)[0].strip("\r")
    except (OSError, UnicodeDecodeError) as why:
        cause = why.strerror if isinstance(why, OSError) else "not UTF-8"
        raise KafkaError(f"kafka.password_file {conf.password_file} cannot be read: {cause}") from None


def _context(conf: Kafka) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=conf.authority or None)
    except (OSError, ssl.SSLError) as why:
        raise KafkaError(f"kafka.authority {conf.authority} is not a readable PEM file: {why.strerror or why}") from why
    if conf.certificate:
        try:
            context.load_cert_chain(conf.certificate, conf.key, password=lambda: "")
        except (OSError, ssl.SSLError, ValueError) as why:
            raise KafkaError(
                f"kafka.certificate {conf.certificate} and kafka.key {conf.key} are not a readable pair of PEM files "
                "without a passphrase"
            ) from why
    return context

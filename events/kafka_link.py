"""How clients of Kafka are made from the settings, and how their errors become one plain sentence.

kafka-python waits 30 s for a broker that is not there, and as long between two tries to reach one that was away: both
are shortened here, since the spool does the waiting. It has no bound on what is in flight: who sends must bound it.
"""

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


RECONNECT_MS = 1000  # the longest pause between two tries to reach a broker


def client(conf: Kafka, **more: Any) -> dict[str, Any]:
    """Keyword arguments of every kafka-python client, and `more`. KafkaError where a file for them is unusable."""
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
            return KafkaError(f"{where}: {sentence.format(doing=doing, user=conf.user or 'anonymous')}")
    if isinstance(why, errors.RetriableError):
        return KafkaAway(f"{where} does not answer within {conf.timeout_s:g} s while {doing} ({type(why).__name__})")
    return KafkaError(f"{where}: {type(why).__name__} while {doing}")


REFUSALS: dict[tuple[type[BaseException], ...], str] = {
    (errors.SaslAuthenticationFailedError,): "it refuses user {user} or the password (kafka.user, kafka.password)",
    (errors.UnsupportedSaslMechanismError, errors.IllegalSaslStateError): "it does not take kafka.mechanism as set",
    (errors.AuthorizationError,): "user {user} may not do this: {doing}; the one who runs Kafka gives the right",
    (
        errors.MessageSizeTooLargeError,
        errors.RecordListTooLargeError,
    ): "a record is larger than the topic takes, while {doing} (max.message.bytes)",
    (errors.InvalidReplicationFactorError,): "it has fewer brokers than kafka.replication asks for, while {doing}",
}


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

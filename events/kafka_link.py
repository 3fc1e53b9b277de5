"""How clients of Kafka are made from the settings, and how their errors become one plain sentence.

kafka-python waits 30 s for a broker that is not there, and as long between two tries to reach one that was away: both
are shortened here, since the spool does the waiting. It has no bound on what is in flight: who sends must bound it.
"""

import logging
import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kafka import TopicPartition, errors
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from conf.sections.kafka import Kafka
from events.log import LogError


class KafkaError(LogError):
    """Kafka cannot be reached, or refused; the message names the servers, the cause and what to do."""


class KafkaAway(KafkaError):
    """No broker answers, or not in time: the same thing may work later."""


PROBES = 5  # looks at why there is no connection
HANDSHAKE_S = 3.0  # of waiting for a broker's part of a TLS handshake
METADATA_MS = 10_000  # new partitions are seen after so long
LEADER_S = 0.1  # between two tries to learn the leader of a partition
RECONNECT_MS = 1000  # the longest pause between two tries to reach a broker


class Handshakes(NetworkSelector):
    """kafka-python's loop, which by itself waits for the answer to a TLS handshake without end."""

    def wait_read(self, fileobj: Any, timeout_at: float | None = None) -> Any:
        if timeout_at is None and isinstance(fileobj, ssl.SSLSocket) and fileobj.version() is None:
            timeout_at = time.monotonic() + HANDSHAKE_S
        return super().wait_read(fileobj, timeout_at)


class Hearing(ssl.SSLSocket):
    """kafka-python forgets what arrives together with the end of a connection, such as why a login was refused: here
    the end is told at the next look."""

    _heard = False

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        data = super().recv(buflen, flags)
        heard, self._heard = self._heard, bool(data)
        if heard and not data:
            raise ssl.SSLWantReadError
        return data


class Link(KafkaNetClient):
    def __init__(self, **configs: Any) -> None:
        super().__init__(net=Handshakes(**configs), **configs)


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
        "kafka_client": Link,
        "reconnect_backoff_max_ms": RECONNECT_MS,
        **(login if conf.mechanism else {}),
        **more,
    }


def of_all(ask: Callable[[], dict[TopicPartition, int]], within_s: float) -> dict[TopicPartition, int]:
    """Offsets of partitions. kafka-python leaves out those whose leader it does not know, as of new ones, and stumbles
    over that: it is asked again until it does. LeaderNotAvailableError where a partition stays without one."""
    until = time.monotonic() + within_s
    while True:
        try:
            return ask()
        except KeyError:
            if time.monotonic() > until:
                raise errors.LeaderNotAvailableError() from None
            time.sleep(LEADER_S)


@contextmanager
def plain_errors(conf: Kafka, doing: str) -> Iterator[None]:
    """kafka-python's errors as KafkaError, each one sentence. doing: what was tried, such as "reading events"."""
    try:
        yield
    except errors.KafkaError as why:
        raise plain(conf, doing, why) from why


def plain(conf: Kafka, doing: str, why: BaseException) -> KafkaError:
    """One error of kafka-python as a plain sentence."""
    why = _meant(why)
    if refusal := _refusal(conf, doing, why):
        return KafkaError(refusal)
    if not isinstance(why, errors.RetriableError):
        return KafkaError(f"Kafka at {conf.servers}: {type(why).__name__} while {doing}")
    found = _what_stands_in_the_way(conf)
    if refusal := _refusal(conf, doing, found) or _distrust(conf, found):
        return KafkaError(refusal)
    if _hung_up(found) or isinstance(found, errors.InvalidReceiveError):  # the latter: it answers in TLS
        wanted = "kafka.user and kafka.password" if conf.mechanism else "kafka.security tls, or a login"
        return KafkaAway(f"Kafka at {conf.servers} ends every connection while {doing}: does it want {wanted}?")
    waited = f"does not answer within {conf.timeout_s:g} s while {doing} ({type(why).__name__})"
    return KafkaAway(f"Kafka at {conf.servers} {waited}")


def _meant(why: BaseException) -> BaseException:
    """The error that a bare one of kafka-python only names in its words, as it does of a refused producer id."""
    if type(why) is errors.KafkaError:
        kinds = [getattr(errors, name, None) for name in re.findall(r"\w+Error", str(why))]
        named = [kind for kind in kinds if isinstance(kind, type) and kind is not errors.KafkaError]
        return named[-1]() if named else why
    return why


def _refusal(conf: Kafka, doing: str, why: BaseException | None) -> str:
    for kinds, sentence in REFUSALS.items():
        if isinstance(why, kinds):
            return f"Kafka at {conf.servers}: {sentence.format(doing=doing, user=conf.user or 'anonymous', conf=conf)}"
    return ""


def _distrust(conf: Kafka, why: BaseException | None) -> str:
    """Why there is no TLS with a broker that can be reached; empty where that is not the matter."""
    if found := re.search(r"certificate verify failed: (.*) \(_ssl", str(why)):
        return f"Kafka at {conf.servers}: its certificate is not trusted ({found[1]}): see kafka.authority"
    if found := re.search(r"Handshake failed: \[SSL: (\w+)\]", str(why)):
        return f"Kafka at {conf.servers} makes no TLS connection ({found[1].lower().replace('_', ' ')})"
    return ""


def _what_stands_in_the_way(conf: Kafka) -> BaseException | None:
    """Why no connection comes about: kafka-python's clients try again until their time is over, and then do not tell.

    A broker says that a login is wrong and hangs up; without TLS only the latter is noticed where both arrive at once.
    So it is asked several times.
    """
    for _ in range(PROBES):
        why = _connected(conf)
        if not (conf.mechanism and _hung_up(why)):
            break
    return why


def _hung_up(why: BaseException | None) -> bool:
    return isinstance(why, errors.KafkaConnectionError) and "disconnected" in str(why)


def _connected(conf: Kafka) -> BaseException | None:
    net = Handshakes()
    manager = KafkaConnectionManager(net, **client(conf))

    async def connect() -> None:
        for broker in manager.cluster.bootstrap_brokers():
            await manager.get_connection(broker.node_id, timeout_ms=int(1000 * min(HANDSHAKE_S, conf.timeout_s)))

    try:
        net.run(connect)
    except errors.KafkaError as why:
        return why
    finally:
        manager.close()
        net.close()
    return None


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
    ): "a record is larger than 1 MiB or than the topic takes (its max.message.bytes), while {doing}",
    (
        errors.InvalidReplicationFactorError,
    ): "it has fewer brokers than kafka.replication {conf.replication} asks for, while {doing}",
    (errors.PolicyViolationError,): "its policy forbids it, while {doing}",
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
    context.sslsocket_class = Hearing
    if conf.certificate:
        try:
            context.load_cert_chain(conf.certificate, conf.key, password=lambda: "")
        except (OSError, ssl.SSLError, ValueError) as why:
            raise KafkaError(
                f"kafka.certificate {conf.certificate} and kafka.key {conf.key} are not a readable pair of PEM files "
                "without a passphrase"
            ) from why
    return context

"""A Kafka that asks for TLS and a login, that keeps rights, or that is not there: what works, and what is said."""

import socket
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourceType,
)

from conf.sections.kafka import Kafka
from events.event import EVENTS, Account
from events.kafka_link import KafkaAway, KafkaError, client
from events.kafka_log import KafkaLog
from events.kafka_topics import ensure_topics
from models.shelf import load_file

FAULTS = Path(__file__).parents[1] / "faults"
pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def guarded(kafka: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with load_file(FAULTS / "broker.py").secured(tmp_path_factory.mktemp("guarded")) as running:
        yield running


def refusal(conf: Kafka) -> str:
    """What is said, as a person or a log sees it."""
    with pytest.raises(KafkaError) as met:
        KafkaLog(conf)
    for secret in (conf.password, "Correct Horse"):
        assert not secret or secret not in "".join(traceback.format_exception(met.value))
    return str(met.value)


@pytest.mark.parametrize("kept", ["in the settings", "in a file"])
def test_with_authority_and_login_it_is_a_log_like_any_other(guarded: Any, tmp_path: Path, kept: str) -> None:
    conf = guarded.conf(topic_prefix=str(uuid.uuid4()))
    if kept == "in a file":
        (tmp_path / "password").write_text(f"{conf.password}\n")
        conf = conf.model_copy(update={"password": "", "password_file": str(tmp_path / "password")})
    log = KafkaLog(conf)
    log.append(EVENTS, [Account(event_id="e1", ts=1, user_id="u1")])
    assert [record.event.event_id for record in log.read(EVENTS, "g")] == ["e1"]
    log.close()


def test_a_wrong_password_is_said_and_not_shown(guarded: Any) -> None:
    said = refusal(guarded.conf(password="open sesame", timeout_s=2))
    assert "it does not let user greenlight in: kafka.user, kafka.password or kafka.mechanism SCRAM-SHA-512" in said


def test_a_mechanism_that_it_does_not_know(guarded: Any) -> None:
    assert "kafka.mechanism SCRAM-SHA-256" in refusal(guarded.conf(mechanism="SCRAM-SHA-256", timeout_s=2))


def test_a_certificate_of_an_unknown_authority(guarded: Any, tmp_path: Path) -> None:
    other, _ = load_file(FAULTS / "certificates.py").certificates(tmp_path, "127.0.0.1")
    said = refusal(guarded.conf(authority=str(other), timeout_s=2))
    assert "its certificate is not trusted" in said
    assert "see kafka.authority" in said


def test_tls_with_a_broker_that_speaks_none(guarded: Any, kafka: Any) -> None:
    assert "makes no TLS connection" in refusal(guarded.conf(servers=kafka.servers, timeout_s=2))


def test_plain_text_with_a_broker_that_wants_tls(guarded: Any) -> None:
    with pytest.raises(KafkaAway, match=r"ends every connection while .* does it want .* tls, or a login"):
        KafkaLog(Kafka(servers=guarded.servers, timeout_s=2))


def test_a_broker_that_takes_connections_and_says_nothing() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        servers = f"127.0.0.1:{silent.getsockname()[1]}"
        for security in ("plaintext", "tls"):
            with pytest.raises(KafkaAway, match="does not answer within 1 s"):
                KafkaLog(Kafka.model_validate({"servers": servers, "security": security, "timeout_s": 1}))


def test_one_who_may_not_make_topics(guarded: Any) -> None:
    said = refusal(guarded.conf(user="guest", password="battery staple"))
    assert "user guest lacks the right for making the topic greenlight.events" in said


def test_rights_that_are_lacking_one_by_one(guarded: Any) -> None:
    """A guest who may look at topics; then write; then know of groups; then read: each time the next right is said."""
    conf = guarded.conf(topic_prefix=str(uuid.uuid4()), user="guest", password="battery staple", timeout_s=5)
    ensure_topics(guarded.conf(topic_prefix=conf.topic_prefix))
    rights = KafkaAdminClient(**client(guarded.inside()))

    def grant(kind: ResourceType, operation: ACLOperation) -> None:
        named = ResourcePattern(kind, f"{conf.topic_prefix}.", ACLResourcePatternType.PREFIXED)
        rights.create_acls([ACL("User:guest", "*", operation, ACLPermissionType.ALLOW, named)])

    def told(trying: Callable[[KafkaLog], object]) -> str:
        """What is said once Kafka knows of the right that was given last."""
        log = KafkaLog(conf)
        with pytest.raises(KafkaError) as met:
            trying(log)
        log.close()
        return str(met.value)

    one = [Account(event_id="e1", ts=1, user_id="u1")]
    grant(ResourceType.TOPIC, ACLOperation.DESCRIBE)
    within(lambda: KafkaLog(conf).close())
    assert "lacks the right for appending to" in told(lambda log: log.append(EVENTS, one))
    grant(ResourceType.TOPIC, ACLOperation.WRITE)
    log = KafkaLog(conf)
    within(lambda: log.append(EVENTS, one))
    assert "lacks the right for looking how far group" in told(lambda log: log.read(EVENTS, "g"))
    grant(ResourceType.GROUP, ACLOperation.READ)
    within(lambda: log.lag(EVENTS, "g"))
    assert "lacks the right for reading" in told(lambda log: log.read(EVENTS, "g"))
    grant(ResourceType.TOPIC, ACLOperation.READ)
    within(lambda: log.commit(EVENTS, "g", log.read(EVENTS, "g")[-1].offset))
    log.close()
    rights.close()


def within(trying: Callable[[], object]) -> None:
    """Until Kafka has taken note of a right."""
    until = time.monotonic() + 60
    while True:
        try:
            trying()
            return
        except KafkaError:
            assert time.monotonic() < until
            time.sleep(0.1)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("hello")
    for authority in (tmp_path / "no.pem", tmp_path / "none.pem"):
        conf = Kafka(servers="127.0.0.1:1", security="tls", authority=str(authority))
        assert f"kafka.authority {authority} is not a readable PEM file" in refusal(conf)
    login = {"mechanism": "SCRAM-SHA-512", "user": "u", "password_file": str(tmp_path / "none")}
    assert "kafka.password_file" in refusal(Kafka.model_validate({"servers": "127.0.0.1:1", **login}))

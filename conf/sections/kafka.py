"""The event log of a live site, and how far behind its readers may be."""

import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from conf.sections.section import Count, Positive, Section, Share, is_loopback, or_nothing

BROKER_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")  # an IPv6 address in brackets


def kafka_servers(text: object) -> object:
    """Addresses of brokers, separated by commas, if each is one; empty for none."""
    if not text or not isinstance(text, str):
        return or_nothing(text)
    servers = [server.strip() for server in text.split(",")]
    for server in servers:
        host, _, port = server.rpartition(":")
        if not (BROKER_HOST.fullmatch(host) and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"{server!r} is not an address such as broker-1:9092; separate several by commas")
    return ",".join(servers)


class Kafka(Section):
    """The event log of a live site. Where servers are named, the local log is the spool before it."""

    servers: Annotated[str, BeforeValidator(kafka_servers)] = ""  # host:port,host:port to begin with; empty: no Kafka
    topic_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = "greenlight"
    partitions: Annotated[int, Field(ge=1, le=1000)] = 3  # of a topic that is made because it is missing
    replication: Annotated[int, Field(ge=1, le=32767)] = 1  # copies of it, on as many brokers
    security: Literal["plaintext", "tls"] = "plaintext"
    authority: str = ""  # PEM file of who signed the brokers' certificates; empty: whom the system trusts
    certificate: str = ""  # PEM files with which Greenlight shows itself, where brokers ask for that
    key: str = ""
    mechanism: Literal["", "SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = ""  # how it logs in
    user: str = ""
    password: Annotated[str, Field(repr=False)] = ""
    password_file: str = ""  # whose first line is the password, in its place
    timeout_s: Annotated[float, Field(ge=1, le=300)] = 10  # of one request or delivery
    in_flight: Annotated[int, Field(ge=1)] = 2000  # records that are sent and not yet acknowledged
    batch_after_minutes: Positive = 10  # without Kafka, until archive and retraining go by the spool
    spool_max_mb: Positive = 4096  # on disk; at this cap events are refused with 503
    spool_alarm_share: Share = 0.5  # of the cap, from which on it is an alarm
    spool_keep_hours: Annotated[float, Field(ge=0)] = 24  # of what has gone to Kafka

    @property
    def cap_mb(self) -> float | None:
        """How much the local log may hold; no bound where it is no spool."""
        return self.spool_max_mb if self.servers else None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.password and self.password_file:
            raise ValueError("set either password or password_file")
        logs_in = {bool(self.mechanism), bool(self.user), bool(self.password or self.password_file)}
        if len(logs_in) > 1:
            raise ValueError("mechanism, user and password (or password_file) belong together")
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate and key belong together")
        if self.security == "plaintext" and (self.authority or self.certificate):
            raise ValueError("authority and certificate need security tls")
        hosts = [server.rpartition(":")[0].strip("[]") for server in self.servers.split(",")]
        if self.security == "plaintext" and self.mechanism == "PLAIN" and not all(map(is_loopback, hosts)):
            raise ValueError("mechanism PLAIN sends the password in clear: use security tls, or a SCRAM mechanism")
        return self


class Lag(Section):
    """When a reader of the log is so far behind that it is an alarm."""

    messages: Count = 1000  # more than so many wait,
    for_s: Annotated[float, Field(ge=0)] = 60  # for so long,
    seconds: Positive = 300  # or the oldest waits for longer than this

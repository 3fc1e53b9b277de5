"""The service: how it answers, who gets in, what it takes and keeps."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, IPvAnyNetwork

from conf.sections.section import Positive, Section, Share


def redis_url(url: str) -> str:
    """The address of a Redis, if it is one; empty for none. What is wrong with it is said without its password."""
    try:
        found = urlsplit(url)
        whole = found.scheme in ("redis", "rediss") and found.hostname and found.port != 0  # asking for it checks it
        if whole or not url:
            return url
    except ValueError:  # its message holds a part of the address
        pass
    raise ValueError(
        "not an address such as redis://host:6379/0 or rediss://:password@host:6379/0; in a password, write / as %2F, "
        "# as %23, ? as %3F and @ as %40"
    )


class Serving(Section):
    host: str = "127.0.0.1"  # beyond loopback needs keys and the two TLS files
    port: Annotated[int, Field(ge=0, le=65535)] = 3000
    tls_certificate: str = ""  # PEM files
    tls_key: str = ""
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    popularity_share: Share = 0.01  # of the viewers, always the same ones: the fallback is never untested
    exploration_share: Share = 0.02  # of the model's requests, each by itself, that get their movies in random order
    default_k: Annotated[int, Field(ge=1)] = 20
    max_k: Annotated[int, Field(ge=1)] = 100
    deadline_ms: Positive = 500  # where the caller names none; callers cut off at 600 to 800
    max_deadline_ms: Positive = 2000  # the outer bound
    inline_below_ms: Positive = (
        1.0  # scoring the infra gate measured faster than this skips the thread pool (a hop costs 60 us)
    )
    pool_threads: Annotated[int, Field(ge=1)] = 4
    journal_capacity: Annotated[int, Field(ge=1)] = (
        100_000  # impressions waiting for the log; more are dropped and counted
    )


Scope = Literal["read", "events", "admin"]


class Door(Section):
    """Who gets in."""

    environment: Annotated[str, Field(pattern=r"^[a-z]{2,12}$")] = "local"  # in every key: gl_<environment>_...
    anonymous: tuple[Literal["read", "events"], ...] = ("read",)  # what a caller on loopback may do without a key
    anonymous_per_minute: Annotated[int, Field(ge=1)] = 100  # requests of one IPv4 address or one IPv6 /64
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()  # whose X-Forwarded-For is believed
    cors_origins: tuple[str, ...] = ()  # exact origins, such as https://app.example.org


class Intake(Section):
    """Events that are posted."""

    max_bytes: Annotated[int, Field(ge=1)] = 4 << 20  # of one batch, as sent and as unpacked
    max_events: Annotated[int, Field(ge=1)] = 10_000  # of one batch
    waiting_bytes: Annotated[int, Field(ge=1)] = 64 << 20  # of all batches not yet stored; more are answered 503
    ahead_of_clock_hours: Positive = 24  # an event further ahead of the home's clock is quarantined
    ahead_of_wall_minutes: Positive = 5  # or this far ahead of the wall clock


class Cache(Section):
    """Answers of the model, kept."""

    redis: Annotated[str, AfterValidator(redis_url), Field(repr=False)] = ""  # rediss://…; empty: each worker's memory
    ttl_s: Positive = 3600  # the longest that an answer counts as fresh
    stale_s: Positive = 86_400  # the longest that it may be served, marked, while the model cannot answer
    entries: Annotated[int, Field(ge=1)] = 20_000  # kept in a worker's memory
    timeout_ms: Positive = 20  # of one look into Redis

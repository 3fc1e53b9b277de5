"""Typed, frozen settings. `default.yaml` < the file that `GREENLIGHT_CONF` names < `GREENLIGHT_<SECTION>__<KEY>`.

An entry point calls `load()` once and hands each function its section. An unknown key is refused with the nearest name.
"""

import difflib
import ipaddress
import json
import os
import re
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    ValidationError,
    field_validator,
    model_validator,
)

from conf.errors import PlainError

PREFIX = "GREENLIGHT_"
NOT_SETTINGS = {"GREENLIGHT_HOME", "GREENLIGHT_CONF", "GREENLIGHT_REQUIRE_SERVICES"}  # read elsewhere, or by the tests

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, le=10)]


class SettingsError(PlainError):
    """A setting is unknown or out of range; the message names it, the value and the rule."""


SECRETS = ("cache.redis", "kafka.password", "mail.smtp.password")  # values that no message repeats


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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


MAILBOX = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@(?=.{1,185}$)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")


def mail_address(text: str) -> str:
    """A bare mail address, such as a mail server takes it: no name, no brackets, no line break."""
    if not MAILBOX.fullmatch(text) or text.startswith(".") or ".." in text or ".@" in text:
        raise ValueError("not a mail address such as lead@example.org (ASCII only; write a domain like xn--…)")
    return text


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or address alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def addresses(value: object) -> object:
    """Several in one text are separated by commas; who is named twice gets one letter."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        return parts
    first: dict[str, object] = {}
    for part in parts:
        first.setdefault(str(part).casefold(), part)
    return list(first.values())


def in_ascii(text: str) -> str:
    """What a login may hold: Python's SMTP sends nothing else."""
    if not text.isascii() or not text.isprintable():
        raise ValueError("a login and its password are printable ASCII")
    return text


def known_zone(zone: str) -> str:
    """The name of a time zone, if it is one."""
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError) as why:
        raise ValueError("no such time zone; use UTC or a name such as Europe/Berlin") from why
    return zone


class Data(Section):
    """Reading events in."""

    zone: str = "UTC"  # of text lines whose times carry none
    scales: dict[Literal["movielens", "movietweetings", "lines", "json"], Positive] = Field(
        default_factory=dict
    )  # largest rating per dialect, where it is not the usual one

    @field_validator("zone")
    @classmethod
    def _is_known(cls, zone: str) -> str:
        return known_zone(zone)


class Snapshot(Section):
    """How a history becomes interactions."""

    full_watch_minutes: Annotated[int, Field(ge=1)] = 60  # distinct minutes that count as strength 1
    click_strength: Share = 0.3  # a click is interest, not yet liking
    slate_days: Positive = 60  # of the slates that are kept, and of what is known to have come of them


class InputsGate(Section):
    """Is the data fit to learn from?"""

    min_interactions: Count = 1000
    min_viewers: Count = 50
    min_items: Count = 50
    max_missing_share: Share = 0.2  # of movies without title or genre
    max_duplicate_share: Share = 0.5  # of interactions that repeat viewer, movie and time
    max_unreadable_share: Share = 0.05
    max_age_days: Positive = 14  # newest event against the home's clock


class OfflineGate(Section):
    """A screen before an audience meets the model."""

    margin: Share = 0.02  # how much worse than the champion, relative, its lower bound may be
    min_test_viewers: Count = 100
    max_slice_loss: Share = 0.2  # relative loss against popularity that a slice may show
    min_slice_viewers: Count = 50  # of a slice that is judged
    max_test_over_validation: Positive = 1.5  # relative to popularity's own ratio; more, or less than 1 / it, is a leak
    max_disguise_loss: Share = 0.05  # relative quality lost, lower bound, when viewers and movies are renamed
    max_plausible: Share = 0.9  # NDCG@10 over the full catalogue that nobody reaches honestly


class InfraGate(Section):
    """Will it run?"""

    golden_requests: Annotated[int, Field(ge=2)] = 50
    time_ratio: Positive = 50.0  # median time of a slate over popularity's in the same process
    tail_ms: Positive = 50  # that 95 of 100 slates keep within, where 2 x time_ratio x popularity is no more
    memory_mb: Positive = 1024  # growth of the process while it loads and answers
    load_timeout_s: Positive = 60  # for the fresh process to load the release and answer everything


class Train(Section):
    models: tuple[str, ...] = ("popularity", "ease", "ranker")
    trials: Count = 0
    minutes: Positive | None = None
    candidate_timeout_minutes: Positive = 30  # a fit that hangs is killed and marked failed
    candidate_memory_mb: Positive = 8192  # a candidate that asks for more fails instead of the machine
    at_once: Annotated[int, Field(ge=1)] = 2  # candidates fitted at the same time
    popularity_trials: Count = 8  # its half-life is always tuned: it is the yardstick
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"  # where networks are fitted; auto: a GPU where there is one


class Evaluate(Section):
    test_days: Annotated[int, Field(ge=1)] = 14
    validation_days: Annotated[int, Field(ge=1)] = 14
    min_viewers: Count = 150  # who liked something; a window with fewer reaches further back, to a third of the history
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    level: Share = 0.95  # of the intervals


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


class Registry(Section):
    name: str = "recommender"
    port: Annotated[int, Field(ge=0, le=65535)] = 5000


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


Guarded = Literal["likes", "clicks", "watch_minutes", "served"]
GUARDRAILS: dict[Guarded, float] = {"served": 0.02, "watch_minutes": 0.2}


class Experiment(Section):
    """What came of slates, and how two arms are compared by it. What a plan declared holds until its end."""

    metric: Literal["likes", "clicks", "watch_minutes"] = "likes"  # per slate; a viewer's mean is what is compared
    window_hours: Positive = 24  # after a slate, in which what happens to its movies counts for it
    max_slates_per_user_day: Annotated[int, Field(ge=1)] = 100  # a viewer with more on any UTC day is no person
    margin: Annotated[float, Field(allow_inf_nan=False)] = 0.0  # to be better by, in units of the metric
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95  # of the confidence sequence
    effect: Positive = 0.1  # the change worth finding, as a share of the champion's mean: the sequence is tuned for it
    min_days: Annotated[float, Field(ge=0)] = 7  # a whole week: weekends are not like other days
    max_days: Positive = 28
    min_users: Annotated[int, Field(ge=2)] = 200  # of each arm
    guardrails: dict[Guarded, Annotated[float, Field(gt=0, lt=1)]] = Field(
        default_factory=lambda: {**GUARDRAILS}
    )  # the largest loss, as a share of the champion's mean, that may remain possible; served: from no fallback
    auto: bool = False  # a version that won its A/B becomes champion without the lead

    @model_validator(mode="after")
    def _may_end(self) -> "Experiment":
        if self.max_days < self.min_days:
            raise ValueError(f"max_days {self.max_days:g} is below min_days {self.min_days:g}")
        return self


class Storage(Section):
    """History, releases and MLflow's artifacts in a bucket; folders of the home where none is named."""

    bucket: str = ""
    prefix: str = "greenlight"
    endpoint: str = ""  # of an S3 that is not Amazon's
    region: str = ""
    encryption: Literal["AES256", "aws:kms", ""] = "AES256"  # at rest, asked for with every object
    kms_key: str = ""
    timeout_s: Positive = 20  # to connect, and of each wait for bytes
    attempts: Annotated[int, Field(ge=1)] = 5  # of one request, with growing pauses, before it counts as failed


class Drift(Section):
    """Has the audience moved?"""

    window_days: Annotated[int, Field(ge=1)] = 7  # whole weeks: a weekend compared with a weekday always differs
    level: Annotated[float, Field(gt=0, le=0.2)] = 0.01  # of a false alarm in any column of one run
    deals: Annotated[int, Field(ge=0, le=100_000)] = 2000  # permutations; never fewer than 3 x columns / level
    least_change: Share = 0.08  # of a column's shares; premieres change less than that every week, however certain
    min_viewers: Annotated[int, Field(ge=2)] = 50  # sampled, in each window
    max_rows: Annotated[int, Field(ge=100)] = 100_000  # viewer and movie, both windows: Evidently is slow beyond it
    viewer_rows: Annotated[int, Field(ge=1)] = 20  # that one viewer counts for in a column
    max_missing_share: Share = 0.5  # of rows without a value, where the reference had them
    runs_apart_hours: Annotated[float, Field(ge=0)] = 20  # runs closer together are one: a daily job is not punctual


class Retrain(Section):
    """When a retraining is due although the audience is quiet."""

    max_age_days: Positive = 7  # of the data that the newest version learned from, on the home's clock
    new_data_share: Positive = 0.5  # events since then, as a share of those that it held


class Retention(Section):
    """What `greenlight prune` leaves. What is live, aliased, `previous` or in an experiment always stays."""

    snapshots: Annotated[int, Field(ge=1)] = 8  # the newest
    releases: Annotated[int, Field(ge=1)] = 8
    bentos: Annotated[int, Field(ge=1)] = 3
    logged_models: Annotated[int, Field(ge=1)] = 20
    reports_days: Positive = 90  # letters that nobody waits for, too
    log_days: Positive | None = None  # of the log that is read, what is older and archived goes; none: it stays whole


def or_nothing(text: object) -> object:
    """An empty variable is read as YAML's null: here it is an empty text."""
    return "" if text is None else text


Times = Annotated[str, BeforeValidator(or_nothing)]


class Schedule(Section):
    """The jobs that run by the clock: when (five cron fields in `zone`; empty: never), and for how many minutes of wall
    time at most. Prune goes by the wall; all others by the home's clock."""

    zone: str = "UTC"
    late_minutes: Positive = 10  # a job that is due for so long, and does not run, is told by mail
    experiment: Times = "40 * * * *"  # one look at the running experiment
    experiment_minutes: Positive = 15
    precompute: Times = "15 3 * * *"
    precompute_minutes: Positive = 60
    prune: Times = "30 4 * * *"
    prune_minutes: Positive = 60
    drift: Times = "0 5 * * *"  # the report, mailed
    drift_minutes: Positive = 30
    retrain: Times = "30 5 * * *"  # asked every day; `retrain` says when it is due
    retrain_minutes: Positive = 240

    @field_validator("zone")
    @classmethod
    def _is_known(cls, zone: str) -> str:
        return known_zone(zone)


class Smtp(Section):
    """A mail server."""

    host: str = ""
    port: Annotated[int, Field(ge=1, le=65535)] = 587  # 465 where tls is `implicit`
    tls: Literal["starttls", "implicit", "none"] = "starttls"  # none: on loopback only
    authority: str = ""  # PEM file of who signed the server's certificate; empty: whom the system trusts
    login: Annotated[str, AfterValidator(in_ascii)] = ""
    password: Annotated[str, AfterValidator(in_ascii), Field(repr=False)] = ""
    password_file: str = ""  # whose first line is the password, in its place
    timeout_s: Positive = 20  # to connect, and of each wait for an answer
    conversation_s: Positive = 120  # the longest that one connection may take, however busily the server talks

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if self.tls == "none" and self.host and not is_loopback(self.host):
            raise ValueError(f"tls none sends letter and password in clear to {self.host}: use starttls or implicit")
        if self.password and self.password_file:
            raise ValueError("set either password or password_file")
        if bool(self.login) != bool(self.password or self.password_file):
            raise ValueError("a login needs password or password_file, and these need a login")
        return self


class Ses(Section):
    """Amazon's mail service. Credentials come from the usual AWS places."""

    region: str = ""
    endpoint: str = ""  # of one that is not Amazon's
    timeout_s: Positive = 20  # to connect, and of each wait for bytes


Address = Annotated[str, AfterValidator(mail_address)]


class Mail(Section):
    """Letters to those who answer for the recommender."""

    via: Literal["outbox", "smtp", "ses"] = "outbox"  # outbox: a folder of .eml files, nothing is sent
    sender: Address = "greenlight@localhost"
    to: Annotated[tuple[Address, ...], Field(min_length=1, max_length=50), BeforeValidator(addresses)] = (
        "ml-lead@localhost",
    )
    smtp: Smtp = Smtp()
    ses: Ses = Ses()
    retry_s: Positive = 30  # until the second try; then twice as long each time
    retry_max_s: Positive = 3600
    give_up_days: Positive = 5  # of a mailbox that is full or busy; a server that is down is waited for without end

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.via == "smtp" and not self.smtp.host:
            raise ValueError("via smtp needs smtp.host, the mail server's name")
        abroad = self.via == "ses" or (self.via == "smtp" and not is_loopback(self.smtp.host))
        if abroad and any(address.endswith("@localhost") for address in (self.sender, *self.to)):
            raise ValueError(f"via {self.via} needs mail.sender and mail.to: an address @localhost is nobody elsewhere")
        return self


BROKER_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")


def kafka_servers(text: object) -> object:
    """Addresses of brokers, separated by commas, if each is one; empty for none."""
    if not text or not isinstance(text, str):
        return or_nothing(text)
    servers = [server.strip() for server in text.split(",")]
    for server in servers:
        host, _, port = server.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        if not (BROKER_HOST.fullmatch(bare) and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
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


class Workers(Section):
    """The loops that `greenlight up` runs beside the API."""

    archive_every_s: Positive = 5
    reconcile_every_s: Positive = 0.5
    mail_every_s: Positive = 5


def web_address(url: str) -> str:
    """An http or https address with a host, if it is one."""
    found = urlsplit(url)
    if found.scheme in ("http", "https") and found.hostname:
        return url
    raise ValueError("not an address such as https://host/folder")


WebAddress = Annotated[str, AfterValidator(web_address)]


class Fetch(Section):
    """Where `data fetch` finds published data sets: a mirror may stand in for their homes."""

    movielens: WebAddress = "https://files.grouplens.org/datasets/movielens"
    movietweetings: WebAddress = "https://raw.githubusercontent.com/sidooms/MovieTweetings/master/latest"
    timeout_s: Positive = 30  # to connect, and of each wait for bytes


class AudienceConf(Section):
    """The simulated audience. Sizes are those of a world made from nothing; one fitted to a history takes its own."""

    viewers: Annotated[int, Field(ge=1)] = 3000
    movies: Annotated[int, Field(ge=1)] = 1500
    days: Annotated[int, Field(ge=1)] = 60  # that `data import simulated` adds
    start: Annotated[date, Field(ge=date(1990, 1, 1), lt=date(2100, 1, 1))] = date(2024, 1, 1)
    visits_per_day: Annotated[float, Field(gt=0, le=2)] = 0.3  # of a viewer, on average
    fitted_visits: Count = 0  # a day, of an audience fitted to a history; 0: as many as it had of late
    lifetime_days: Annotated[float, Field(ge=2)] = 180  # mean, until a viewer stays away; as many arrive
    premieres_per_day: Annotated[float, Field(gt=0)] = 1.0  # new movies
    half_life_days: Positive = 14  # of the news about a new movie
    genre_weight: Weight = 1.2  # spread of a movie's appeal to viewers by its genres, in logits
    factor_weight: Weight = 1.0  # the same by what genres do not tell
    attraction: Annotated[float, Field(gt=0, lt=1)] = 0.1  # clicks per look at a movie everyone talks about
    position_bias: Annotated[float, Field(ge=0)] = 0.7  # a slate's p-th place is looked at with p^-bias
    own_share: Share = 0.3  # of visits that ask for no slate: viewers meet movies elsewhere too
    rating_share: Share = 0.7  # of watched movies that are rated
    heartbeat_minutes: Annotated[int, Field(ge=1)] = 45  # of a movie, between the minutes that are told
    yearly: Share = 0.0  # amplitude of the year's season
    shocks_per_month: Annotated[float, Field(ge=0, le=30)] = 1.0  # an old movie is news again, and a day is busy


class Settings(Section):
    clock: Literal["event", "wall"] = "event"  # event: recorded or simulated data; wall: a live site
    data: Data = Data()
    snapshot: Snapshot = Snapshot()
    inputs: InputsGate = InputsGate()
    offline: OfflineGate = OfflineGate()
    infra: InfraGate = InfraGate()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    serving: Serving = Serving()
    door: Door = Door()
    intake: Intake = Intake()
    cache: Cache = Cache()
    experiment: Experiment = Experiment()
    registry: Registry = Registry()
    storage: Storage = Storage()
    drift: Drift = Drift()
    retrain: Retrain = Retrain()
    retention: Retention = Retention()
    schedule: Schedule = Schedule()
    mail: Mail = Mail()
    kafka: Kafka = Kafka()
    lag: Lag = Lag()
    workers: Workers = Workers()
    fetch: Fetch = Fetch()
    audience: AudienceConf = AudienceConf()


def as_environment(settings: Settings) -> dict[str, str]:
    """The environment in which another process finds the same settings: a variable for each section."""
    return {
        PREFIX + name.upper(): json.dumps(value, ensure_ascii=False)
        for name, value in settings.model_dump(mode="json").items()
    }


def load(environment: dict[str, str] | None = None) -> Settings:
    """The settings in force. SettingsError names the key, the value and the rule, and the nearest known name."""
    environment = dict(os.environ) if environment is None else environment
    merged = _read(Path(__file__).parent / "default.yaml")
    if extra := environment.get("GREENLIGHT_CONF"):
        named = Path(__file__).parent / f"{extra}.yaml"
        merged = _merge(merged, _read(named if named.exists() else Path(extra)))
    merged = _merge(merged, _overrides(environment))
    try:
        return Settings.model_validate(merged)
    except ValidationError as why:
        raise SettingsError(_explain(why)) from why


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such settings file (GREENLIGHT_CONF names `production` or a path)") from None
    except OSError as why:
        raise SettingsError(f"{path}: settings cannot be read: {why.strerror or why}") from why
    except (yaml.YAMLError, UnicodeDecodeError) as why:
        raise SettingsError(f"{path}: not YAML{_place(why)}") from None
    if not isinstance(content, dict):
        raise SettingsError(
            f"{path}: settings are `section: {{key: value}}`, this file holds a {type(content).__name__}"
        )
    return content


def _overrides(environment: dict[str, str]) -> dict[str, Any]:
    """`GREENLIGHT_SERVING__PORT=3001` becomes {"serving": {"port": 3001}}; values are YAML, secrets are not."""
    found: dict[str, Any] = {}
    for name, value in sorted(environment.items()):
        if name.startswith(PREFIX) and name not in NOT_SETTINGS:
            *sections, key = name.removeprefix(PREFIX).lower().split("__")
            place = found
            for section in sections:
                place = place.setdefault(section, {})
                if not isinstance(place, dict):
                    raise SettingsError(f"{name}: {section} is set as a whole too; set either it or its keys")
            setting = ".".join([*sections, key])
            try:
                place[key] = value if setting in SECRETS else yaml.safe_load(value)
            except yaml.YAMLError as why:
                raise SettingsError(f"{name}{_shown(setting, value)}: not YAML{_place(why)}") from None
    return found


def _place(why: Exception) -> str:
    """Where a text stops being YAML. What YAML itself says repeats the text, which may hold a password."""
    mark = getattr(why, "problem_mark", None)
    return f" from line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merge(base[key], over[key])
        for key in base.keys() & over.keys()
        if isinstance(base[key], dict) and isinstance(over[key], dict)
    }
    return {**base, **over, **both}


def _explain(why: ValidationError) -> str:
    return "; ".join(_sentence(error["loc"], error["type"], error["msg"], error["input"]) for error in why.errors())


def _sentence(loc: tuple[int | str, ...], kind: str, message: str, value: Any) -> str:
    name = ".".join(str(part) for part in loc)
    if kind != "extra_forbidden":
        return f"setting {name}{_shown(name, value)}: {message}"
    known = _names_beside(loc)
    nearest = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.0)
    return f"unknown setting {name}; did you mean {'.'.join([*map(str, loc[:-1]), *nearest])}?"


def _shown(name: str, value: Any) -> str:
    """A setting's value in a message, but for one that is a secret or a section around one."""
    hidden = any(secret == name or secret.startswith(f"{name}.") for secret in SECRETS)
    return " = (not shown)" if hidden else f" = {value!r}"


def _names_beside(loc: tuple[int | str, ...]) -> list[str]:
    model: Any = Settings
    for part in loc[:-1]:
        annotation = model.model_fields[part].annotation
        model = next(
            (a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, Section)), None
        )
    return list(model.model_fields) if model else []

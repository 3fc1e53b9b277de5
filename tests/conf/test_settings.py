import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from conf.sections.mail import Mail
from conf.sections.section import Section
from conf.settings import Settings, SettingsError, as_environment, load
from pipelines.status import settings_in_force


def test_environment_overrides_the_file() -> None:
    assert load({"GREENLIGHT_SERVING__PORT": "3001"}).serving.port == 3001
    assert load({}).serving.port == 3000


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("GREENLIGHT_SERVING__PROT", "1", ["unknown setting serving.prot", "serving.port"]),
        ("GREENLIGHT_SEVRING__PORT", "1", ["unknown setting sevring", "serving"]),
        ("GREENLIGHT_SERVING__PORT", "99999", ["serving.port", "99999", "65535"]),
        ("GREENLIGHT_SERVING__PORT", "many", ["serving.port", "many"]),
        ("GREENLIGHT_CLOCK", "sundial", ["clock", "sundial", "event"]),
        ("GREENLIGHT_SERVING", "3", ["serving", "3"]),
        ("GREENLIGHT_SCHEDULE__ZONE", "Europe", ["schedule.zone", "no such time zone"]),
        ("GREENLIGHT_DATA__ZONE", "x" * 5000, ["data.zone", "no such time zone"]),
        ("GREENLIGHT_MAIL__SMTP__TIMEOUT_S", "1e300", ["mail.smtp.timeout_s", "less than or equal"]),
        ("GREENLIGHT_WORKERS__MAIL_EVERY_S", ".inf", ["workers.mail_every_s", "inf"]),
        ("GREENLIGHT_DRIFT__LEVEL", "1e-12", ["drift.level", "0.0005"]),
        ("GREENLIGHT_DRIFT__WINDOW_DAYS", "100000000000", ["drift.window_days", "3650"]),
        ("GREENLIGHT_EXPERIMENT__MAX_DAYS", "1e305", ["experiment.max_days", "3650"]),
    ],
)
def test_a_bad_setting_is_named_with_the_rule(name: str, value: str, words: list[str]) -> None:
    with pytest.raises(SettingsError) as why:
        load({name: value})
    assert all(word in str(why.value) for word in words), str(why.value)


def test_a_section_and_its_key_cannot_both_be_set() -> None:
    with pytest.raises(SettingsError, match="set either it or its keys"):
        load({"GREENLIGHT_SERVING": "3", "GREENLIGHT_SERVING__PORT": "3"})


def test_a_file_may_be_named(tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text("serving: {port: 4000}\n")
    assert load({"GREENLIGHT_CONF": str(tmp_path / "mine.yaml")}).serving.port == 4000
    assert load({"GREENLIGHT_CONF": "production"}).clock == "wall"
    with pytest.raises(SettingsError, match="no such settings file"):
        load({"GREENLIGHT_CONF": str(tmp_path / "other.yaml")})
    (tmp_path / "list.yaml").write_text("- serving\n")
    with pytest.raises(SettingsError, match="this file holds a list"):
        load({"GREENLIGHT_CONF": str(tmp_path / "list.yaml")})


@pytest.mark.parametrize("url", ["redis://:Hunter2/x@h:6379/0", "rediss://:Hun#ter2@h", "http://:Hunter2@h", "Hunter2"])
def test_a_wrong_address_of_redis_is_said_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match=r"cache\.redis") as why:
        load({"GREENLIGHT_CACHE__REDIS": url})
    assert "Hun" not in str(why.value)


def test_the_password_of_redis_is_not_shown_with_the_settings() -> None:
    found = load({"GREENLIGHT_CACHE__REDIS": "rediss://:Hunter2%2F@h:6379/0"})
    assert found.cache.redis.endswith("@h:6379/0")
    assert "Hunter2" not in repr(found) + str(settings_in_force(found))


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().clock = "wall"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GREENLIGHT_MAIL", "{smtp: {password: *Hunter2}}"),  # not YAML
        ("GREENLIGHT_MAIL", "Hunter2"),
        ("GREENLIGHT_MAIL__SMTP", "{password: Hunter2}"),  # no login
        ("GREENLIGHT_MAIL__SMTP", "{host: mail.example.org, tls: none, login: x, password: Hunter2}"),
        ("GREENLIGHT_MAIL__SMTP__PASSWORD", "Hunter2é"),
    ],
)
def test_no_message_repeats_the_mail_servers_password(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=r"MAIL|mail\.smtp|mail") as why:
        load({name: value})
    assert "Hunter2" not in str(why.value)


def test_a_settings_file_that_is_not_yaml_is_not_repeated(tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text("mail:\n  smtp: {login: x, password: *Hunter2}\n")
    with pytest.raises(SettingsError, match="not YAML from line 2") as why:
        load({"GREENLIGHT_CONF": str(tmp_path / "mine.yaml")})
    assert "Hunter2" not in str(why.value)


@pytest.mark.parametrize("password", ["@Hunter2", "12345", "a #b", "yes", "'quoted'", "{", " "])
def test_a_password_is_taken_as_it_stands(password: str) -> None:
    where = {"GREENLIGHT_MAIL__SMTP__LOGIN": "greenlight", "GREENLIGHT_MAIL__SMTP__PASSWORD": password}
    found = load(where)
    assert found.mail.smtp.password == password
    assert load(as_environment(found)) == found
    assert "password=" not in repr(found)


@pytest.mark.parametrize(
    "address",
    [
        "lead",
        "lead@",
        "@x.org",
        "a b@x.org",
        "Lead <a@x.org>",
        "a@x.org\nBcc: b@x.org",
        "a@é.org",
        "a..b@x.org",
        "a@" + "x" * 300,
    ],
)
def test_what_is_no_mail_address_is_refused(address: str) -> None:
    with pytest.raises(ValidationError, match="not a mail address"):
        Mail(to=(address,))


@pytest.mark.parametrize(
    ("mail", "words"),
    [
        ("{via: smtp}", "smtp.host"),
        ("{via: smtp, smtp: {host: mail.example.org}}", "mail.to"),
        ("{via: ses, to: lead@example.org}", "mail.sender"),
        ("{via: smtp, smtp: {host: mail.example.org, tls: none}}", "in clear"),
        ("{smtp: {login: x, password: y, password_file: z}}", "either password or password_file"),
    ],
)
def test_mail_that_could_not_go_out_is_refused_at_the_start(mail: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load({"GREENLIGHT_MAIL": mail})


def test_mail_addresses_may_stand_in_one_text_and_count_once() -> None:
    assert load({"GREENLIGHT_MAIL__TO": "a@x.org, b@x.org,A@X.org"}).mail.to == ("a@x.org", "b@x.org")
    assert load({"GREENLIGHT_MAIL__TO": "[a@x.org, b@x.org]"}).mail.to == ("a@x.org", "b@x.org")
    for nobody in ("[]", "''"):
        with pytest.raises(SettingsError, match=r"mail\.to"):
            load({"GREENLIGHT_MAIL__TO": nobody})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"SERVERS": "broker"}, "'broker' is not an address such as broker-1:9092"),
        ({"SERVERS": "a:9092,b:99999"}, "'b:99999' is not an address"),
        ({"SERVERS": "a:9092,"}, "'' is not an address"),
        ({"SERVERS": "user:pass@host:9092"}, "is not an address"),
        ({"TOPIC_PREFIX": "a/b"}, "topic_prefix"),
        ({"USER": "u"}, "mechanism, user and password"),
        ({"MECHANISM": "SCRAM-SHA-512", "USER": "u"}, "mechanism, user and password"),
        ({"MECHANISM": "PLAIN", "USER": "u", "PASSWORD": "Hunter2", "SERVERS": "h:1"}, "sends the password in clear"),
        ({"PASSWORD": "Hunter2", "PASSWORD_FILE": "/f"}, "set either password or password_file"),
        ({"CERTIFICATE": "c.pem", "SECURITY": "tls"}, "certificate and key belong together"),
        ({"AUTHORITY": "a.pem"}, "need security tls"),
    ],
)
def test_half_a_kafka_is_refused(settings: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError) as why:
        load({f"GREENLIGHT_KAFKA__{name}": value for name, value in settings.items()})
    assert words in str(why.value)
    assert "Hunter2" not in str(why.value)


def test_a_kafka_and_its_password(tmp_path) -> None:
    login = {"MECHANISM": "SCRAM-SHA-512", "USER": "u", "PASSWORD": "Hunter2: {", "SERVERS": "a:1, b.example:9092"}
    found = load({f"GREENLIGHT_KAFKA__{name}": value for name, value in login.items()})
    assert (found.kafka.servers, found.kafka.password) == ("a:1,b.example:9092", "Hunter2: {")
    assert "Hunter2" not in repr(found) + str(settings_in_force(found))
    assert load({"GREENLIGHT_KAFKA__SERVERS": ""}).kafka.servers == ""


@pytest.mark.parametrize("servers", ["::1:9092", "[::1:9092", "::1]:9092", "[h]:9092", "a:1,[::1]"])
def test_an_ipv6_address_of_a_broker_needs_its_brackets(servers: str) -> None:
    """Without them, Kafka's client would take the port for a part of the address."""
    with pytest.raises(SettingsError, match="is not an address such as"):
        load({"GREENLIGHT_KAFKA__SERVERS": json.dumps(servers)})
    assert load({"GREENLIGHT_KAFKA__SERVERS": '"[::1]:9092, a:1"'}).kafka.servers == "[::1]:9092,a:1"


def test_no_number_of_the_settings_is_infinite() -> None:
    sections = [(name, section) for name, section in Settings() if isinstance(section, Section)]
    numbers = [f"{name}__{key}".upper() for name, section in sections for key, n in section if type(n) in (int, float)]
    assert "KAFKA__SPOOL_KEEP_HOURS" in numbers
    for name in numbers:
        for text in (".inf", "-.inf", ".nan", "1e400"):
            with pytest.raises(SettingsError):
                load({f"GREENLIGHT_{name}": text})


@pytest.mark.parametrize("value", ["2024-13-01", "!!int x", "!!float x", "!!timestamp x", "9" * 5000, "[" * 5000])
def test_what_yaml_begins_to_read_and_cannot_is_refused_as_no_yaml(value: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"GREENLIGHT_AUDIENCE__START.*: not YAML"):
        load({"GREENLIGHT_AUDIENCE__START": value})
    named = tmp_path / "s.yaml"
    named.write_text(f"audience: {{start: {value}}}")
    with pytest.raises(SettingsError, match=r"s\.yaml: not YAML"):
        load({"GREENLIGHT_CONF": str(named)})

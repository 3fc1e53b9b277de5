import pytest
from pydantic import ValidationError

from conf.settings import Settings, SettingsError, load
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

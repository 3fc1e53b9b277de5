"""Typed, frozen settings. `default.yaml` < the file that `GREENLIGHT_CONF` names < `GREENLIGHT_<SECTION>__<KEY>`.

An entry point calls `load()` once and hands each function its section. An unknown key is refused with the nearest name.
"""

import difflib
import json
import os
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import ValidationError

from conf.errors import PlainError
from conf.sections.audience import AudienceConf
from conf.sections.data import Data, Fetch, Snapshot
from conf.sections.experiment import Experiment
from conf.sections.gates import InfraGate, InputsGate, OfflineGate
from conf.sections.jobs import Drift, Retention, Retrain, Schedule, Workers
from conf.sections.kafka import Kafka, Lag
from conf.sections.mail import Mail
from conf.sections.section import Section
from conf.sections.serving import Cache, Door, Intake, Serving
from conf.sections.storage import Registry, Storage
from conf.sections.training import Evaluate, Train

PREFIX = "GREENLIGHT_"
NOT_SETTINGS = {"GREENLIGHT_HOME", "GREENLIGHT_CONF", "GREENLIGHT_REQUIRE_SERVICES"}  # read elsewhere, or by the tests
SECRETS = ("cache.redis", "kafka.password", "mail.smtp.password")  # values that no message repeats

# What the reader raises: a day of no month, a number with too many digits, a tag that lies, a tower of brackets.
NOT_YAML = (yaml.YAMLError, ValueError, AttributeError, RecursionError)


class SettingsError(PlainError):
    """A setting is unknown or out of range; the message names it, the value and the rule."""


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


def changed(settings: Settings, section: str, **values: object) -> Settings:
    """The settings with other values in one section. SettingsError as `load` says it, where a value may not be so."""
    asked = settings.model_dump()
    try:
        return Settings.model_validate({**asked, section: {**asked[section], **values}})
    except ValidationError as why:
        raise SettingsError(_explain(why)) from why


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such settings file (GREENLIGHT_CONF names `production` or a path)") from None
    except OSError as why:
        raise SettingsError(f"{path}: settings cannot be read: {why.strerror or why}") from why
    except NOT_YAML as why:
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
            except NOT_YAML as why:
                raise SettingsError(
                    f"{name}{_shown(setting, value)}: not YAML{_place(why)}; text that begins so stands in quotes"
                ) from None
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

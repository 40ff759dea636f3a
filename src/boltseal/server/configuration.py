"""Reads the server's settings: a TOML file, the environment and the command line become one `Settings`.

- The file is that of `--config`, else BOLTSEAL_CONFIG, else /etc/boltseal/boltseal.toml if it exists.
- A flag overrides the environment (BOLTSEAL_SERVER__LISTEN is `listen` of `[server]`), the environment overrides the
  file, the file overrides the default.
- An unknown key or an invalid value is an error of one line: where, what was found, what was expected, and for an
  unknown key the most similar known one. Only the variables that Kubernetes sets for every service are ignored.

The file and the environment are trusted: they belong to the operator. `policy` interprets the rules.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource, SettingsError

from boltseal.config import SERVER_CONFIG_FILE, ConfigInvalid, environment
from boltseal.errors import quote
from boltseal.policy.grants import GrantInvalid
from boltseal.policy.notifications import NotifyInvalid
from boltseal.policy.pipeline_rules import IssuerInvalid
from boltseal.policy.quotas import QuotaInvalid
from boltseal.policy.rebuild_actions import OnOutdatedInvalid
from boltseal.policy.rules import RuleInvalid
from boltseal.policy.tag_expectations import TagsInvalid
from boltseal.policy.upstreams import UpstreamInvalid
from boltseal.server.page_settings import OidcInvalid
from boltseal.server.settings import ENV_PREFIX, ENV_SEPARATOR, ServerSettings, Settings
from boltseal.server.storage_settings import SECRET_SETTINGS

DEFAULT_FILE: Final = SERVER_CONFIG_FILE

_NOT_SETTINGS: Final = frozenset({"BOLTSEAL_CONFIG", "BOLTSEAL_DEBUG", "BOLTSEAL_ENGINES", "BOLTSEAL_STATE"})
# Kubernetes sets these in the containers of a namespace that has a service called "boltseal".
_SERVICE_LINKS: Final = re.compile(
    r"BOLTSEAL_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?)"
)


_LISTS: Final = ("rule", "upstream", "tags", "witness", "notify", "on_outdated")
"""The tables that are lists."""
_IN_JSON: Final = (
    ("rule",),
    ("upstream",),
    ("tags",),
    ("witness",),
    ("notify",),
    ("on_outdated",),
    ("auth", "grant"),
    ("auth", "issuer"),
    ("auth", "quota"),
    ("auth", "oidc", "scopes"),
    ("auth", "oidc", "allow_hosts"),
    ("local", "namespaces"),
    ("outdated", "ignore"),
    ("witness_service", "logs"),
)
"""The settings whose environment variable is JSON."""


class _Layer(NamedTuple):
    """One source of settings. `origin`: its name in messages."""

    origin: str
    values: Mapping[str, Any]


class SettingValue(NamedTuple):
    """One setting in force. `source`: default, file, environment or flag; `where`: its file, variable or flag."""

    name: str
    value: Any
    source: Literal["default", "file", "environment", "flag"]
    where: str


class LoadedSettings(NamedTuple):
    """Settings, and the source of each in the order of the tables."""

    settings: Settings
    values: tuple[SettingValue, ...]


def load(
    path: Path | None = None, overrides: Mapping[str, Any] | None = None, *, default_file: Path = DEFAULT_FILE
) -> Settings:
    """Read file and environment, and apply `overrides` (flags, nested like the tables) over them.

    Raises:
        ConfigInvalid: one line: where, what was found, what was expected.
    """
    return load_with_sources(path, overrides, default_file=default_file).settings


def load_with_sources(
    path: Path | None = None, overrides: Mapping[str, Any] | None = None, *, default_file: Path = DEFAULT_FILE
) -> LoadedSettings:
    """Return the settings as `load` does, with the source of each value."""
    file = _file_layer(path, default_file)
    variables = _environment_layer()
    flags = _Layer("command line", overrides or {})
    merged: dict[str, Any] = {}
    for layer in (file, variables, flags):
        _refuse_unknown(layer)
        merged = _overlaid(merged, layer.values)
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise ConfigInvalid(_error_line(error.errors()[0], (flags, variables, file))) from error
    for key, table in (
        ("rule", "rules"),
        ("auth", "grants"),
        ("auth", "issuers"),
        ("auth", "person_terms"),
        ("auth", "quotas"),
        ("tags", "expectations"),
        ("upstream", "upstreams"),
        ("notify", "receivers"),
        ("on_outdated", "actions"),
    ):
        try:
            getattr(settings, table)
        except (
            RuleInvalid,
            GrantInvalid,
            IssuerInvalid,
            OidcInvalid,
            QuotaInvalid,
            TagsInvalid,
            UpstreamInvalid,
            NotifyInvalid,
            OnOutdatedInvalid,
        ) as error:
            origin = variables.origin if key in variables.values else file.origin
            raise ConfigInvalid(f"{origin}: {error.message}") from error
    return LoadedSettings(
        settings, tuple(_setting_value(settings, key, file, variables, flags) for key in _known_keys(Settings))
    )


def _setting_value(
    settings: Settings, key: tuple[str, ...], file: _Layer, variables: _Layer, flags: _Layer
) -> SettingValue:
    def value_in(layer: Any) -> Any:
        for part in key:
            layer = layer.get(part) if isinstance(layer, Mapping) else None
        return layer

    name = f"[{'.'.join(key[:-1])}] {key[-1]}" if len(key) > 1 else f"[[{key[0]}]]"
    name = f"[[auth.{key[1]}]]" if key in (("auth", "grant"), ("auth", "issuer"), ("auth", "quota")) else name
    value: Any = settings
    for part in key:
        value = getattr(value, part)
    if value_in(flags.values) is not None:
        return SettingValue(name, value, "flag", f"--{key[-1].replace('_', '-')}")
    if value_in(variables.values) is not None:
        return SettingValue(name, value, "environment", _variable(key))
    if value_in(file.values) is not None:
        return SettingValue(name, value, "file", file.origin)
    return SettingValue(name, value, "default", "")


def _file_layer(path: Path | None, default_file: Path) -> _Layer:
    named = path or _config_variable()
    if named is None and not default_file.exists():
        return _Layer(str(default_file), {})
    file = named or default_file
    try:
        return _Layer(str(file), tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigInvalid(f"cannot read the configuration {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigInvalid(f"{file}: not UTF-8 at byte {error.start}; expected a TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(f"{file}: not TOML: {error}") from error


def _config_variable() -> Path | None:
    named = environment().get("BOLTSEAL_CONFIG", "")
    return Path(named) if named else None


def _environment_layer() -> _Layer:
    known = {_variable(key) for key in _known_keys(Settings)}
    for name in sorted(environment()):
        upper = name.upper()
        if not upper.startswith(ENV_PREFIX) or upper in _NOT_SETTINGS or _SERVICE_LINKS.fullmatch(upper):
            continue
        if upper not in known:
            raise ConfigInvalid(f"environment: {quote(name)} is not a setting{_nearest(upper, known)}")
    try:
        return _Layer("environment", EnvSettingsSource(Settings)())
    except SettingsError as error:
        raise ConfigInvalid(f"environment: {_not_json()} is not JSON; expected a list of tables") from error


def _not_json() -> str:
    """Return the first variable that must be a list and is not JSON; pydantic names only the table."""
    lists = {_variable(key) for key in _IN_JSON}
    for name, text in sorted(environment().items()):
        try:
            if name.upper() in lists:
                json.loads(text)
        except ValueError:
            return name
    return "a list of tables"


def _refuse_unknown(layer: _Layer) -> None:
    for name, value in layer.values.items():
        field = Settings.model_fields.get(name)
        if field is None and not isinstance(value, Mapping | list) and name in ServerSettings.model_fields:
            raise ConfigInvalid(f"{layer.origin}: {name} is outside of any table; put it under [server]")
        if field is None:
            raise ConfigInvalid(f"{layer.origin}: unknown table {quote(name)}{_nearest(name, Settings.model_fields)}")
        if name in _LISTS and isinstance(value, Mapping):
            raise ConfigInvalid(f"{layer.origin}: [{name}] is a list of tables; write [[{name}]]")
        _refuse_unknown_keys(layer.origin, name, field.annotation, value)


def _refuse_unknown_keys(origin: str, name: str, table: Any, values: Any) -> None:
    if not (isinstance(values, Mapping) and isinstance(table, type) and issubclass(table, BaseModel)):
        return
    for key, value in values.items():
        field = table.model_fields.get(key)
        if field is None:
            near = _nearest(key, table.model_fields)
            raise ConfigInvalid(f"{origin}: unknown setting {quote(key)} in [{name}]{near}")
        _refuse_unknown_keys(origin, f"{name}.{key}", field.annotation, value)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)
    return f"; the nearest known one is {near[0]}"


def _overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(value, Mapping) and isinstance(under, Mapping):
            value = _overlaid(under, value)
        merged[key] = value
    return merged


def _known_keys(model: type[BaseModel], at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _known_keys(field.annotation, (*at, name))
        else:
            yield (*at, name)


def _variable(key: tuple[str, ...]) -> str:
    return ENV_PREFIX + ENV_SEPARATOR.join(key).upper()


def _at(values: Any, where: Sequence[str | int]) -> Any:
    """Return the value at a place in tables and lists, or None."""
    for part in where:
        if isinstance(values, Mapping):
            values = values.get(part)
        else:
            values = values[part] if isinstance(values, list) and isinstance(part, int) and part < len(values) else None
    return values


def _error_line(found: ErrorDetails, layers: tuple[_Layer, ...]) -> str:
    """Return one line for pydantic's first error: source of the value, setting, value, what was expected."""
    # After the setting pydantic also names the tried alternative (a boolean, a list), which is no place in a file.
    where = found["loc"] if found["loc"][0] in _LISTS else _setting_at(found["loc"])
    key = tuple(part for part in where if isinstance(part, str))
    for layer in layers:
        value = _at(layer.values, where)
        if value is not None:
            break
    else:
        layer, value = layers[-1], None
    table = f"[{'.'.join(key[:-1]) or key[0]}]" if len(key) == len(where) else f"[[{key[0]}]]"
    name = f"{table} {key[-1]}" if len(key) > 1 else table
    if layer.origin == "environment":
        name = _variable(key if len(key) == len(where) else key[:2])
    expected = re.sub(r"^(Input should be|Value error,) ", "", found["msg"])
    shown = "not valid (it is not shown: it may hold a password)" if _may_hold_secret(key) else quote(str(value))
    return f"{layer.origin}: {name} is {shown}; expected {expected[:1].lower()}{expected[1:]}"


def _may_hold_secret(key: tuple[str, ...]) -> bool:
    """Return whether the value of a setting, or of a table that was given as something else, may have a secret in it."""
    return any(secret[: len(key)] == key for secret in SECRET_SETTINGS)


def _setting_at(loc: Sequence[str | int]) -> tuple[str | int, ...]:
    """Return the beginning of pydantic's place that is a setting, without the alternative that it tried."""
    table: Any = Settings
    for number, part in enumerate(loc):
        if not (isinstance(table, type) and issubclass(table, BaseModel)) or part not in table.model_fields:
            return tuple(loc[:number])
        table = table.model_fields[str(part)].annotation
    return tuple(loc)

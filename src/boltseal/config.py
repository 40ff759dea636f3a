"""Reads what is configured: a TOML file, the environment and the command line become `settings` here, and only here.

This is the only module that reads the environment, for the client too. Rules kept here:

- The file is the one named by `--config`, else by BOLTSEAL_CONFIG, else /etc/boltseal/boltseal.toml if it exists.
- A flag wins over the environment (BOLTSEAL_SERVER__LISTEN is `listen` of `[server]`), that over the file, that over
  the default.
- What is not understood is an error of one line that says where, what was found and what was expected; for an
  unknown key also the nearest known one. Nothing is ignored, save the variables that Kubernetes makes up.

Who is trusted: the file and the environment belong to whoever runs the server. What the rules mean is `policy`.
"""

from __future__ import annotations

import difflib
import json
import os
import pwd
import re
import socket
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from pwd import getpwall
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from boltseal.errors import Invalid, quote

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

    from boltseal.server.settings import Settings

# What the server's settings need is imported where they are read: the verbs of clients would wait for it in vain, and
# longer than for the registry.

DEFAULT_FILE: Final = Path("/etc/boltseal/boltseal.toml")

_NOT_SETTINGS: Final = frozenset({"BOLTSEAL_CONFIG", "BOLTSEAL_DEBUG", "BOLTSEAL_STATE"})
# A Kubernetes service called "boltseal" puts these into the environment of every container beside it.
_SERVICE_LINKS: Final = re.compile(
    r"BOLTSEAL_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?)"
)


class ConfigInvalid(Invalid):
    """A setting that is unknown or can't be, or a file that can't be read. Nothing was started."""


_LISTS: Final = ("rule", "upstream", "witness", "notify", "on_outdated")
"""The tables of which there may be several."""
_IN_JSON: Final = (
    ("rule",),
    ("upstream",),
    ("witness",),
    ("notify",),
    ("on_outdated",),
    ("auth", "grant"),
    ("auth", "quota"),
    ("local", "namespaces"),
)
"""What stands in one variable of the environment, as JSON."""


class _Layer(NamedTuple):
    """One source of settings. `origin` is how a message names it."""

    origin: str
    values: Mapping[str, Any]


class Value(NamedTuple):
    """One setting in force. `source`: default, file, environment or flag; `where`: the file's or variable's name."""

    name: str
    value: Any
    source: Literal["default", "file", "environment", "flag"]
    where: str


class Loaded(NamedTuple):
    """Settings, and where each came from, in the order of the tables."""

    settings: Settings
    values: tuple[Value, ...]


def load(
    path: Path | None = None, overrides: Mapping[str, Any] | None = None, *, default_file: Path = DEFAULT_FILE
) -> Settings:
    """Read file and environment and lay `overrides` (flags, nested as the tables are) over them.

    Raises:
        ConfigInvalid: one line: where, what was found, what was expected.
    """
    return load_and_tell(path, overrides, default_file=default_file).settings


def load_and_tell(
    path: Path | None = None, overrides: Mapping[str, Any] | None = None, *, default_file: Path = DEFAULT_FILE
) -> Loaded:
    """As `load`, and tells of every setting where its value came from."""
    from pydantic import ValidationError

    from boltseal.policy.grants import GrantInvalid
    from boltseal.policy.notifications import NotifyInvalid
    from boltseal.policy.quotas import QuotaInvalid
    from boltseal.policy.rebuild_actions import OnOutdatedInvalid
    from boltseal.policy.rules import RuleInvalid
    from boltseal.policy.upstreams import UpstreamInvalid
    from boltseal.server.settings import Settings

    file = _file_layer(path, default_file)
    environment = _environment_layer()
    flags = _Layer("command line", overrides or {})
    merged: dict[str, Any] = {}
    for layer in (file, environment, flags):
        _refuse_unknown(layer)
        merged = _overlaid(merged, layer.values)
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise ConfigInvalid(_in_words(error.errors()[0], (flags, environment, file))) from error
    for key, table in (
        ("rule", "rules"),
        ("auth", "grants"),
        ("auth", "quotas"),
        ("upstream", "upstreams"),
        ("notify", "receivers"),
        ("on_outdated", "actions"),
    ):
        try:
            getattr(settings, table)
        except (RuleInvalid, GrantInvalid, QuotaInvalid, UpstreamInvalid, NotifyInvalid, OnOutdatedInvalid) as error:
            origin = environment.origin if key in environment.values else file.origin
            raise ConfigInvalid(f"{origin}: {error.message}") from error
    return Loaded(settings, tuple(_told(settings, key, file, environment, flags) for key in _known_keys(Settings)))


def _told(settings: Settings, key: tuple[str, ...], file: _Layer, environment: _Layer, flags: _Layer) -> Value:
    def found(layer: Any) -> Any:
        for part in key:
            layer = layer.get(part) if isinstance(layer, Mapping) else None
        return layer

    name = f"[{key[0]}] {key[1]}" if len(key) > 1 else f"[[{key[0]}]]"
    name = f"[[auth.{key[1]}]]" if key in (("auth", "grant"), ("auth", "quota")) else name
    value: Any = settings
    for part in key:
        value = getattr(value, part)
    if found(flags.values) is not None:
        return Value(name, value, "flag", f"--{key[-1].replace('_', '-')}")
    if found(environment.values) is not None:
        return Value(name, value, "environment", _variable(key))
    if found(file.values) is not None:
        return Value(name, value, "file", file.origin)
    return Value(name, value, "default", "")


class ClientPaths(NamedTuple):
    """Where a client finds what is the user's: logins, the best file first, Docker's daemon, and its own settings.

    `docker_certificates`: the folder of certificates for a daemon behind TLS, None where none is wanted.
    """

    logins: tuple[Path, ...]
    docker_host: str
    settings: Path
    docker_certificates: Path | None = None


def client_paths() -> ClientPaths:
    """The files in which docker and podman keep logins, as the two find them, and DOCKER_HOST or its default.

    Podman's REGISTRY_AUTH_FILE is asked first, since whoever sets it means it; then Docker's, then Podman's own.
    """
    home = home_folder()
    named = os.environ.get("REGISTRY_AUTH_FILE")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    xdg = os.environ.get("XDG_CONFIG_HOME")
    logins = [Path(named)] if named else []
    logins.append(Path(os.environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json")
    logins += [Path(runtime) / "containers/auth.json"] if runtime else []
    configured = Path(xdg) if xdg else home / ".config"
    logins.append(configured / "containers/auth.json")
    docker_host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    verified = os.environ.get("DOCKER_TLS_VERIFY")
    certificates = Path(os.environ.get("DOCKER_CERT_PATH") or home / ".docker") if verified else None
    return ClientPaths(tuple(logins), docker_host, configured / "boltseal/boltseal.toml", certificates)


def state_folder() -> Path:
    """Where a client keeps what it has seen: BOLTSEAL_STATE, else of root /var/lib/boltseal, else the XDG state folder."""
    named = os.environ.get("BOLTSEAL_STATE")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/boltseal")
    xdg = os.environ.get("XDG_STATE_HOME")
    return (Path(xdg) if xdg else home_folder() / ".local/state") / "boltseal"


def home_folder() -> Path:
    """The user's home, under which engines without root keep their images."""
    return Path(os.environ.get("HOME") or Path("~").expanduser())


def home_folders() -> list[Path]:
    """The user's home; for root those of all users."""
    mine = home_folder()
    others = [Path(user.pw_dir) for user in getpwall()] if os.geteuid() == 0 else []
    return list(dict.fromkeys([mine, *others]))


def caller() -> int:
    """The id of the user who called: behind sudo the one who called that, else the one that we are."""
    named = os.environ.get("SUDO_UID", "")
    return int(named) if os.geteuid() == 0 and named.isascii() and named.isdigit() else os.getuid()


def child_environment() -> dict[str, str]:
    """The user's environment, for programs that are theirs (Docker Compose) and are told which engine is meant.

    DOCKER_CONTEXT, which would win over that, is not in it.
    """
    return {name: value for name, value in os.environ.items() if name != "DOCKER_CONTEXT"}


def operator() -> str:
    """Who is at work, for the record: `user@host`."""
    try:
        user = pwd.getpwuid(caller()).pw_name
    except KeyError:
        user = str(caller())
    return f"{user}@{socket.gethostname()}"[:200]


class BuildEnvironment(NamedTuple):
    """What a pipeline says of the build that runs in it. `number`: "" outside of any; `epoch_s`: SOURCE_DATE_EPOCH."""

    number: str
    epoch_s: int | None


# Each as its own pages describe it. GitHub's number is that of one workflow, and repeats when a run is started again.
BUILD_NUMBERS: Final = (
    "CI_PIPELINE_IID",  # GitLab
    "BUILDKITE_BUILD_NUMBER",
    "CIRCLE_BUILD_NUM",
    "DRONE_BUILD_NUMBER",
    "CI_PIPELINE_NUMBER",  # Woodpecker
    "TRAVIS_BUILD_NUMBER",
    "BITBUCKET_BUILD_NUMBER",
    "APPVEYOR_BUILD_NUMBER",
    "CODEBUILD_BUILD_NUMBER",
    "BUILD_BUILDID",  # Azure Pipelines
    "BUILD_NUMBER",  # Jenkins, TeamCity
)


def build_environment() -> BuildEnvironment:
    """The number of the pipeline that we run in, and the time that the build is to be told. ConfigInvalid."""
    number = os.environ.get("GITHUB_RUN_NUMBER", "")
    attempt = os.environ.get("GITHUB_RUN_ATTEMPT", "1")
    if number and attempt != "1":
        number = f"{number}-{attempt}"
    number = number or next((found for name in BUILD_NUMBERS if (found := os.environ.get(name))), "")
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch and not re.fullmatch(r"[0-9]{1,11}", epoch):
        raise ConfigInvalid(f"environment: SOURCE_DATE_EPOCH is {quote(epoch)}; expected seconds since 1970")
    return BuildEnvironment(number, int(epoch) if epoch else None)


def secret(variable: str) -> str:
    """What a variable holds that a setting names, such as `password_env` of an upstream. ConfigInvalid if it holds nothing."""
    found = os.environ.get(variable, "")
    if not found:
        raise ConfigInvalid(
            f"environment: {quote(variable)} is empty or not there; a setting says that a password is in it"
        )
    return found


def debug_wanted() -> bool:
    """Whether BOLTSEAL_DEBUG asks for tracebacks."""
    return os.environ.get("BOLTSEAL_DEBUG", "") not in ("", "0")


def _file_layer(path: Path | None, default_file: Path) -> _Layer:
    named = path or _config_variable()
    if named is None and not default_file.exists():
        return _Layer(str(default_file), {})
    file = named or default_file
    try:
        return _Layer(str(file), tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigInvalid(f"can't read the configuration {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigInvalid(f"{file}: not UTF-8 at byte {error.start}; expected a TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(f"{file}: not TOML: {error}") from error


def _config_variable() -> Path | None:
    named = os.environ.get("BOLTSEAL_CONFIG", "")
    return Path(named) if named else None


def _environment_layer() -> _Layer:
    from pydantic_settings import EnvSettingsSource, SettingsError

    from boltseal.server.settings import ENV_PREFIX, Settings

    known = {_variable(key) for key in _known_keys(Settings)}
    for name in sorted(os.environ):
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
    """The first variable that has to hold a list and is no JSON; pydantic names only the table."""
    lists = {_variable(key) for key in _IN_JSON}
    for name, text in sorted(os.environ.items()):
        try:
            if name.upper() in lists:
                json.loads(text)
        except ValueError:
            return name
    return "a list of tables"


def _refuse_unknown(layer: _Layer) -> None:
    from pydantic import BaseModel

    from boltseal.server.settings import ServerSettings, Settings

    for name, value in layer.values.items():
        field = Settings.model_fields.get(name)
        if field is None and not isinstance(value, Mapping | list) and name in ServerSettings.model_fields:
            raise ConfigInvalid(f"{layer.origin}: {name} stands outside of any table; put it under [server]")
        if field is None:
            raise ConfigInvalid(f"{layer.origin}: unknown table {quote(name)}{_nearest(name, Settings.model_fields)}")
        if name in _LISTS and isinstance(value, Mapping):
            raise ConfigInvalid(f"{layer.origin}: [{name}] is one table; there is a list of them, so write [[{name}]]")
        table = field.annotation
        if isinstance(value, Mapping) and isinstance(table, type) and issubclass(table, BaseModel):
            for key in value:
                if key not in table.model_fields:
                    near = _nearest(key, table.model_fields)
                    raise ConfigInvalid(f"{layer.origin}: unknown setting {quote(key)} in [{name}]{near}")


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
    from pydantic import BaseModel

    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _known_keys(field.annotation, (*at, name))
        else:
            yield (*at, name)


def _variable(key: tuple[str, ...]) -> str:
    from boltseal.server.settings import ENV_PREFIX, ENV_SEPARATOR

    return ENV_PREFIX + ENV_SEPARATOR.join(key).upper()


def _at(values: Any, where: Sequence[str | int]) -> Any:
    """What stands in tables and lists at a place, None where nothing does."""
    for part in where:
        if isinstance(values, Mapping):
            values = values.get(part)
        else:
            values = values[part] if isinstance(values, list) and isinstance(part, int) and part < len(values) else None
    return values


def _in_words(found: ErrorDetails, layers: tuple[_Layer, ...]) -> str:
    """A line from pydantic's first complaint: where the value came from, the setting, the value, what it must be."""
    # Behind a setting pydantic also names what of a choice (a boolean, a list) was tried, which is no place in a file.
    where = found["loc"] if found["loc"][0] in _LISTS else found["loc"][:2]
    key = tuple(part for part in where if isinstance(part, str))
    for layer in layers:
        value = _at(layer.values, where)
        if value is not None:
            break
    else:
        layer, value = layers[-1], None
    table = f"[{key[0]}]" if len(key) == len(where) else f"[[{key[0]}]]"
    name = f"{table} {key[-1]}" if len(key) > 1 else table
    if layer.origin == "environment":
        name = _variable(key[:2])
    expected = re.sub(r"^(Input should be|Value error,) ", "", found["msg"])
    return f"{layer.origin}: {name} is {quote(str(value))}; expected {expected[:1].lower()}{expected[1:]}"

"""Settings of the server: a TOML file, the environment and the command line become frozen values here, and only here.

This is the only module that reads the environment. Rules kept here:

- The file is the one named by `--config`, else by BOLTSEAL_CONFIG, else /etc/boltseal/boltseal.toml if it exists.
- A flag wins over the environment (BOLTSEAL_SERVER__LISTEN is `listen` of `[server]`), that over the file, that over
  the default.
- What is not understood is an error of one line that says where, what was found and what was expected; for an
  unknown key also the nearest known one. Nothing is ignored, save the variables that Kubernetes makes up.

Who is trusted: the file and the environment belong to whoever runs the server. What the rules mean is `policy`.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ByteSize, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from boltseal.errors import Invalid, quote
from boltseal.policy.grants import GrantInvalid, Grants, parse_grants
from boltseal.policy.rules import RuleInvalid, RuleSet, parse_rules

DEFAULT_FILE: Final = Path("/etc/boltseal/boltseal.toml")

LIVE_SERVER: Final = ("access_log", "public_metrics", "read_only", "disk_reserve_bytes")
"""What of `[server]` a running server takes over at SIGHUP, beside rules and grants; the rest needs a restart."""
AT_START_AUTH: Final = ("htpasswd",)
"""What of `[auth]` it does not."""

_PREFIX: Final = "BOLTSEAL_"
_SEPARATOR: Final = "__"
_NOT_SETTINGS: Final = frozenset({"BOLTSEAL_CONFIG", "BOLTSEAL_DEBUG", "BOLTSEAL_STATE"})
# A Kubernetes service called "boltseal" puts these into the environment of every container beside it.
_SERVICE_LINKS: Final = re.compile(
    r"BOLTSEAL_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?)"
)
_MIB: Final = 1024 * 1024


class ConfigInvalid(Invalid):
    """A setting that is unknown or can't be, or a file that can't be read. Nothing was started."""


class ListenAddress(NamedTuple):
    """Where the server listens: an IP address without brackets, and a port."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """True when only this machine can reach it."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def any_interface(self) -> bool:
        """True for 0.0.0.0 and [::]: every address this machine has."""
        return ipaddress.ip_address(self.host).is_unspecified

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        """Read `host:port`; `localhost` is 127.0.0.1. ValueError names what was expected."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            colon = ""
        if not colon or not port.isascii() or not port.isdecimal() or not 1 <= int(port) <= 65_535:
            raise ValueError(_LISTEN_EXPECTED)
        try:
            ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        except ValueError:
            raise ValueError(_LISTEN_EXPECTED) from None
        return cls("127.0.0.1" if host == "localhost" else host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_LISTEN_EXPECTED: Final = (
    "an IP address and a port from 1 to 65535, such as 127.0.0.1:5000, or 0.0.0.0:5000 for every interface"
)


def _listen(text: str) -> str:
    return str(ListenAddress.parse(text))


def _public_url(text: str) -> str:
    expected = "a scheme and a host without a path, such as https://registry.example.com"
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        raise ValueError(expected) from None
    extra = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
    if not valid or extra or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(expected)
    return f"{parts.scheme}://{parts.netloc}"


def _origin(text: str) -> str:
    # A log's origin is a line of its checkpoints, and the name of the key that signs them (C2SP signed-note).
    if not re.fullmatch(r"[a-z0-9][a-z0-9.:/-]{0,254}", text):
        raise ValueError("a host name and perhaps a path, in lower case, such as registry.example.com")
    return text


def _folder(path: Path) -> Path:
    if not path.name:
        raise ValueError("the name of a folder, such as /var/lib/boltseal")
    return path


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)


class ServerSettings(_Table):
    """`[server]`: where the server listens, where its data is, and how much it may use."""

    listen: Annotated[str, AfterValidator(_listen)] = "127.0.0.1:5000"
    data: Annotated[Path, AfterValidator(_folder)] = Path("data")
    public_url: Annotated[str, AfterValidator(_public_url)] | None = None
    allow_anonymous: bool = False
    behind_proxy: bool = False
    tls_cert: Annotated[Path, AfterValidator(_folder)] | None = None
    tls_key: Annotated[Path, AfterValidator(_folder)] | None = None
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    max_connections: Annotated[int, Field(ge=16, le=65_536)] = 1024
    max_manifest_bytes: Annotated[ByteSize, Field(ge=4 * _MIB, le=64 * _MIB)] = ByteSize(4 * _MIB)
    upload_buffer_bytes: Annotated[ByteSize, Field(ge=4 * _MIB, le=4096 * _MIB)] = ByteSize(32 * _MIB)
    shutdown_timeout_s: Annotated[int, Field(ge=1, le=3600)] = 4
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "text"] = "auto"
    access_log: bool = True
    public_metrics: bool = False
    read_only: bool = False
    disk_reserve_bytes: Annotated[ByteSize, Field(ge=0)] = ByteSize(64 * _MIB)

    @property
    def address(self) -> ListenAddress:
        """`listen`, parsed."""
        return ListenAddress.parse(self.listen)


class AuthSettings(_Table):
    """`[auth]`: who may come in. With a user in the file, or anything in this table, callers are told apart."""

    htpasswd: Annotated[Path, AfterValidator(_folder)] | None = None
    anonymous_pull: bool | tuple[str, ...] = False
    service: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:_-]{0,99}$")] = "boltseal"
    grant: tuple[dict[str, Any], ...] = ()

    @property
    def configured(self) -> bool:
        """Whether the table stands in the configuration."""
        return bool(self.model_fields_set)


class LedgerSettings(_Table):
    """`[ledger]`: the name under which the ledger is known. Fixed at the first start; unset: made from the address."""

    origin: Annotated[str, AfterValidator(_origin)] | None = None


class Settings(BaseSettings):
    """All settings of a server. Built from arguments alone it reads nothing from outside; `load` does that."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, env_prefix=_PREFIX, env_nested_delimiter=_SEPARATOR
    )

    server: ServerSettings = ServerSettings()
    auth: AuthSettings = AuthSettings()
    ledger: LedgerSettings = LedgerSettings()
    rule: tuple[dict[str, Any], ...] = ()

    @cached_property
    def rules(self) -> RuleSet:
        """The `[[rule]]` tables with the built-in rules after them. RuleInvalid names the first that is wrong."""
        return parse_rules(self.rule)

    @cached_property
    def grants(self) -> Grants:
        """The `[[auth.grant]]` tables. GrantInvalid names the first that is wrong."""
        return parse_grants(self.auth.grant, self.auth.anonymous_pull)

    @property
    def keys(self) -> Path:
        """Where keys and users are: beside the data, not in it, so that a copy of the data gives no power."""
        return self.server.data.with_name(f"{self.server.data.name}.keys")

    @property
    def htpasswd(self) -> Path:
        """The users' file."""
        return self.auth.htpasswd or self.keys / "htpasswd"

    def taking_over(self, newer: Settings) -> Settings:
        """These settings with what a running server takes over from a changed configuration."""
        server = self.server.model_copy(update={name: getattr(newer.server, name) for name in LIVE_SERVER})
        kept = {name: at for name in AT_START_AUTH if (at := getattr(self.auth, name)) != getattr(newer.auth, name)}
        auth = newer.auth.model_copy(update=kept)  # what is updated counts as configured, so only what differs
        return type(self)(server=server, auth=auth, ledger=self.ledger, rule=newer.rule)

    def left_out(self, newer: Settings) -> tuple[str, ...]:
        """The settings that differ in `newer` and that `taking_over` leaves as they are: they need a restart."""
        taken = self.taking_over(newer)
        return tuple(
            f"[{table}] {name}"
            for table in ("server", "auth", "ledger")
            for name in type(getattr(taken, table)).model_fields
            if getattr(getattr(taken, table), name) != getattr(getattr(newer, table), name)
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the arguments: `load` lays environment and file under them, so that it can say what came from where."""
        return (init_settings,)


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


def load(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read file and environment and lay `overrides` (flags, nested as the tables are) over them.

    Raises:
        ConfigInvalid: one line: where, what was found, what was expected.
    """
    return load_and_tell(path, overrides).settings


def load_and_tell(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Loaded:
    """As `load`, and tells of every setting where its value came from."""
    file = _file_layer(path)
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
    for key, table in (("rule", "rules"), ("auth", "grants")):
        try:
            getattr(settings, table)
        except (RuleInvalid, GrantInvalid) as error:
            origin = environment.origin if key in environment.values else file.origin
            raise ConfigInvalid(f"{origin}: {error.message}") from error
    return Loaded(settings, tuple(_told(settings, key, file, environment, flags) for key in _known_keys(Settings)))


def _told(settings: Settings, key: tuple[str, ...], file: _Layer, environment: _Layer, flags: _Layer) -> Value:
    def found(layer: Any) -> Any:
        for part in key:
            layer = layer.get(part) if isinstance(layer, Mapping) else None
        return layer

    name = f"[{key[0]}] {key[1]}" if len(key) > 1 else f"[[{key[0]}]]"
    name = "[[auth.grant]]" if key == ("auth", "grant") else name
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
    """Where a client finds what is the user's: logins, the best file first, and Docker's daemon."""

    logins: tuple[Path, ...]
    docker_host: str


def client_paths() -> ClientPaths:
    """The files in which docker and podman keep logins, as the two find them, and DOCKER_HOST or its default.

    Podman's REGISTRY_AUTH_FILE is asked first, since whoever sets it means it; then Docker's, then Podman's own.
    """
    home = Path(os.environ.get("HOME") or Path("~").expanduser())
    named = os.environ.get("REGISTRY_AUTH_FILE")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    xdg = os.environ.get("XDG_CONFIG_HOME")
    logins = [Path(named)] if named else []
    logins.append(Path(os.environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json")
    logins += [Path(runtime) / "containers/auth.json"] if runtime else []
    logins.append((Path(xdg) if xdg else home / ".config") / "containers/auth.json")
    return ClientPaths(tuple(logins), os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")


def debug_wanted() -> bool:
    """Whether BOLTSEAL_DEBUG asks for tracebacks."""
    return os.environ.get("BOLTSEAL_DEBUG", "") not in ("", "0")


def exposure_refusal(server: ServerSettings, *, authenticated: bool) -> str | None:
    """Why the server must not listen where it is told to, or None (promise 12: safe by default).

    An address that others can reach needs to know who comes in, and a way that nobody can listen in on; or, for each of
    the two, the word that says that somebody else sees to it. `authenticated`: callers are told apart.
    """
    if server.address.loopback:
        return None
    ways = []
    if not authenticated and not server.allow_anonymous:
        ways.append("authentication: add a user with `boltseal user add NAME`, or say --allow-anonymous")
    if server.tls_cert is None and not server.behind_proxy:
        ways.append("TLS: give --tls-cert and --tls-key, or say --behind-proxy if a proxy in front does it")
    if not ways:
        return None
    return (
        f"refusing to listen on {server.address}, which other machines can reach, without {'; and without '.join(ways)}"
    )


def _file_layer(path: Path | None) -> _Layer:
    named = path or _config_variable()
    if named is None and not DEFAULT_FILE.exists():
        return _Layer(str(DEFAULT_FILE), {})
    file = named or DEFAULT_FILE
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
    known = {_variable(key) for key in _known_keys(Settings)}
    for name in sorted(os.environ):
        upper = name.upper()
        if not upper.startswith(_PREFIX) or upper in _NOT_SETTINGS or _SERVICE_LINKS.fullmatch(upper):
            continue
        if upper not in known:
            raise ConfigInvalid(f"environment: {quote(name)} is not a setting{_nearest(upper, known)}")
    try:
        return _Layer("environment", EnvSettingsSource(Settings)())
    except SettingsError as error:
        raise ConfigInvalid("environment: BOLTSEAL_RULE is not JSON; expected a list of tables") from error


def _refuse_unknown(layer: _Layer) -> None:
    for name, value in layer.values.items():
        field = Settings.model_fields.get(name)
        if field is None and not isinstance(value, Mapping | list) and name in ServerSettings.model_fields:
            raise ConfigInvalid(f"{layer.origin}: {name} stands outside of any table; put it under [server]")
        if field is None:
            raise ConfigInvalid(f"{layer.origin}: unknown table {quote(name)}{_nearest(name, Settings.model_fields)}")
        if name == "rule" and isinstance(value, Mapping):
            raise ConfigInvalid(f"{layer.origin}: [rule] is one table; rules are a list, so write [[rule]]")
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
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _known_keys(field.annotation, (*at, name))
        else:
            yield (*at, name)


def _variable(key: tuple[str, ...]) -> str:
    return _PREFIX + _SEPARATOR.join(key).upper()


def _in_words(found: ErrorDetails, layers: tuple[_Layer, ...]) -> str:
    """A line from pydantic's first complaint: where the value came from, the setting, the value, what it must be."""
    key = tuple(part for part in found["loc"] if isinstance(part, str))
    for layer in layers:
        value: Any = layer.values
        for part in key:
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            break
    else:
        layer, value = layers[-1], None
    name = f"[{key[0]}] {key[-1]}" if len(key) > 1 else f"[{key[0]}]"
    if layer.origin == "environment":
        name = _variable(key[:2])
    expected = re.sub(r"^(Input should be|Value error,) ", "", found["msg"])
    return f"{layer.origin}: {name} is {quote(str(value))}; expected {expected[:1].lower()}{expected[1:]}"

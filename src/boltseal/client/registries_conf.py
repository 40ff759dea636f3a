"""Reads registries.conf, the registry settings of podman, skopeo and buildah (containers-registries.conf(5)).

Two settings are used: `insecure`, which allows a registry without TLS, and `credential-helpers`, where `skopeo login`
stores logins. Mirrors, prefixes with another location, blocked registries and short names are not used.

The files, as those tools read them:

1. The one of CONTAINERS_REGISTRIES_CONF, else the user's, else the system's.
2. Then `*.conf` in the system's `registries.conf.d` (not with the user's own registries.conf), then in the user's. A later
   file overrides an earlier one.

`insecure = true` allows plain HTTP only; a certificate that the registry shows is verified all the same. An entry for a
path of a registry is not used: plain HTTP is decided for a whole host. An entry with another location allows nothing for its
host, also where a wildcard of its domain would.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from boltseal.client.config_files import FileUnusable, read_file, shown
from boltseal.config import RegistriesConfPaths
from boltseal.errors import quote

MAX_FILES: Final = 1000
CREDENTIAL_FILES: Final = "containers-auth.json"
"""The name, among `credential-helpers`, of the credential files."""


class RegistriesConfInvalid(FileUnusable):
    """A registries.conf that is not TOML or has a value of the wrong type."""


@dataclass(frozen=True, slots=True)
class _Content:
    """Settings of one or more files. `insecure`: by host or `*.domain`, the file that allows plain HTTP, or None."""

    insecure: dict[str, Path | None] = field(default_factory=dict)
    helpers: tuple[str, ...] | None = None


class RegistriesConf:
    """The settings in registries.conf and its drop-in files. They are read at the first question."""

    def __init__(self, paths: RegistriesConfPaths | None) -> None:
        self._paths = paths
        self._content: _Content | None = None

    def insecure(self, registry: str) -> Path | None:
        """Return the file that allows plain HTTP for a registry, None if none does. The closest match decides.

        Raises: FileUnusable, RegistriesConfInvalid.
        """
        known = self._read().insecure
        matching = [name for name in known if name == registry or _is_subdomain(registry, name)]
        return known[max(matching, key=lambda name: (name == registry, len(name)))] if matching else None

    def helpers(self) -> tuple[str, ...]:
        """Return the credential helpers in their order; CREDENTIAL_FILES stands for the credential files.

        Raises: FileUnusable, RegistriesConfInvalid.
        """
        return self._read().helpers or (CREDENTIAL_FILES,)

    def _read(self) -> _Content:
        if self._content is None:
            self._content = _merged([] if self._paths is None else _files(self._paths))
        return self._content


def _is_subdomain(registry: str, pattern: str) -> bool:
    """Return whether a registry, with or without port, is in the domain of `*.example.com`."""
    return pattern.startswith("*.") and registry.rpartition("]")[2].partition(":")[0].endswith(pattern[1:])


def _files(paths: RegistriesConfPaths) -> list[Path]:
    user_file = paths.named is None and os.path.exists(paths.user)  # noqa: PTH110 - pathlib may raise PermissionError
    main = paths.named or (paths.user if user_file else paths.system)
    folders = [paths.user] if user_file else [paths.system, paths.user]
    return [main, *(file for folder in folders for file in _drop_ins(folder.with_name(f"{folder.name}.d")))]


def _drop_ins(folder: Path) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".conf"))  # noqa: PTH208 - names only
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FileUnusable(f"{shown(folder)} can't be read: {error.strerror}") from error
    if len(names) > MAX_FILES:
        raise FileUnusable(f"{shown(folder)} can't be read: it has more than {MAX_FILES} files")
    return [folder / name for name in names if not (folder / name).is_dir()]


def _merged(files: Sequence[Path]) -> _Content:
    insecure: dict[str, Path | None] = {}
    helpers: tuple[str, ...] | None = None
    for file in files:
        raw = read_file(file)
        if raw is None:
            continue
        content = _parse(raw, file)
        insecure |= content.insecure
        helpers = helpers if content.helpers is None else content.helpers
    return _Content(insecure, helpers)


def _parse(raw: bytes, file: Path) -> _Content:
    try:
        tables = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and TOMLDecodeError are ValueErrors
        raise RegistriesConfInvalid(f"{shown(file)}: not TOML: {quote(str(error), 200)[1:-1]}") from error
    found: dict[str, Path | None] = {}
    for entry in _list(tables, "registry", dict, file):
        location, prefix = (_value(entry, key, str, "", file).rstrip("/") for key in ("location", "prefix"))
        insecure = _value(entry, "insecure", bool, False, file)
        host = prefix or location
        if (
            "/" not in host
        ):  # one with another location says nothing about this host, and a wildcard does not apply to it
            found.setdefault(host, file if insecure and location in ("", host) else None)
    old = _value(_value(tables, "registries", dict, {}, file), "insecure", dict, {}, file)
    for host in _list(old, "registries", str, file):
        found.setdefault(host.rstrip("/"), file)
    helpers = _list(tables, "credential-helpers", str, file) if "credential-helpers" in tables else None
    return _Content(found, None if helpers is None else tuple(helpers))


def _value(table: Mapping[str, Any], key: str, kind: type, default: Any, file: Path) -> Any:
    value = table.get(key, default)
    if not isinstance(value, kind):
        words = {str: "a text", bool: "true or false", list: "a list", dict: "a table"}
        raise RegistriesConfInvalid(f"{shown(file)}: {key} is {quote(str(value))}; expected {words[kind]}")
    return value


def _list(table: Mapping[str, Any], key: str, kind: type, file: Path) -> list[Any]:
    found: list[Any] = _value(table, key, list, [], file)
    if not all(isinstance(each, kind) for each in found):
        expected = f"tables, written as [[{key}]]" if kind is dict else "a list of texts"
        raise RegistriesConfInvalid(f"{shown(file)}: {key} is {quote(str(found))}; expected {expected}")
    return found

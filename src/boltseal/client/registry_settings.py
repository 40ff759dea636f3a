"""The `[[client.registry]]` tables of the user's settings file: how one registry is reached.

    [[client.registry]]
    host = "registry.example.com:5000"
    ca_file = "/etc/ssl/example-ca.pem"     # besides the system's authorities; certs.d is not searched then
    username = "ci"
    password_file = "/run/secrets/registry" # one line; not open to other users

`plain_http = true` allows a registry without TLS. A relative path is relative to the settings file. The file is trusted,
as the user's own.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.client.hosts import HUB_NAMES
from boltseal.errors import Invalid, quote
from boltseal.oci.reference import HUB

MAX_REGISTRIES: Final = 500
KEYS: Final = ("host", "ca_file", "plain_http", "username", "password_file")

_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_is_host: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]{{1,5}})?").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """One `[[client.registry]]`. `host`: as in references, in lower case; `docker.io` for Docker Hub."""

    host: str
    ca_file: Path | None = None
    plain_http: bool = False
    username: str | None = None
    password_file: Path | None = None


def parse_registries(tables: object, folder: Path) -> tuple[RegistrySettings, ...]:
    """Read the tables. `folder`: that of the settings file. Raises: Invalid: names the wrong one."""
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise Invalid("[client] registry is an array of tables; write [[client.registry]]")
    if len(tables) > MAX_REGISTRIES:
        raise Invalid(f"{len(tables)} [[client.registry]]; at most {MAX_REGISTRIES} are allowed")
    found: dict[str, RegistrySettings] = {}
    for number, table in enumerate(tables, start=1):
        where = f"client.registry {number}"
        one = _parse(where, table, folder)
        if one.host in found:
            raise Invalid(f"{where}: {one.host} appears twice; write one table for it")
        found[one.host] = one
    return tuple(found.values())


def _parse(where: str, table: Mapping[str, object], folder: Path) -> RegistrySettings:
    for key in table:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.0)[0]
            raise Invalid(f"{where}: unknown key {quote(key)}; the nearest known one is {near}")
    plain_http = table.get("plain_http", False)
    if not isinstance(plain_http, bool):
        raise _wrong(where, table, "plain_http", "true or false")
    ca_file, password_file = (_path(where, table, key, folder) for key in ("ca_file", "password_file"))
    username = _text(where, table, "username")
    if (username is None) != (password_file is None):
        raise Invalid(f"{where}: a login is a username and a password_file; one of them is missing")
    if username is not None and ":" in username:
        raise _wrong(where, table, "username", "a name without a colon")
    if plain_http and ca_file is not None:
        raise Invalid(f"{where}: plain_http = true and ca_file exclude each other: there is no TLS")
    return RegistrySettings(
        host=_host(where, table),
        ca_file=ca_file,
        plain_http=plain_http,
        username=username,
        password_file=password_file,
    )


def _host(where: str, table: Mapping[str, object]) -> str:
    if "host" not in table:
        raise Invalid(f"{where}: host is missing; expected a registry, such as registry.example.com:5000")
    text = _text(where, table, "host") or ""
    if _is_host(text) is None:
        raise _wrong(where, table, "host", "a host, perhaps with a port, such as registry.example.com:5000")
    host = text.lower()
    return HUB if host in HUB_NAMES else host


def _path(where: str, table: Mapping[str, object], key: str, folder: Path) -> Path | None:
    text = _text(where, table, key)
    if text is not None and text.startswith("~"):
        raise _wrong(where, table, key, "a path from / or from the folder of the settings file; ~ is not expanded")
    return None if text is None else folder / text


def _text(where: str, table: Mapping[str, object], key: str) -> str | None:
    value = table.get(key)
    if value is not None and (not isinstance(value, str) or not value or not value.isprintable()):
        raise _wrong(where, table, key, "a text in quotes")
    return value


def _wrong(where: str, table: Mapping[str, object], key: str, expected: str) -> Invalid:
    return Invalid(f"{where}: {key} is {quote(str(table[key]))}; expected {expected}")

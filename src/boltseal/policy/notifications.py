"""The `[[notify]]` tables: which receiver gets which events. Pure.

A receiver is a webhook (an `http` or `https` address) or whatever Apprise knows (`mailto://`, `slack://`, ...). Apprise
addresses contain passwords and keys, so they are read from a file or a variable. The values here name only that place.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from boltseal.errors import Invalid, quote
from boltseal.events import EventKind
from boltseal.policy.setting_keys import SettingKey

MAX_RECEIVERS: Final = 50
NOTIFY_KEYS: Final = {
    "name": SettingKey(
        "",
        (
            "The receiver's name in messages; default: the host of its address, or the variable or file that has the "
            "address."
        ),
    ),
    "url": SettingKey(
        "",
        (
            "A webhook that receives events: an `https` address without a secret in it; `http` on this machine, or "
            "with `networks`."
        ),
    ),
    "url_file": SettingKey(
        "", "File with the address: of a webhook, or any that Apprise knows (`mailto://`, `slack://`, ...)."
    ),
    "url_env": SettingKey("", "Environment variable with the address."),
    "secret_file": SettingKey(
        "", "The file with the secret that signs a webhook's requests (Standard Webhooks); default: unsigned."
    ),
    "secret_env": SettingKey("", "Environment variable with that secret."),
    "events": SettingKey("", 'The events to send, such as `["tag.refused", "tag.moved"]`; default: all.'),
    "networks": SettingKey(
        "[]",
        (
            'Internal networks, such as `["10.1.0.0/16"]`, that its address may be in; otherwise only public '
            "addresses, or this machine by its own name."
        ),
    ),
    "ca_file": SettingKey("", "Certificate authority of the receiver, PEM; default: those of the system."),
}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_is_variable = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}", re.ASCII).fullmatch


class NotifyInvalid(Invalid):
    """A `[[notify]]` table that is invalid. The server does not start; the command sends nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifySettings:
    """One `[[notify]]` table. Exactly one of `url`, `url_file`, `url_env` is set, and at most one of the two secrets.

    `name`: used in messages and as the key of pending events in the outbox. `events`: those that it receives.
    `networks`: private networks in which its address may lie.
    """

    name: str
    url: str | None = None
    url_file: str | None = None
    url_env: str | None = None
    secret_file: str | None = None
    secret_env: str | None = None
    events: frozenset[EventKind] = frozenset(EventKind)
    networks: tuple[Network, ...] = ()
    ca_file: str | None = None


def parse_notify(tables: Sequence[Mapping[str, object]]) -> tuple[NotifySettings, ...]:
    """Read the `[[notify]]` tables of a configuration. NotifyInvalid names the first that is wrong."""
    if len(tables) > MAX_RECEIVERS:
        raise NotifyInvalid(f"{len(tables)} [[notify]]; at most {MAX_RECEIVERS} are allowed")
    found: list[NotifySettings] = []
    for number, table in enumerate(tables, start=1):
        terms = _parse(f"notify {number}", table)
        if any(terms.name == other.name for other in found):
            raise NotifyInvalid(f"notify {number}: {quote(terms.name)} appears twice; give each a name of its own")
        found.append(terms)
    return tuple(found)


def _parse(where: str, table: Mapping[str, object]) -> NotifySettings:
    for key in table:
        if key not in NOTIFY_KEYS:
            near = difflib.get_close_matches(key, NOTIFY_KEYS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise NotifyInvalid(f"{where}: unknown key {quote(key)}{hint} (there are {', '.join(NOTIFY_KEYS)})")
    texts = {key: _text(where, table, key) for key in NOTIFY_KEYS if key not in ("events", "networks")}
    for keys, needed in ((("url", "url_file", "url_env"), True), (("secret_file", "secret_env"), False)):
        given = [key for key in keys if texts[key] is not None]
        if len(given) > 1 or (needed and not given):
            raise NotifyInvalid(
                f"{where}: {' and '.join(given) or 'an address'} {'are there' if given else 'is missing'}; expected one "
                f"of {', '.join(keys)}"
            )
    for key in ("url_env", "secret_env"):
        if texts[key] is not None and not _is_variable(texts[key] or ""):
            raise NotifyInvalid(f"{where}: {key} is {quote(texts[key] or '')}; expected the name of a variable")
    url = texts["url"]
    host = "" if url is None else _check_plain(where, url)
    name = texts["name"] or host or texts["url_env"] or texts["url_file"] or ""
    return NotifySettings(
        name=name,
        url=url,
        url_file=texts["url_file"],
        url_env=texts["url_env"],
        secret_file=texts["secret_file"],
        secret_env=texts["secret_env"],
        events=_events(where, table.get("events")),
        networks=_networks(where, table.get("networks", ())),
        ca_file=texts["ca_file"],
    )


def _check_plain(where: str, url: str) -> str:
    """The host of an address that stands in the configuration itself. It is never shown: there may be a secret in it."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https"):
        raise NotifyInvalid(
            f"{where}: url is not an http or https address; an address of Apprise holds a secret: put it into a file "
            "(url_file) or a variable (url_env)"
        )
    if not host or "@" in parts.netloc:
        raise NotifyInvalid(
            f"{where}: url has a login in it, or no host; put an address that holds a secret into a file (url_file)"
        )
    return host


def _text(where: str, table: Mapping[str, object], key: str) -> str | None:
    value = table.get(key)
    if value is not None and (not isinstance(value, str) or not value or not value.isprintable()):
        raise NotifyInvalid(f"{where}: {key} is not a text in quotes")
    return value


def _events(where: str, value: object) -> frozenset[EventKind]:
    if value is None:
        return frozenset(EventKind)
    listed = value if isinstance(value, list | tuple) else [value]
    known = [str(kind) for kind in EventKind]
    for one in listed:
        if one not in known:
            raise NotifyInvalid(f"{where}: events has {quote(str(one))}; expected some of {', '.join(known)}")
    if not listed or not isinstance(value, list | tuple):
        raise NotifyInvalid(f'{where}: events is no list, or an empty one; expected such as ["tag.moved"]')
    return frozenset(EventKind(str(one)) for one in listed)


def _networks(where: str, value: object) -> tuple[Network, ...]:
    try:
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            raise ValueError
        return tuple(ipaddress.ip_network(one) for one in value)
    except ValueError:
        raise NotifyInvalid(
            f'{where}: networks is {quote(str(value))}; expected a list of networks, such as ["10.1.0.0/16"]'
        ) from None

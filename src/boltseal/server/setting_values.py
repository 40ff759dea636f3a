"""Checks of single values of the settings: each function returns the text in its usual form, or raises ValueError.

The message of a ValueError is what was expected; `configuration` puts the name of the setting and the value before it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from boltseal.ledger.cosigning import parse_known_log
from boltseal.ledger.note import COSIGNATURE, KeyInvalid, VerifierKey
from boltseal.policy.client_address import parse_network
from boltseal.policy.durations import Duration, DurationInvalid
from boltseal.policy.globs import GlobInvalid, parse_repository_glob
from boltseal.server.listen_address import ListenAddress

_DAY: Final = Duration.parse("1d")
_MOST_STALE: Final = Duration.parse("10m")


def listen_text(text: str) -> str:
    """Check an address and port, such as `127.0.0.1:5000`."""
    return str(ListenAddress.parse(text))


def public_url(text: str) -> str:
    """Check a scheme and a host without a path."""
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


def ledger_origin(text: str) -> str:
    """Check the name of a ledger."""
    # A log's origin is a line of its checkpoints, and the name of the key that signs them (C2SP signed-note).
    if not re.fullmatch(r"[a-z0-9][a-z0-9.:/-]{0,254}", text):
        raise ValueError("a host name and perhaps a path, in lower case, such as registry.example.com")
    return text


def network(text: str) -> str:
    """Check an address or a network."""
    try:
        return str(parse_network(text))
    except ValueError:
        raise ValueError("an address or a network, such as 127.0.0.1 or 10.0.0.0/8") from None


def file_or_folder(path: Path) -> Path:
    """Check that the path of a file or folder ends in a name."""
    if not path.name:
        raise ValueError("the name of a folder, such as /var/lib/boltseal")
    return path


def file(path: Path) -> Path:
    """Return the path of a file, which ends in a name. Raises: ValueError: it does not, such as ""."""
    if not path.name:
        raise ValueError('the path of a file; without one leave the setting out instead of giving ""')
    return path


def duration(text: str) -> Duration:
    """Return the duration of a text such as `90s`."""
    try:
        return Duration.parse(text)
    except DurationInvalid as error:
        raise ValueError(error.message) from None


def stale_span(text: str) -> str:
    """Check a duration for which caches may be used without the database."""
    span = duration(text)
    if span > _MOST_STALE:
        raise ValueError(f"at most {_MOST_STALE}: a purge may have to wait as long")
    return str(span)


def at_least_a_day(text: str) -> str:
    """Check a duration of at least a day."""
    span = duration(text)
    if span < _DAY:
        raise ValueError(f"at least {_DAY}")
    return str(span)


def witness_url(text: str) -> str:
    """Check the address of a witness."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("the address to which checkpoints are submitted, such as https://witness.example.com")
    return text.rstrip("/")


def witness_key(text: str) -> str:
    """Check the cosignature key of a witness."""
    try:
        key = VerifierKey.parse(text)
    except KeyInvalid as error:
        raise ValueError(error.message) from error
    if key.type != COSIGNATURE:
        raise ValueError("a key of a witness, whose type is 4 (Ed25519 cosignature)")
    return text


def witnessed_log(text: str) -> str:
    """Check the key of a ledger that is cosigned, perhaps with the ledger's origin behind it."""
    try:
        parse_known_log(text)
    except KeyInvalid as error:
        raise ValueError(f"KEY, or KEY ORIGIN; {error.message}") from error
    return text


def namespace(text: str) -> str:
    """Check a glob over repositories."""
    try:
        return str(parse_repository_glob(text))
    except GlobInvalid as error:
        raise ValueError(f"a glob over repositories, such as shop/**; {error.message}") from error

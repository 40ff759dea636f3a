"""The text of an API token: an ID that may be shown, a secret of 256 random bits, and a checksum.

    boltseal_ + id (10 of a-z 2-7) + secret (43 of 0-9 A-Z a-z) + checksum (6 of 0-9 A-Z a-z)

The fixed beginning lets secret scanners find a token in a repository or a log; by the checksum they, and this registry,
distinguish a token from a text that only looks like one. It is the CRC-32 of what is before it, and protects nothing.
"""

from __future__ import annotations

import re
import secrets
import string
import zlib
from typing import Final, NamedTuple

from boltseal.errors import Unauthenticated

PREFIX: Final = "boltseal_"
ID_LENGTH: Final = 10
_ID_CHARACTERS: Final = string.ascii_lowercase + "234567"
_SECRET_LENGTH: Final = 43
_SECRET_BITS: Final = 256
_CHECKSUM_LENGTH: Final = 6
_BASE: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SHAPE: Final = re.compile(
    rf"{PREFIX}([a-z2-7]{{{ID_LENGTH}}})[0-9A-Za-z]{{{_SECRET_LENGTH}}}[0-9A-Za-z]{{{_CHECKSUM_LENGTH}}}", re.ASCII
)
_ID: Final = re.compile(rf"[a-z2-7]{{{ID_LENGTH}}}", re.ASCII)


class TokenRefused(Unauthenticated):
    """An API token that is not accepted. No message of it has any part of the token but the ID."""


class NewToken(NamedTuple):
    """The text of a new token, which is shown once, and its ID."""

    id: str
    text: str


def make_token() -> NewToken:
    """Return a new token."""
    name = "".join(secrets.choice(_ID_CHARACTERS) for _ in range(ID_LENGTH))
    body = f"{PREFIX}{name}{_in_base(secrets.randbits(_SECRET_BITS), _SECRET_LENGTH)}"
    return NewToken(name, body + _checksum(body))


def looks_like_token(text: str) -> bool:
    """Return whether a text has the form of a token, whatever its checksum is."""
    return _SHAPE.fullmatch(text) is not None


def is_token_id(text: str) -> bool:
    """Return whether a text has the form of a token's ID."""
    return _ID.fullmatch(text) is not None


def id_of(text: str) -> str:
    """Return the ID of a token. Raises: TokenRefused: its checksum is wrong."""
    match = _SHAPE.fullmatch(text)
    if match is None or _checksum(text[:-_CHECKSUM_LENGTH]) != text[-_CHECKSUM_LENGTH:]:
        raise TokenRefused("the API token has a wrong checksum; copy it again, whole")
    return match[1]


def _checksum(body: str) -> str:
    return _in_base(zlib.crc32(body.encode("ascii")), _CHECKSUM_LENGTH)


def _in_base(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_BASE))
        digits.append(_BASE[digit])
    return "".join(reversed(digits))

"""Digests of content, written `algorithm:hex` (image-spec "descriptor.md", section Digests).

A `Digest` object is always well formed: one of the two algorithms that every implementation must support, and lower-case
hex of exactly its length. The constructor checks this as well, so a digest can be used in a path or a row without a further
check. The code that has the bytes compares them with the digest.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, Self

from boltseal.errors import ErrorCode, Invalid, quote

SHA256: Final = "sha256"
SHA512: Final = "sha512"
ALGORITHMS: Final = (SHA256, SHA512)

_HEX_LENGTHS: Final = {SHA256: 64, SHA512: 128}
_MATCHERS: Final = {name: re.compile(rf"[0-9a-f]{{{length}}}").fullmatch for name, length in _HEX_LENGTHS.items()}
_SHORT_HEX: Final = 12


class DigestInvalid(Invalid):
    """A text that is not a digest, or a digest that does not match its content."""

    code: ClassVar[ErrorCode] = ErrorCode.DIGEST_INVALID


class Hasher(Protocol):
    """The part of `hashlib`'s hash objects that boltseal uses."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...
    def copy(self) -> Self: ...


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A digest. `algorithm`: "sha256" or "sha512"; `hex`: 64 or 128 lower-case hex digits."""

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        matches = _MATCHERS.get(self.algorithm)
        if matches is None or matches(self.hex) is None:
            raise DigestInvalid(_what_is_wrong(self.algorithm, self.hex))

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Parse `algorithm:hex`. Raises: DigestInvalid for any other text."""
        algorithm, colon, encoded = text.partition(":")
        if not colon:
            raise DigestInvalid(
                f"{quote(text)} is not a digest; expected algorithm:hex, such as sha256: and 64 hex digits"
            )
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: bytes, algorithm: str = SHA256) -> Digest:
        """Return the digest of bytes."""
        running = hasher(algorithm)
        running.update(data)
        return cls(algorithm, running.hexdigest())

    def hasher(self) -> Hasher:
        """Return a new hash object of this digest's algorithm."""
        return hasher(self.algorithm)

    @property
    def short(self) -> str:
        """The digest with twelve hex digits, for messages: `sha256:ab12cd34ef56`. Never compare by it."""
        return f"{self.algorithm}:{self.hex[:_SHORT_HEX]}"

    @property
    def as_tag(self) -> str:
        """The text of a tag that names this digest, `sha256-<64 hex>`: of referrers, and with a suffix of cosign's signatures.

        A sha512 digest is cut after 64 digits. Source: distribution spec, "Referrers Tag Schema".
        """
        return f"{self.algorithm}-{self.hex[:64]}"

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def hasher(algorithm: str) -> Hasher:
    """Return a new hash object. Raises: DigestInvalid when the algorithm is not one of ALGORITHMS."""
    if algorithm == SHA256:
        return hashlib.sha256()
    if algorithm == SHA512:
        return hashlib.sha512()
    raise DigestInvalid(_unknown_algorithm(algorithm))


def _unknown_algorithm(algorithm: str) -> str:
    return f"digest algorithm {quote(algorithm, 40)} is not supported; expected {' or '.join(ALGORITHMS)}"


def _what_is_wrong(algorithm: str, encoded: str) -> str:
    length = _HEX_LENGTHS.get(algorithm)
    if length is None:
        return _unknown_algorithm(algorithm)
    got = f"{len(encoded)} characters: {quote(encoded, 140)}" if len(encoded) != length else quote(encoded, 140)
    return f"a {algorithm} digest has {length} lower-case hex digits after the colon; got {got}"

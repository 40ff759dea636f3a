"""The digest: the name that content gives itself, `algorithm:hex` (image-spec "descriptor.md", section Digests).

A `Digest` that exists is well formed: one of the two algorithms every implementation must know, lower-case
hex of exactly its length. Nothing else is accepted, also not when built from parts, so a digest may become
a path or a row without being looked at again. Comparing bytes with a digest is left to whoever holds the bytes.
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
    """Something that is not a digest, or not the digest of the bytes it came with."""

    code: ClassVar[ErrorCode] = ErrorCode.DIGEST_INVALID


class Hasher(Protocol):
    """What `hashlib` returns, as far as the product uses it."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...
    def copy(self) -> Self: ...


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """`algorithm` is "sha256" or "sha512", `hex` its lower-case hex of 64 or 128 characters."""

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        matches = _MATCHERS.get(self.algorithm)
        if matches is None or matches(self.hex) is None:
            raise DigestInvalid(_what_is_wrong(self.algorithm, self.hex))

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Reads `algorithm:hex`; raises DigestInvalid for everything else."""
        algorithm, colon, encoded = text.partition(":")
        if not colon:
            raise DigestInvalid(
                f"{quote(text)} is not a digest; expected algorithm:hex, such as sha256: and 64 hex digits"
            )
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: bytes, algorithm: str = SHA256) -> Digest:
        """The digest of these bytes."""
        running = hasher(algorithm)
        running.update(data)
        return cls(algorithm, running.hexdigest())

    def hasher(self) -> Hasher:
        """A new, empty hash of this digest's algorithm."""
        return hasher(self.algorithm)

    @property
    def short(self) -> str:
        """Enough of it for a person to recognise: `sha256:ab12cd34ef56`. Never compare by it."""
        return f"{self.algorithm}:{self.hex[:_SHORT_HEX]}"

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def hasher(algorithm: str) -> Hasher:
    """A new, empty hash; DigestInvalid when the algorithm is not one of ALGORITHMS."""
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

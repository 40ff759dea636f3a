"""The beginning of a digest, as people type it: `8c5a9f51ffcc`, `sha256:8c5a9f51ffcc`, or all of it. Pure.

A prefix only selects one of several known digests. It proves nothing: of seven hex digits anyone can make a second image.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from boltseal.errors import quote
from boltseal.oci.digest import ALGORITHMS, SHA256, SHA512, Digest, DigestInvalid

MIN_HEX: Final = 7
MAX_NAMED: Final = 5
"""How many digests an error about an ambiguous prefix names."""

_is_prefix = re.compile(r"(?:(sha256|sha512):)?([0-9a-f]{7,128})", re.ASCII).fullmatch
_HEX_LENGTHS: Final = {SHA256: 64, SHA512: 128}


class DigestAmbiguous(DigestInvalid):
    """A prefix that several digests have."""


@dataclass(frozen=True, slots=True)
class DigestPrefix:
    """The beginning of a digest. `algorithm`: "" where only hex digits were typed."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> DigestPrefix:
        """Parse a prefix or a whole digest. Raises: DigestInvalid."""
        found = _is_prefix(text)
        if found is None or (found[1] and len(found[2]) > _HEX_LENGTHS[found[1]]):
            raise DigestInvalid(
                f"{quote(text)} is not a digest; expected at least {MIN_HEX} lower-case hex digits of one, with or without "
                f"{' or '.join(f'{name}:' for name in ALGORITHMS)}"
            )
        return cls(found[1] or "", found[2])

    def fits(self, digest: Digest) -> bool:
        """Return whether a digest begins so."""
        return self.algorithm in ("", digest.algorithm) and digest.hex.startswith(self.hex)

    def choose(self, candidates: Iterable[Digest]) -> Digest | None:
        """Return the only candidate that begins so; None if none does. Raises: DigestAmbiguous, with the candidates."""
        fits = list(dict.fromkeys(digest for digest in candidates if self.fits(digest)))
        if len(fits) > 1:
            more = f" and {len(fits) - MAX_NAMED} more" if len(fits) > MAX_NAMED else ""
            named = ", ".join(map(str, fits[:MAX_NAMED]))
            raise DigestAmbiguous(f"{self} fits {len(fits)} digests; write more digits of one of {named}{more}")
        return fits[0] if fits else None

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}" if self.algorithm else self.hex

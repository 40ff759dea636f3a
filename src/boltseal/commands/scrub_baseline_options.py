"""Which baseline a scrub checks against or writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from boltseal.errors import Invalid


@dataclass(frozen=True, slots=True)
class BaselineOptions:
    """A baseline to check against, or to write.

    Attributes:
        check: the file to check against; `trusted_key`: the public key that must have signed it.
        write: the file to write; `signing_key`: the file of the private key, created if it does not exist.
    """

    check: Path | None = None
    trusted_key: str | None = None
    write: Path | None = None
    signing_key: Path | None = None

    def __post_init__(self) -> None:
        if (self.check is None) != (self.trusted_key is None):
            raise Invalid("--baseline and --trusted-key belong together: a baseline proves nothing without its key")
        if (self.write is None) != (self.signing_key is None):
            raise Invalid("--write-baseline and --signing-key belong together: a baseline is always signed")
        if self.check is not None and self.write is not None:
            raise Invalid("--baseline checks, and --write-baseline records; give one of them")

"""Where the inventory of a layer is in a baseline, and the verified reading of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from boltseal.engines.safe_open import StoreUnreadable
from boltseal.errors import quote


@dataclass(frozen=True, slots=True)
class Inventory:
    """A part of a baseline's file. `sha256`: of that part, from the signed index."""

    file: Path
    at: int
    size: int
    sha256: str

    def lines(self) -> Iterator[bytes]:
        """Yield the lines, after all were compared with the hash: from the same bytes. Raises: StoreUnreadable."""
        yield from self.verified().splitlines()

    def verified(self) -> bytes:
        """Return the bytes, compared with the hash. Raises: StoreUnreadable."""
        shown = quote(str(self.file), 200)[1:-1]
        try:
            with self.file.open("rb") as file:
                file.seek(self.at)
                raw = file.read(self.size)
        except OSError as error:
            raise StoreUnreadable(f"baseline {shown} can't be read: {error.strerror}") from error
        if hashlib.sha256(raw).hexdigest() != self.sha256:
            raise StoreUnreadable(
                f"baseline {shown} is damaged: the inventory of this layer is not the one that was signed"
            )
        return raw

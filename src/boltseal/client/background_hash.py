"""A hash computed in a worker thread: one piece is hashed while the next one arrives.

Hashing takes as long as receiving; in one thread the two times would add up. At most one piece is in the thread, which
keeps the order and bounds memory. A small piece is hashed at once: handing it to a thread would take longer.
"""

from __future__ import annotations

import asyncio
from typing import Final

from boltseal.oci.digest import Digest

SMALL_BYTES: Final = 32 * 1024


class BackgroundHash:
    """Hashes the pieces of a transfer and compares the result with the expected digest."""

    def __init__(self, digest: Digest) -> None:
        self._digest = digest
        self._hasher = digest.hasher()
        self._pending: asyncio.Future[None] | None = None

    async def update(self, piece: bytes) -> None:
        """Add one piece. Return when the previous piece has been hashed."""
        if self._pending is not None:
            await self._pending
            self._pending = None
        if len(piece) <= SMALL_BYTES:
            self._hasher.update(piece)
        else:
            self._pending = asyncio.get_running_loop().run_in_executor(None, self._hasher.update, piece)

    async def matches(self) -> bool:
        """Return whether all pieces together have the expected digest."""
        if self._pending is not None:
            await self._pending
        return self._hasher.hexdigest() == self._digest.hex

"""A hash that runs beside the transfer: a piece is hashed in a thread while the next one arrives.

Hashing takes as long as receiving; in one thread the two would add up. Never more than one piece is under way, so the
order is kept and memory is bounded.
"""

from __future__ import annotations

import asyncio

from boltseal.oci.digest import Digest


class BackgroundHash:
    """The hash of what has passed, against the digest that it must have."""

    def __init__(self, digest: Digest) -> None:
        self._digest = digest
        self._hasher = digest.hasher()
        self._under_way: asyncio.Future[None] | None = None

    async def update(self, piece: bytes) -> None:
        """Take one piece more. Returns when the one before it is hashed."""
        if self._under_way is not None:
            await self._under_way
        self._under_way = asyncio.get_running_loop().run_in_executor(None, self._hasher.update, piece)

    async def holds(self) -> bool:
        """Whether all that was taken has the digest."""
        if self._under_way is not None:
            await self._under_way
        return self._hasher.hexdigest() == self._digest.hex

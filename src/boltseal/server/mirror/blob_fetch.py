"""One blob on its way from upstream into our store, and to everybody who waits for it meanwhile.

Who waits reads the file that the blob is being written to, each at a pace of their own: nothing is held in memory for
them. The last HELD_BACK_BYTES are given out when the whole has its digest and is stored, never before (promise 5);
otherwise the wait ends in an error, and with it the connection. Who brings the bytes is `blobs`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final

from boltseal.errors import BoltsealError, Unavailable

if TYPE_CHECKING:
    from boltseal.oci.digest import Digest
    from boltseal.server.registry.pulls import Pulls
    from boltseal.server.storage.blobs.protocol import PartialReader

HELD_BACK_BYTES: Final = 64 * 1024
PIECE_BYTES: Final = 256 * 1024


class FetchLost(Unavailable):
    """What had arrived was dropped while somebody was reading it: they have to ask again."""


class Fetch:
    """What has arrived of a blob. `size`: of the whole, None until it is known. Used by one loop."""

    def __init__(self, pulls: Pulls, digest: Digest, size: int | None) -> None:
        self.digest = digest
        self.size = size
        self.arrived = 0
        self._pulls = pulls
        self._partial: PartialReader | None = None
        self._reading = 0
        self._over = False
        self._error: BoltsealError | None = None
        self._changed = asyncio.Event()

    # Who waits

    async def begun(self) -> int:
        """The size of the blob, once it is known and something has arrived, or all of it. Raises why it never will."""
        while not self._over and (self.size is None or self.arrived == 0):
            await self._change()
        self._check()
        return self._size()

    async def whole(self) -> None:
        """Return when the blob is stored. Raises why it will not be."""
        while not self._over:
            await self._change()
        self._check()

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Its bytes while they arrive; the last come when all of them are proven and stored."""
        size, position = self._size(), 0
        while not self._over:
            here = min(self.arrived, size - HELD_BACK_BYTES) - position
            if here <= 0:
                await self._change()
                continue
            piece = await self._read(position, min(here, PIECE_BYTES))
            position += len(piece)
            yield piece
        self._check()
        async for piece in self._pulls.read_blob(self.digest, position, size - position):
            yield piece

    def _size(self) -> int:
        if self.size is None:
            raise FetchLost(f"nobody says how large {self.digest.short} is; ask again")
        return self.size

    async def _read(self, position: int, length: int) -> bytes:
        if self._partial is None:  # cannot be: something arrived
            raise FetchLost("nothing has arrived yet; ask again")
        self._reading += 1
        try:
            piece = await self._partial.read_unverified(position, length)
        finally:
            self._reading -= 1
            self._let_go()
        if not piece:
            self._check()
            raise FetchLost(f"what had arrived of {self.digest.short} was dropped; ask again")
        return piece

    async def _change(self) -> None:
        await self._changed.wait()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    # Who brings it

    def look_into(self, partial: PartialReader) -> None:
        """Where it arrives from now on. FetchLost when it is another place, and somebody read from the one before."""
        before = self._partial
        if before is not None and before.available() >= 0:
            partial.close()
            return
        if before is not None:
            if self.arrived:
                raise FetchLost(f"what had arrived of {self.digest.short} was dropped; ask again")
            before.close()
        self._partial = partial

    def advance(self) -> None:
        """See what has arrived by now, and tell those who wait. FetchLost as in `look_into`."""
        available = -1 if self._partial is None else self._partial.available()
        if available < self.arrived:
            raise FetchLost(f"what had arrived of {self.digest.short} was dropped; ask again")
        if available > self.arrived:
            self.arrived = available
            self._tell()

    def end(self, error: BoltsealError | None) -> None:
        """It is stored (None), or will not be."""
        self._over = True
        self._error = error
        self._tell()
        self._let_go()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _let_go(self) -> None:
        if self._over and not self._reading and self._partial is not None:
            self._partial.close()
            self._partial = None

"""A blob that is being fetched from upstream, and is sent to all waiting clients at the same time.

Each client reads the file that the blob is written to, at its own pace, so nothing is buffered in memory. The last
`HELD_BACK_BYTES` are sent only after the whole blob is verified (guarantee 5). If that fails, the client gets an error and its
connection ends. Clients do not wait until the blob is durable, which only a push promises. `blobs` writes the bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from boltseal.errors import BoltsealError, Unavailable
from boltseal.oci.digest import Digest
from boltseal.server.registry.pulls import Pulls
from boltseal.server.storage.blobs.protocol import PartialReader

HELD_BACK_BYTES: Final = 64 * 1024
CHUNK_BYTES: Final = 256 * 1024


class Fetch:
    """A blob that is being fetched. `size`: of the whole blob, None until it is known. Used by one event loop."""

    def __init__(self, pulls: Pulls, digest: Digest, size: int | None) -> None:
        self.digest = digest
        self.size = size
        self.arrived = 0
        self._pulls = pulls
        self._partial: PartialReader | None = None
        self._reading = 0
        self._ended = False
        self._verified = False
        self._error: BoltsealError | None = None
        self._changed = asyncio.Event()

    # For waiting clients

    async def wait_started(self) -> int:
        """Wait until the size is known and bytes have arrived, and return the size. Raises the error of a failed fetch."""
        while not self._ended and (self.size is None or self.arrived == 0):
            await self._wait_change()
        self._check()
        return self._size()

    async def wait_stored(self) -> None:
        """Wait until the blob is stored. Raises the error of a failed fetch."""
        while not self._ended:
            await self._wait_change()
        self._check()

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the bytes as they arrive; the last ones after the whole blob is verified."""
        size, position = self._size(), 0
        while not self._ended:
            available = min(self.arrived, size if self._verified else size - HELD_BACK_BYTES) - position
            if position == size:
                return
            if available <= 0:
                await self._wait_change()
                continue
            chunk = await self._read(position, min(available, CHUNK_BYTES))
            position += len(chunk)
            yield chunk
        self._check()
        async for chunk in self._pulls.read_blob(self.digest, position, size - position):
            yield chunk

    @property
    def is_verified(self) -> bool:
        """Whether the whole blob has arrived and is verified, so that a client may have got it to its end."""
        return self._verified

    def _size(self) -> int:
        if self.size is None:
            raise Unavailable(f"the size of {self.digest.short} is not known; try again")
        return self.size

    async def _read(self, position: int, length: int) -> bytes:
        if self._partial is None:  # impossible, because bytes have arrived
            raise Unavailable("nothing has arrived yet; try again")
        self._reading += 1
        try:
            chunk = await self._partial.read_unverified(position, length)
        finally:
            self._reading -= 1
            self._close_partial()
        if not chunk:
            self._check()
            raise self.dropped()
        return chunk

    async def _wait_change(self) -> None:
        await self._changed.wait()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    # For the fetching task

    def dropped(self) -> Unavailable:
        """Return the error for the loss of bytes that clients may have read already."""
        return Unavailable(f"the bytes of {self.digest.short} that had arrived were deleted; try again")

    def use(self, partial: PartialReader) -> None:
        """Read from this file from now on.

        Raises:
            Unavailable: it is another file than before, and clients have read bytes of the first one.
        """
        before = self._partial
        if before is not None and before.available() >= 0:
            partial.close()
            return
        if before is not None:
            if self.arrived:
                raise self.dropped()
            before.close()
        self._partial = partial

    def advance(self) -> None:
        """Notify the waiting clients of new bytes. Raises as `use` where bytes were deleted."""
        available = -1 if self._partial is None else self._partial.available()
        if available < self.arrived:
            raise self.dropped()
        if available > self.arrived:
            self.arrived = available
            self._notify()

    def verified(self) -> None:
        """The bytes that have arrived are the blob: its end may be sent."""
        if not self._ended and self._partial is not None:
            self._verified = True
            self.arrived = max(self.arrived, self._partial.available())
            self._notify()

    def end(self, error: BoltsealError | None) -> None:
        """End the fetch: the blob is stored (`error` None), or the fetch has failed."""
        self._ended = True
        self._error = error
        self._notify()
        self._close_partial()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _close_partial(self) -> None:
        if self._ended and not self._reading and self._partial is not None:
            self._partial.close()
            self._partial = None

"""How many bytes of uploads may be in memory at once, and which uploads may go on receiving.

Rules kept here:
- All writers of a store share one number of bytes. With few writers each gathers large batches, and the next while
  the last is being written; with many, each hands on what it gets at once.
- What the server in front of us has read from a socket is in memory whatever anybody decides afterwards: of a fast
  client two reads wait behind the chunk that we see, and reads grow with the client's speed. So a crowd of fast
  clients is let in a few at a time, each to its end, and the others wait while their reads are still small.
- An upload of a few kilobytes, which is there with its first read, never waits.
- Slow and stalled clients keep nobody waiting for long: who was let in counts for the chunks that it brings, and for
  nothing while it brings none.
- Nobody waits for ever: one more is let in every few seconds, whatever it costs.

All is touched by the event loop's thread only, so nothing here is locked. What the bytes are is none of its business.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

BATCH_BYTES: Final = 1024 * 1024
FREE_BYTES: Final = 8 * 1024
"""What a request may bring before it has to be let in."""
FAST_CHUNK_BYTES: Final = 256 * 1024
"""What a client that is let in may be expected to bring at a time until it has shown its pace."""
PACE_CHUNKS: Final = 8
"""After so many chunks their mean is what a client counts for."""
STALL_S: Final = 0.5
"""Without a chunk for so long, a client counts for nothing."""
PATIENCE_S: Final = 10.0
"""After so long without anybody being let in, the next one is."""


class MemoryBudget:
    """Shares a number of bytes among all writers of a store."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.held_bytes = 0
        self.writers = 0
        self.crowd = UploadAdmission(max(total_bytes // 16, FAST_CHUNK_BYTES))  # one may always enter

    @property
    def share_bytes(self) -> int:
        """What one writer may hold, if all hold as much."""
        return self.total_bytes // max(self.writers, 1)

    @property
    def overlaps(self) -> bool:
        """Whether a writer may gather the next batch while the last one is being written."""
        return self.share_bytes >= 2 * BATCH_BYTES and self.held_bytes < self.total_bytes

    def is_due(self, buffered_bytes: int, chunk_bytes: int) -> bool:
        """Whether a writer that has gathered so much, `chunk_bytes` at the last time, must hand it over now.

        Looks one chunk ahead: a share is not exceeded by the chunk that would fill it.
        """
        batch = min(self.share_bytes, BATCH_BYTES)
        return buffered_bytes + chunk_bytes > batch or self.held_bytes >= self.total_bytes


@dataclass(slots=True)
class _Guest:
    """Somebody who was let in: what it counts for, its last chunks, since when it waits for its client."""

    weight: int
    chunks: int
    chunks_bytes: int
    receiving_since: float | None


class UploadAdmission:
    """Lets uploads in while the chunks they may bring, one each, come to no more than `limit_bytes`; first come first."""

    def __init__(self, limit_bytes: int, *, stall_s: float = STALL_S, patience_s: float = PATIENCE_S) -> None:
        self._limit_bytes = limit_bytes
        self._stall_s = stall_s
        self._patience_s = patience_s
        self._inside: dict[object, _Guest] = {}
        self._weight = 0
        self._waiting: dict[object, asyncio.Future[None]] = {}
        self._moved = 0.0
        self._is_looking = False

    def arrived(self, who: object, chunk_bytes: int) -> None:
        """`who` has brought a chunk; what happens to it now is not its client's pace."""
        guest = self._inside.get(who)
        if guest is None:
            return
        guest.receiving_since = None
        guest.chunks += 1
        guest.chunks_bytes += chunk_bytes
        if guest.chunks == PACE_CHUNKS:
            self._count(guest, guest.chunks_bytes // guest.chunks)

    async def go_on(self, who: object, received_bytes: int) -> None:
        """Returns when `who` may receive more, having received so much in this request."""
        guest = self._inside.get(who)
        if guest is not None:
            guest.receiving_since = asyncio.get_running_loop().time()
        elif received_bytes > FREE_BYTES:
            await self._enter(who)

    def leave(self, who: object) -> None:
        """`who` has received everything, or is gone."""
        guest = self._inside.pop(who, None)
        if guest is not None:
            self._weight -= guest.weight
            self._let_in(asyncio.get_running_loop().time())

    async def _enter(self, who: object) -> None:
        loop = asyncio.get_running_loop()
        if not self._waiting:
            self._moved = loop.time()
        entered = self._waiting[who] = loop.create_future()
        if self._is_looking:
            self._let_in(loop.time())
        else:
            self._look_round(loop)
        try:
            await entered
        except asyncio.CancelledError:
            self._waiting.pop(who, None)
            self.leave(who)
            raise

    def _look_round(self, loop: asyncio.AbstractEventLoop) -> None:
        """Lets in who may come in, now and then again for as long as somebody waits."""
        now = loop.time()
        self._look_for_stalled(now)
        self._let_in(now)
        self._is_looking = bool(self._waiting)
        if self._is_looking:
            loop.call_later(self._stall_s / 10, self._look_round, loop)

    def _look_for_stalled(self, now: float) -> None:
        """Guests whose clients send nothing count for nothing, until they do."""
        for guest in self._inside.values():
            if guest.receiving_since is not None and now - guest.receiving_since >= self._stall_s:
                self._count(guest, 0)

    def _count(self, guest: _Guest, weight: int) -> None:
        self._weight += weight - guest.weight
        guest.weight = weight
        guest.chunks = guest.chunks_bytes = 0

    def _let_in(self, now: float) -> None:
        while self._waiting and (
            self._weight + FAST_CHUNK_BYTES <= self._limit_bytes or now - self._moved >= self._patience_s
        ):
            who, entered = next(iter(self._waiting.items()))
            del self._waiting[who]
            self._inside[who] = _Guest(FAST_CHUNK_BYTES, 0, 0, now)
            self._weight += FAST_CHUNK_BYTES
            self._moved = now
            entered.set_result(None)

"""How many bytes of uploads may be in memory at once, and which uploads may go on receiving.

- All writers of a store share one budget. With few writers each gathers large batches, and the next one while the last is
  being written; with many, each hands on at once what it gets.
- Bytes that the server in front has read from a socket are in memory whatever this module decides. Of a fast client two reads
  wait behind the chunk that is visible here, and reads grow with the client's speed. So fast clients are admitted a few at a
  time, each to its end, while the reads of the others are still small.
- An upload of a few kilobytes, which is complete with its first read, never waits.
- Slow and stalled clients do not block others for long: an admitted upload counts for the chunks that it brings, and for
  nothing while it brings none.
- No upload waits for ever: one more is admitted every few seconds, whatever it costs.

Only the event loop's thread uses these objects, so there are no locks.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

BATCH_BYTES: Final = 1024 * 1024
FREE_BYTES: Final = 8 * 1024
"""What a request may bring before it must be admitted."""
FAST_CHUNK_BYTES: Final = 256 * 1024
"""The expected chunk of an admitted client until its pace is known."""
PACE_CHUNKS: Final = 8
"""After so many chunks their mean is the weight of a client."""
STALL_S: Final = 0.5
"""After so long without a chunk the weight of a client is 0."""
PATIENCE_S: Final = 10.0
"""After so long without an admission the next upload is admitted."""


class MemoryBudget:
    """Divides a number of bytes among all writers of a store."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.held_bytes = 0
        self.writers = 0
        self.admission = UploadAdmission(max(total_bytes // 16, FAST_CHUNK_BYTES))  # at least one upload is admitted

    @property
    def share_bytes(self) -> int:
        """Bytes that one writer may hold if all hold the same."""
        return self.total_bytes // max(self.writers, 1)

    @property
    def overlaps(self) -> bool:
        """Whether a writer may gather the next batch while the last one is being written."""
        return self.share_bytes >= 2 * BATCH_BYTES and self.held_bytes < self.total_bytes

    def is_due(self, buffered_bytes: int, chunk_bytes: int) -> bool:
        """Return whether a writer must hand over what it gathered; its last chunk had `chunk_bytes`.

        Looks one chunk ahead, so the chunk that would fill a share does not exceed it.
        """
        batch = min(self.share_bytes, BATCH_BYTES)
        return buffered_bytes + chunk_bytes > batch or self.held_bytes >= self.total_bytes


@dataclass(slots=True)
class _Admitted:
    """An admitted upload: its weight, its last chunks, and since when it waits for its client."""

    weight: int
    chunks: int
    chunks_bytes: int
    receiving_since: float | None


class UploadAdmission:
    """Admits uploads while their expected chunks, one each, add up to at most `limit_bytes`; first come, first served."""

    def __init__(self, limit_bytes: int, *, stall_s: float = STALL_S, patience_s: float = PATIENCE_S) -> None:
        self._limit_bytes = limit_bytes
        self._stall_s = stall_s
        self._patience_s = patience_s
        self._admitted: dict[object, _Admitted] = {}
        self._weight = 0
        self._waiting: dict[object, asyncio.Future[None]] = {}
        self._last_admission_s = 0.0
        self._is_repeating = False

    def arrived(self, who: object, chunk_bytes: int) -> None:
        """Record a chunk of the upload `who`. Until `admit`, the time is not the client's."""
        admitted = self._admitted.get(who)
        if admitted is None:
            return
        admitted.receiving_since = None
        admitted.chunks += 1
        admitted.chunks_bytes += chunk_bytes
        if admitted.chunks == PACE_CHUNKS:
            self._count(admitted, admitted.chunks_bytes // admitted.chunks)

    async def admit(self, who: object, received_bytes: int) -> None:
        """Wait until the upload `who` may receive more, after `received_bytes` in this request."""
        admitted = self._admitted.get(who)
        if admitted is not None:
            admitted.receiving_since = asyncio.get_running_loop().time()
        elif received_bytes > FREE_BYTES:
            await self._enter(who)

    def leave(self, who: object) -> None:
        """Record that the upload `who` has received everything, or was cancelled."""
        admitted = self._admitted.pop(who, None)
        if admitted is not None:
            self._weight -= admitted.weight
            self._admit(asyncio.get_running_loop().time())

    async def _enter(self, who: object) -> None:
        loop = asyncio.get_running_loop()
        if not self._waiting:
            self._last_admission_s = loop.time()
        entered = self._waiting[who] = loop.create_future()
        if self._is_repeating:
            self._admit(loop.time())
        else:
            self._admit_repeatedly(loop)
        try:
            await entered
        except asyncio.CancelledError:
            self._waiting.pop(who, None)
            self.leave(who)
            raise

    def _admit_repeatedly(self, loop: asyncio.AbstractEventLoop) -> None:
        """Admit waiting uploads, and repeat it as long as any waits."""
        now = loop.time()
        self._release_stalled(now)
        self._admit(now)
        self._is_repeating = bool(self._waiting)
        if self._is_repeating:
            loop.call_later(self._stall_s / 10, self._admit_repeatedly, loop)

    def _release_stalled(self, now: float) -> None:
        """Set the weight of uploads whose clients send nothing to 0, until they send again."""
        for admitted in self._admitted.values():
            if admitted.receiving_since is not None and now - admitted.receiving_since >= self._stall_s:
                self._count(admitted, 0)

    def _count(self, admitted: _Admitted, weight: int) -> None:
        self._weight += weight - admitted.weight
        admitted.weight = weight
        admitted.chunks = admitted.chunks_bytes = 0

    def _admit(self, now: float) -> None:
        while self._waiting and (
            self._weight + FAST_CHUNK_BYTES <= self._limit_bytes or now - self._last_admission_s >= self._patience_s
        ):
            who, entered = next(iter(self._waiting.items()))
            del self._waiting[who]
            self._admitted[who] = _Admitted(FAST_CHUNK_BYTES, 0, 0, now)
            self._weight += FAST_CHUNK_BYTES
            self._last_admission_s = now
            entered.set_result(None)

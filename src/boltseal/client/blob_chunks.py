"""Joins the pieces of a blob that arrive from a registry, and aborts a body that arrives too slowly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from boltseal.client.errors import RemoteUnavailable
from boltseal.client.transport import MinimumRate

PIECE_BYTES: Final = 1024 * 1024
"""Arrived bytes are passed on when there are so many."""
HOLD_S: Final = 0.05
"""How long arrived bytes are held back at most."""
PIECES_PER_TURN: Final = 256
"""After so many pieces other tasks get their turn."""


async def coalesced(arriving: AsyncIterator[bytes], skip: int, pace: MinimumRate, what: str) -> AsyncGenerator[bytes]:
    """Yield what arrives after the first `skip` bytes, in larger pieces: each yielded piece has a fixed cost.

    Bytes are held back for at most HOLD_S, since a client may wait for the first byte. A stream slower than `pace`
    ends with RemoteUnavailable. Small pieces must not starve other tasks, since reading what has arrived does not
    suspend.
    """
    clock = asyncio.get_running_loop().time
    gathered: list[bytes] = []
    size, since_s = 0, clock() - HOLD_S
    waited_s, received, asked_s = 0.0, 0, clock()
    async for arrived in arriving:
        now_s = clock()
        waited_s, received = waited_s + now_s - asked_s, received + len(arrived)
        if waited_s >= pace.over_s:
            if received < waited_s * pace.bytes_per_s:
                raise RemoteUnavailable(f"{what} arrives at less than {pace.bytes_per_s} bytes per second: aborted")
            waited_s, received = 0.0, 0
        piece = arrived[skip:] if skip else arrived
        skip = max(0, skip - len(arrived))
        gathered.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES or (size and now_s - since_s >= HOLD_S):
            yield gathered[0] if len(gathered) == 1 else b"".join(gathered)
            gathered, size, since_s = [], 0, clock()
        elif len(gathered) % PIECES_PER_TURN == 0:
            await asyncio.sleep(0)
        asked_s = clock()
    if size:
        yield b"".join(gathered)

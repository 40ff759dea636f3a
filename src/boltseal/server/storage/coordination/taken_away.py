"""Whether any server may still answer with what a COMMIT took away, asked before another one says that it is gone.

The transaction that takes something away waits after its COMMIT until no server answers from what it cached before (`Generation.end`).
Other requests see the COMMIT meanwhile. One that answers "there is no such tag" at once would contradict the answer that a client gets
from a slower server right after it: gone, and there again. So such an answer waits as well.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Final

from boltseal.errors import Unavailable
from boltseal.server.storage.coordination.replica_rows import ReplicaWatch

if TYPE_CHECKING:  # needs the library of PostgreSQL
    from boltseal.server.storage.coordination.lock_session import LockSession

READ_NUMBER: Final = "SELECT number FROM generation WHERE id = 1"
WITHIN_S: Final = 5.0
"""How long an answer waits. A server that can't be reached any more needs up to a minute to be known as such."""
_PAUSE_S: Final = 0.02


class TakenAway:
    """The rows of the servers of one database, as against its generation. Safe to use from several threads."""

    def __init__(self, session: LockSession) -> None:
        self._session = session
        self._watch = ReplicaWatch()
        self._lock = threading.Lock()

    async def until_gone(self) -> None:
        """Wait until no server answers with anything that is taken away now.

        Raises: Unavailable: one may do so for longer, or that can't be known.
        """
        number, ends_s = await asyncio.to_thread(self._number), time.monotonic() + WITHIN_S
        while not await asyncio.to_thread(self._confirmed, number):
            if time.monotonic() > ends_s:
                raise Unavailable(
                    "this was deleted, and a server that does not answer now may still show it; try again in a minute"
                )
            await asyncio.sleep(_PAUSE_S)

    def _number(self) -> int:
        rows, _ = self._session.rows(READ_NUMBER)
        return int(rows[0][0] or 0) if rows else 0

    def _confirmed(self, number: int) -> bool:
        with self._lock:
            return all(row.generation >= number for row in self._watch.look(self._session))

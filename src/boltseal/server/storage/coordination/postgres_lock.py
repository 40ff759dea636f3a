"""The `InterprocessLock` of several hosts: advisory locks of a PostgreSQL session.

A key is a number of 64 bits, chosen by a hash; two keys with one number would wait for each other, which is harmless. The server
releases the locks when the session ends. A lock that was lost with its connection is not noticed before the end of its block:
by the protocol it protects no data.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog

from boltseal.server.storage.coordination.interprocess_lock import LockNotAcquired, LockUnusable
from boltseal.server.storage.coordination.lock_session import LockSession, advisory_key
from boltseal.server.storage.worker_threads import finish_in_thread

LOOK_EVERY_S: Final = 0.05

_log = structlog.get_logger(__name__)


class PostgresInterprocessLock:
    """The locks of one database. `address`: that of the server itself, with the password. Closed once."""

    def __init__(self, address: str) -> None:
        self._session = LockSession(address)
        self._here: set[str] = set()

    def close(self) -> None:
        """Release every lock. Idempotent."""
        self._session.close()

    @asynccontextmanager
    async def taken(self, key: str, wait_s: float) -> AsyncIterator[None]:
        """Hold the lock of a key inside the block. LockNotAcquired after `wait_s` seconds, LockUnusable, BehindPooler."""
        number = advisory_key("lock", key)
        until_s = asyncio.get_running_loop().time() + wait_s
        while not await self._take(number):
            if asyncio.get_running_loop().time() >= until_s:
                raise LockNotAcquired("another request does the same work and takes long; try again in a moment")
            await asyncio.sleep(LOOK_EVERY_S)
        try:
            yield
        finally:
            await self._release(number)

    async def _take(self, number: str) -> bool:
        if number in self._here:
            return False
        self._here.add(number)  # before the wait, since the session would get its own lock a second time
        locked = False
        try:
            locked = await finish_in_thread(self._try, number)
        except asyncio.CancelledError:
            await self._release(number)  # the server may have given the lock
            raise
        finally:
            if not locked:
                self._here.discard(number)
        return locked

    def _try(self, number: str) -> bool:
        [(locked,)], _ = self._session.rows("SELECT pg_try_advisory_lock($1)", number)
        return locked == "t"

    async def _release(self, number: str) -> None:
        try:
            await finish_in_thread(self._session.rows, "SELECT pg_advisory_unlock($1)", number)
        except LockUnusable as error:  # the lock ended with its connection
            _log.debug("a lock ended with its connection", reason=error.message)
        finally:
            self._here.discard(number)

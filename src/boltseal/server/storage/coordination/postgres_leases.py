"""Leases of several hosts: an advisory lock of a PostgreSQL session for each name, and a row with its epoch.

The server releases the lock when the session ends, so a lease is lost with its connection: `held` asks the server, and `confirm`
compares the row in the transaction of the work. The row outlives the lock, and a server that another one takes over from. If that
one lacks the commit of an epoch (a standby that commits did not wait for), it gives another one: epochs rise by random steps.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Final

from boltseal.server.storage.coordination.file_leases import LEASE_NAME
from boltseal.server.storage.coordination.interprocess_lock import LockUnusable
from boltseal.server.storage.coordination.lock_session import LockSession, advisory_key
from boltseal.server.storage.coordination.protocol import LeaseLost, Statements

HELD_WITHIN_S: Final = 2.0
"""How long `held` waits for the server; one that does not answer may have released the lock."""
_KIND: Final = "lease"
_EPOCH: Final = "SELECT epoch FROM lease WHERE name = ? FOR SHARE"
"""Locks the row, so that the next holder, which writes it, waits for the end of the transaction."""
_STEP: Final = "1 + trunc(random() * 16777216)::bigint"
"""A random number: a database that was set back counts from an earlier epoch, and must not give one that a former holder has."""
_NEXT_EPOCH: Final = (
    f"INSERT INTO lease (name, epoch) VALUES ($1, {_STEP}) "  # noqa: S608 - a constant
    f"ON CONFLICT (name) DO UPDATE SET epoch = lease.epoch + {_STEP} RETURNING epoch"
)


class PostgresLease:
    """A lease that this process holds as long as the connection of this number is open."""

    def __init__(self, session: LockSession, name: str, connection: int, epoch: int) -> None:
        self._session = session
        self._name = name
        self._connection = connection
        self._released = False
        self.epoch = epoch

    def held(self) -> bool:
        """Whether the lease was neither released nor lost. Waits at most some seconds."""
        return not self._released and self._session.is_open(self._connection, within_s=HELD_WITHIN_S)

    def confirm(self, statements: Statements) -> None:
        """Raise LeaseLost if the lease was released, or its row has the epoch of another holder."""
        row = None if self._released else statements.plain(_EPOCH, (self._name,)).fetchone()
        if row is None or row[0] != self.epoch:
            raise LeaseLost(f"another server does the work {self._name!r} now: nothing was changed")

    def release(self) -> None:
        """Give the lease back. Idempotent."""
        if self._released:
            return
        self._released = True
        if self._session.is_open(self._connection, within_s=HELD_WITHIN_S):
            with suppress(LockUnusable):  # then the connection is closed, which releases the lock too
                self._session.rows("SELECT pg_advisory_unlock($1)", advisory_key(_KIND, self._name))


class PostgresLeases:
    """The leases of one database. `address`: that of the server itself, with the password."""

    def __init__(self, address: str) -> None:
        self._session = LockSession(address)
        self._lock = threading.Lock()
        self._leases: dict[str, PostgresLease] = {}

    def acquire(self, name: str) -> PostgresLease | None:
        """Return a lease, or None while another process holds the one of this name. Raises: LockUnusable, BehindPooler."""
        if not LEASE_NAME.fullmatch(name):
            raise ValueError(f"lease name {name!r}; expected lower-case letters and hyphens")
        with self._lock:
            before = self._leases.get(name)
            if before is not None and before.held():  # the session would get its own lock a second time
                return None
            key = advisory_key(_KIND, name)
            [(locked,)], connection = self._session.rows("SELECT pg_try_advisory_lock($1)", key)
            if locked != "t":
                return None
            try:
                [(epoch,)], same = self._session.rows(_NEXT_EPOCH, name)
            except LockUnusable:
                with suppress(LockUnusable):
                    self._session.rows("SELECT pg_advisory_unlock($1)", key)
                raise
            if same != connection or epoch is None:
                raise LockUnusable("the connection to the database that keeps the leases was lost; try again")
            lease = self._leases[name] = PostgresLease(self._session, name, connection, int(epoch))
            return lease

    def close(self) -> None:
        """Release every lease. Idempotent."""
        for lease in self._leases.values():
            lease.release()
        self._leases.clear()
        self._session.close()

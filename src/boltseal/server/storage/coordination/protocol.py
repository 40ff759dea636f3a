"""How the processes of one store agree with each other: `Generation`, `InterprocessLock` and `Leases`.

`tests/contracts/test_coordination.py` checks the promises on every implementation: for one host files, and locks that the
kernel releases when a process ends; for several hosts a PostgreSQL database and the locks of its sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Statements(Protocol):
    """Runs statements in the transaction that is about to be committed."""

    def plain(self, statement: str, values: Sequence[object] = (), /) -> object:
        """Run a statement with `?` for each value."""
        ...


class Generation(Protocol):
    """A number that changes when cached answers may be wrong, for all processes of a store.

    Even: caches filled under this number are right. Odd: no cache may be used or filled, because a transaction that takes
    something away is being committed, or because this process cannot confirm the number. When `end` has returned, no process
    reads a number that one read before the COMMIT. A process that dies between `begin` and `end` may leave the number odd, which
    costs speed and nothing else, until the next `end` or `repair`.
    """

    def read(self) -> int:
        """Return the number now. Read it before asking the database for what will be cached under it. Does not block."""
        ...

    def begin(self, statements: Statements) -> None:
        """Prepare for such a COMMIT, of the transaction of these statements. Waits for the COMMIT of another process."""
        ...

    def end(self) -> None:
        """Return when no process reads a number from before the COMMIT, which was made, failed or got no answer."""
        ...

    def repair(self) -> None:
        """Make an odd number even that a dead process left. Called under the database's write lock."""
        ...

    def close(self) -> None:
        """Release what the object holds. Called once."""
        ...


class InterprocessLock(Protocol):
    """Locks by key, over all tasks of all processes of a store. A lock ends with the process that holds it.

    A lock avoids work that is done twice. It does not protect data: what is written under it must be right without it.
    """

    def taken(self, key: str, wait_s: float) -> AbstractAsyncContextManager[None]:
        """Hold the lock of a key inside the block. LockNotAcquired after `wait_s` seconds, LockUnusable."""
        ...

    def close(self) -> None:
        """Release every lock. Idempotent."""
        ...


class Lease(Protocol):
    """The right to do one kind of work, until it is released or lost."""

    @property
    def epoch(self) -> int:
        """A number that is higher than that of every earlier lease of this name.

        The holder writes it in the transactions of its work, and a transaction with a lower epoch than one already written
        is refused. So a holder that has lost its lease without noticing changes nothing.
        """
        ...

    def held(self) -> bool:
        """Return whether the lease is still held, as far as this process knows. Does not block for long."""
        ...

    def release(self) -> None:
        """Give the lease back. Idempotent."""
        ...


class Leases(Protocol):
    """Decides which process does a kind of work for the whole store. At most one lease of a name is valid at a time."""

    def acquire(self, name: str) -> Lease | None:
        """Return a lease, or None while another process holds the one of this name. LockUnusable. Not for the event loop."""
        ...

    def close(self) -> None:
        """Release every lease of this object. Idempotent."""
        ...

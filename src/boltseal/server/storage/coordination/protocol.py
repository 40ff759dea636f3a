"""How the processes of one store agree with each other: `Generation`, `InterprocessLock` and `Leases`.

`tests/contracts/test_coordination.py` checks the promises on every implementation: for one host files, and locks that the
kernel releases when a process ends; for several hosts a PostgreSQL database and the locks of its sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol, TypeAlias

from boltseal.errors import Unavailable


class LeaseLost(Unavailable):
    """Another process may have the lease by now, so the work under it was not done."""


class FoundRow(Protocol):
    """The result of a statement that selects at most one row."""

    def fetchone(self) -> Any:
        """Return the row, or None."""
        ...


class Statements(Protocol):
    """Runs statements in the transaction that is about to be committed."""

    def plain(self, statement: str, values: Sequence[object] = (), /) -> FoundRow:
        """Run a statement with `?` for each value."""
        ...


class Stale(NamedTuple):
    """A number that is not confirmed now. `left_s`: for how long sealed content that was cached under it may still be sent, 0: not.

    `failed`: the database was asked for the number, and failed; else its answer is only late.
    """

    number: int
    left_s: float
    failed: bool


Wait: TypeAlias = Callable[[], None]
"""Waits, for a minute at most, until no process answers from what it cached before a COMMIT. Raises: Unavailable: this process ends."""


class Generation(Protocol):
    """A number that changes when cached answers may be wrong, for all processes of a store.

    Even: caches filled under this number are right. Odd: no cache may be used or filled, because a transaction that takes
    something away is being committed, or because this process cannot confirm the number. When the `Wait` of `end` has returned, no
    process reads a number that one read before the COMMIT. A process that dies between `begin` and `end` may leave the number odd, which
    costs speed and nothing else, until the next `end`.
    """

    def read(self) -> int:
        """Return the number now. Read it before asking the database for what will be cached under it. Does not block."""
        ...

    def stale(self) -> Stale | None:
        """Return the number under which sealed tags and blobs may be answered although it is not confirmed; None: it is confirmed.

        Rights are never answered under it. Does not block.
        """
        ...

    def begin(self, statements: Statements) -> None:
        """Prepare for such a COMMIT, of the transaction of these statements. Waits for the COMMIT of another process."""
        ...

    def end(self) -> Wait | None:
        """Let this process use no number from before the COMMIT, which was made, failed or got no answer.

        After a COMMIT that was made, call what it returns, if anything, before the change is acknowledged.
        """
        ...

    def close(self) -> None:
        """Release what the object holds. Called once; ends each `Wait`."""
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
    """The right to do one kind of work, until it is released or lost.

    It decides who works, and protects nothing by itself: each transaction of the work calls `confirm` (`metadata.fenced_writes`). So a
    holder that has lost its lease without noticing, such as one that was stopped for a while, changes nothing.
    """

    @property
    def epoch(self) -> int:
        """A number that is higher than that of every earlier lease of this name."""
        ...

    def confirm(self, statements: Statements) -> None:
        """Check, in a transaction of the work, that no other process has got the lease since.

        Another process gets it only after this transaction has ended. Raises: LeaseLost.
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

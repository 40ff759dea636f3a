"""Writes that only the holder of a lease may make: each confirms the lease in its own transaction.

A process that was stopped, and whose lease another one took meanwhile, changes nothing when it continues.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from boltseal.server.storage.coordination.protocol import Lease
from boltseal.server.storage.metadata.protocol import Metadata


@contextmanager
def fenced(database: Metadata, lease: Lease) -> Iterator[None]:
    """Let each write that this thread or task asks for inside the block confirm the lease first.

    Where another process may have the lease, a write changes nothing and raises LeaseLost.
    """
    before = database.confirmed.set(lease)
    try:
        yield
    finally:
        database.confirmed.reset(before)

"""Runs a change and undoes it: what a dry run reports is what the change itself would do, by the same code."""

from __future__ import annotations

from typing import TypeVar

from boltseal.server.storage.metadata.protocol import Job, UnitOfWork

T = TypeVar("T")


def undone(job: Job[T]) -> Job[T]:
    """Return a job that returns or raises what `job` does, and changes nothing."""

    def dry(tx: UnitOfWork) -> T:
        with tx.rolled_back():
            return job(tx)

    return dry

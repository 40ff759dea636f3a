"""What a blob store raises when a request to its object store fails."""

from __future__ import annotations

from typing import Final

from boltseal.server.storage.blobs.protocol import StoreBroken, StoreUnanswered
from boltseal.server.storage.object_client import ObjectUse
from boltseal.server.storage.object_failures import Failure, FailureKind


class ObjectAbsent(StoreBroken):
    """The store has no object under a key that a row names."""


def _failed(failure: Failure) -> StoreBroken:
    match failure.kind:
        case FailureKind.ABSENT:
            return ObjectAbsent("an object of the registry's store is missing; push the blob again")
        case FailureKind.SHORT:
            return StoreBroken("an object of the registry's store is shorter than its size; push the blob again")
        case _:
            kind = StoreBroken if failure.kind is FailureKind.TOO_LARGE else StoreUnanswered
            return kind(
                f"an object of the registry's store can't be {failure.done}: {failure.cause}: nothing of this request counts; "
                f"try again later (operator: {failure.advice})"
            )


BLOBS: Final = ObjectUse("blobs", _failed)
"""What the client of the blobs is opened for."""

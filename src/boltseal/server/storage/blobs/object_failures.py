"""What a blob store raises when a request to its object store fails."""

from __future__ import annotations

from typing import Final

from boltseal.server.storage.blobs.protocol import StoreBroken
from boltseal.server.storage.object_client import Failure, FailureKind, ObjectUse


class ObjectAbsent(StoreBroken):
    """The store has no object under a key that a row names."""


def _failed(failure: Failure) -> StoreBroken:
    match failure.kind:
        case FailureKind.ABSENT:
            return ObjectAbsent("an object of the registry's store is missing; push the blob again")
        case FailureKind.SHORT:
            return StoreBroken("an object of the registry's store is shorter than its size; push the blob again")
        case _:
            return StoreBroken(
                f"an object of the registry's store can't be {failure.done} ({failure.error or failure.kind.name}): "
                "nothing of this request counts; try again later"
            )


BLOBS: Final = ObjectUse("blobs", _failed)
"""What the client of the blobs is opened for."""

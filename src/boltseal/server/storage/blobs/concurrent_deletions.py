"""Deletes several blobs at once where each waits for requests and transactions, as in an object store."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from boltseal.server.storage.blobs.protocol import BlobMaintenance, StoreBroken, StoredBlob


def delete_at_once(blobs: BlobMaintenance, stored: Sequence[StoredBlob]) -> list[bool | StoreBroken]:
    """Delete blobs as `BlobMaintenance.delete` does, all at the same time. Return what each call returned or raised. Blocks.

    Any other error than StoreBroken is raised when all calls have ended.
    """

    def delete(each: StoredBlob) -> bool | StoreBroken:
        try:
            return blobs.delete(each)
        except StoreBroken as error:
            return error

    if len(stored) == 1:
        return [delete(stored[0])]
    with ThreadPoolExecutor(len(stored), thread_name_prefix="boltseal-gc") as pool:
        return list(pool.map(delete, stored))

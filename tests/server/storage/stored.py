"""Deletes stored bytes without the registry."""

from __future__ import annotations

from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs.protocol import BlobStore


def remove(store: BlobStore, digest: Digest) -> None:
    """Delete the bytes of a blob, if they are stored."""
    stored = store.maintenance.look(digest)
    if stored is not None:
        assert store.maintenance.delete(stored)

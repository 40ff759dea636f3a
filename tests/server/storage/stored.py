"""Deletes stored bytes without the registry."""

from __future__ import annotations

from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs.protocol import BlobReader


def remove(store: BlobReader, digest: Digest) -> None:
    """Delete the bytes of a blob, if they are stored."""
    stored = store.look(digest)
    if stored is not None:
        assert store.delete_and_wait(stored)

"""Looks at a blob store, and deletes bytes from it, without the registry."""

from __future__ import annotations

from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs.protocol import BlobStore, DifferenceKind


def remove(store: BlobStore, digest: Digest) -> None:
    """Delete the bytes of a blob, if they are stored."""
    stored = store.maintenance.look(digest)
    if stored is not None:
        assert store.maintenance.delete(stored)


def strays(store: BlobStore) -> list[str]:
    """Return the names in the store of what boltseal did not write."""
    found = (each for page in store.maintenance.compare() for each in page.differences)
    return [each.name for each in found if each.kind is DifferenceKind.FOREIGN]

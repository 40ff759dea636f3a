"""What tests of an object store look at: its objects, its rows, and a blob of several objects."""

from __future__ import annotations

import obstore

from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs.object_upkeep import ObjectUpkeep
from boltseal.server.storage.blobs.object_upload import ObjectUploadWriter
from boltseal.server.storage.blobs.protocol import (
    UploadWriter,
)
from boltseal.server.storage.bucket_owner import KEY, PROBE
from boltseal.server.storage.metadata import blob_keys
from tests.object_stores import ObjectStore
from tests.server.storage.sessions import begin, finish, patch


def keys_in(store: ObjectStore, prefix: str = "") -> list[str]:
    """Return the keys of the objects that are really there, besides those that name the registry."""
    keys = (each["path"] for page in obstore.list(store.bucket, prefix) for each in page)
    return sorted(key for key in keys if key not in (KEY, PROBE))


def upkeep(store: ObjectStore) -> ObjectUpkeep:
    """Return the background work of the store."""
    assert isinstance(store.blobs.upkeep, ObjectUpkeep)
    return store.blobs.upkeep


def named(store: ObjectStore, digest: Digest) -> list[str]:
    """Return the keys that the row of a blob names."""
    return [part.key for part in store.database.read_and_wait(lambda tx: blob_keys.keys_of(tx, str(digest)))]


def key_of(writer: UploadWriter) -> str:
    """Return the key of the object that a request will write."""
    assert isinstance(writer, ObjectUploadWriter)
    return writer.writer


async def content_of(store: ObjectStore, digest: Digest) -> bytes:
    """Return all bytes of a blob."""
    stored = await store.blobs.stat(digest)
    assert stored is not None
    return b"".join([piece async for piece in store.blobs.read(digest, 0, stored.size)])


async def in_three_requests(store: ObjectStore) -> Digest:
    """Push a blob in three requests."""
    key = await begin(store.blobs)
    await patch(store.blobs, key, b"one ")
    await patch(store.blobs, key, b"two ")
    digest = Digest.of(b"one two three")
    await finish(store.blobs, key, b"three", digest)
    return digest

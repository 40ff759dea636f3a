"""The requests of an upload, as tests of the local store make them."""

from __future__ import annotations

from pathlib import Path

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.storage.blobs.protocol import BlobStore, UploadId, UploadKey

REPOSITORY = Repository("shop/app")


async def begin(store: BlobStore) -> UploadKey:
    """Begin a new session."""
    key = UploadKey(REPOSITORY, UploadId.new())
    await store.uploads.start_upload(key)
    return key


async def patch(store: BlobStore, key: UploadKey, chunk: bytes) -> None:
    """Append a chunk in one acknowledged request."""
    async with store.uploads.open_upload(key) as writer:
        await writer.write(chunk)
        await writer.flush()


async def finish(store: BlobStore, key: UploadKey, chunk: bytes, digest: Digest) -> None:
    """Send the last request of a session."""
    async with store.uploads.open_upload(key) as writer:
        await writer.write(chunk)
        await writer.commit(digest)


async def push(store: BlobStore, content: bytes) -> Digest:
    """Push a whole blob in one request."""
    digest = Digest.of(content)
    await finish(store, await begin(store), content, digest)
    return digest


def blob_file(data: Path, digest: Digest) -> Path:
    """Return the path of a blob's file."""
    return data / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex


async def broken_patch(store: BlobStore, key: UploadKey, content: bytes) -> None:
    """Send a request whose client disconnects after sending `content` twice."""
    async with store.uploads.open_upload(key) as writer:
        await writer.write(content)
        await writer.write(content)
        raise ConnectionError

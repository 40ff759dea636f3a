"""Each write of the local store fails twice, not done and with the answer lost; blobs are complete or absent."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs.local_store import LocalBlobs
from boltseal.server.storage.blobs.local_upload import SYNC_EVERY_BYTES
from boltseal.server.storage.blobs.protocol import (
    NoSpace,
    StoreBroken,
    UploadBusy,
    UploadKey,
    UploadUnknown,
    UploadWriter,
)
from tests.fakes.disk import FailingDisk
from tests.server.storage.sessions import begin, blob_file, broken_patch, finish, patch, push

MEBIBYTE = 1024 * 1024


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data folder of the store."""
    return tmp_path / "data"


@pytest.fixture
def disk() -> FailingDisk:
    """The disk of the store."""
    return FailingDisk()


@pytest.fixture
def store(data: Path, disk: FailingDisk) -> Iterator[LocalBlobs]:
    """A store on a disk that fails on request."""
    made = LocalBlobs(data, disk=disk, lock_wait_s=0.1)
    yield made
    made.close()


# The first sync of a folder is for the name of a new shard, the second for the name of the blob.
COMMIT_CALLS = [
    ("open_to_append", 0),
    ("append", 0),
    ("sync", 0),
    ("make_folder", 0),
    ("sync_folder", 0),
    ("rename", 0),
    ("sync_folder", 1),
]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EMFILE])
@pytest.mark.parametrize("done", [False, True], ids=["not-done", "done-but-answer-lost"])
@pytest.mark.parametrize(("call", "skip"), COMMIT_CALLS)
async def test_a_failed_commit_leaves_a_complete_blob_or_none(
    data: Path, store: LocalBlobs, disk: FailingDisk, call: str, skip: int, done: bool, number: int
) -> None:
    """Whichever call of a commit fails, the blob is complete or absent, the session consistent, and a later push works."""
    key = await begin(store)
    await patch(store, key, b"acknowledged ")
    content = b"acknowledged and the rest"
    digest = Digest.of(content)
    disk.fail(call, number, done=done, skip=skip)
    error: BoltsealError | None = None
    try:
        await finish(store, key, b"and the rest", digest)
    except BoltsealError as caught:
        error = caught
    held = await size_or_none(store, key)
    there = blob_file(data, digest).read_bytes() if store.maintenance.look(digest) else None

    assert there in (None, content)
    assert held in (None, 13)
    assert error is None or isinstance(error, NoSpace if number in (errno.ENOSPC, errno.EDQUOT) else StoreBroken)
    assert error is not None or there == content
    if held is not None:
        await finish(store, key, b"and the rest", digest)
    else:
        await push(store, content)
    assert blob_file(data, digest).read_bytes() == content


async def size_or_none(store: LocalBlobs, key: UploadKey) -> int | None:
    """Return the offset of a session, or None if it does not exist."""
    try:
        return await store.uploads.upload_size(key)
    except UploadUnknown:
        return None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("done", [False, True], ids=["not-done", "done-but-answer-lost"])
@pytest.mark.parametrize("acknowledged", [0, 13, 3 * MEBIBYTE])
async def test_a_failed_chunk_is_undone(
    store: LocalBlobs, disk: FailingDisk, acknowledged: int, done: bool, number: int
) -> None:
    """After a failed chunk the session continues at its acknowledged offset, without the half that was written."""
    key = await begin(store)
    await patch(store, key, b"a" * acknowledged)
    disk.fail("append", number, done=done)
    async with store.uploads.open_upload(key) as writer:
        with pytest.raises(NoSpace if number == errno.ENOSPC else StoreBroken):
            await send(writer, [b"lost" * 300_000] * 4)
        offset = writer.offset
    held = await store.uploads.upload_size(key)
    await finish(store, key, b"good", Digest.of(b"a" * acknowledged + b"good"))

    assert offset == held == acknowledged
    assert store.buffered_bytes == 0


async def send(writer: UploadWriter, chunks: list[bytes]) -> None:
    """Send a request's chunks; return its acknowledgement."""
    for chunk in chunks:
        await writer.write(chunk)
    await writer.flush()


async def test_a_writer_continues_after_a_full_disk(store: LocalBlobs, disk: FailingDisk) -> None:
    """After a full disk the open session accepts the bytes again when there is space."""
    key = await begin(store)
    disk.fail("append", errno.ENOSPC)
    async with store.uploads.open_upload(key) as writer:
        await writer.write(b"x" * 10)
        with pytest.raises(NoSpace):
            await writer.flush()
        await writer.write(b"y" * 10)
        await writer.flush()

    assert await store.uploads.upload_size(key) == 10


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
async def test_a_failed_fsync_ends_the_session(store: LocalBlobs, disk: FailingDisk, number: int) -> None:
    """A failed fsync discards the session, because the kernel may show bytes that are not on the disk."""
    key = await begin(store)
    disk.fail("sync_data", number)
    async with store.uploads.open_upload(key) as writer:
        with pytest.raises(NoSpace if number == errno.ENOSPC else StoreBroken):
            await send(writer, [b"s" * MEBIBYTE] * (SYNC_EVERY_BYTES // MEBIBYTE + 2))
        with pytest.raises(UploadUnknown):
            await writer.write(b"more")
        with pytest.raises(UploadUnknown):
            await writer.commit(Digest.of(b""))

    with pytest.raises(UploadUnknown):
        await store.uploads.upload_size(key)


async def test_an_fsync_that_fails_after_a_disconnect_ends_the_session(store: LocalBlobs, disk: FailingDisk) -> None:
    """If an fsync fails after the client disconnected, the session is discarded."""
    key = await begin(store)
    disk.fail("sync_data", errno.EIO)
    with pytest.raises(ConnectionError):
        await broken_patch(store, key, b"g" * SYNC_EVERY_BYTES)

    with pytest.raises(UploadUnknown):
        await store.uploads.upload_size(key)


async def test_the_descriptor_is_open_until_the_sync_ends(store: LocalBlobs, disk: FailingDisk) -> None:
    """A file descriptor is closed only after its background sync has ended."""
    key = await begin(store)
    let_go = disk.hold("sync_data")
    request = asyncio.create_task(broken_patch(store, key, b"d" * SYNC_EVERY_BYTES))
    await asyncio.to_thread(disk.arrived("sync_data").wait, 5)
    await asyncio.sleep(0.05)  # the connection breaks meanwhile
    with pytest.raises(UploadBusy):
        await patch(store, key, b"too early")
    let_go.set()
    with pytest.raises(ConnectionError):
        await request

    assert await store.uploads.upload_size(key) >= SYNC_EVERY_BYTES


async def test_a_session_that_cannot_be_truncated_is_discarded(store: LocalBlobs, disk: FailingDisk) -> None:
    """If a session can't be truncated to its acknowledged size, it is discarded."""
    key = await begin(store)
    await patch(store, key, b"before")
    disk.fail("append", errno.ENOSPC)
    disk.fail("truncate", errno.EIO)
    with pytest.raises(NoSpace):
        await patch(store, key, b"failing")

    with pytest.raises(UploadUnknown):
        await store.uploads.upload_size(key)


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, NoSpace), (errno.EIO, StoreBroken)])
@pytest.mark.parametrize("done", [False, True])
async def test_an_upload_that_cannot_start_has_the_reason(
    store: LocalBlobs, disk: FailingDisk, number: int, kind: type[BoltsealError], done: bool
) -> None:
    """An upload that can't start has different errors for a full and a broken disk, without a path."""
    disk.fail("create", number, done=done)

    with pytest.raises(kind) as caught:
        await begin(store)
    assert " /" not in caught.value.message


async def test_a_stored_blob_survives_a_failed_push_of_it(data: Path, store: LocalBlobs, disk: FailingDisk) -> None:
    """If a push of a stored blob fails, the old bytes stay."""
    digest = await push(store, b"precious")
    disk.fail("sync", errno.EIO)
    with pytest.raises(StoreBroken):
        await push(store, b"precious")

    assert blob_file(data, digest).read_bytes() == b"precious"


async def test_a_blob_is_never_truncated_after_its_rename(data: Path, store: LocalBlobs, disk: FailingDisk) -> None:
    """If a rename succeeded and its answer was lost, undoing the session does not truncate the blob."""
    key = await begin(store)
    disk.fail("rename", errno.EIO, done=True)
    async with store.uploads.open_upload(key) as writer:
        await writer.write(b"renamed")
        with pytest.raises(StoreBroken):
            await writer.commit(Digest.of(b"renamed"))
        await writer.rollback()

    assert blob_file(data, Digest.of(b"renamed")).read_bytes() == b"renamed"


async def test_nothing_is_renamed_before_it_is_synced(store: LocalBlobs, disk: FailingDisk) -> None:
    """A blob's bytes are synced before its rename, and the folder after it."""
    await push(store, b"order")
    order = disk.order

    assert order.index("append") < order.index("sync") < order.index("rename")
    assert order[-1] == "sync_folder"

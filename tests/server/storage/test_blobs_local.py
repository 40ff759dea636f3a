"""Blobs as files: the store's promises hold whatever the disk, another process or foreign files do.

The promises of every store are tested in `tests/contracts/test_blob_store.py`; these tests are about files only.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import cast

import pytest

from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.reference import Repository
from boltseal.server.storage.blobs.local_store import SHARED_PIECE_BYTES, LocalBlobs
from boltseal.server.storage.blobs.protocol import (
    PIECE_BYTES,
    BlobAbsent,
    StoreBroken,
    UploadBusy,
    UploadId,
    UploadKey,
    UploadUnknown,
)
from tests.fakes.disk import FailingDisk
from tests.server.storage.sessions import begin, blob_file, broken_patch, finish, patch, push
from tests.server.storage.stored import remove, strays

REPOSITORY = Repository("shop/app")
MEBIBYTE = 1024 * 1024
FAR_FUTURE_US = 2**62


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


# Damaged files, restarts and other processes.


async def test_a_push_repairs_a_damaged_blob(data: Path, store: LocalBlobs) -> None:
    """Pushing a blob again replaces its damaged file."""
    digest = await push(store, b"good bytes")
    blob_file(data, digest).write_bytes(b"rotten")
    await push(store, b"good bytes")

    assert blob_file(data, digest).read_bytes() == b"good bytes"


async def test_a_reader_continues_while_a_blob_is_replaced(data: Path, store: LocalBlobs) -> None:
    """A download in progress continues with the file it began with, while a push replaces the blob."""
    content = b"r" * MEBIBYTE
    digest = await push(store, content)
    pieces = store.read(digest, 0, MEBIBYTE)
    read = await anext(pieces)
    await push(store, content)
    remove(store, digest)
    async for piece in pieces:
        read += piece

    assert read == content


async def test_a_session_resumes_after_a_restart(data: Path, store: LocalBlobs) -> None:
    """After a restart a session's offset is its file's size, and its bytes are hashed again."""
    key = await begin(store)
    await patch(store, key, b"before the restart, ")
    store.close()
    again = LocalBlobs(data)
    held = await again.uploads.upload_size(key)
    await finish(again, key, b"after it", Digest.of(b"before the restart, after it"))
    again.close()

    assert held == 20
    assert blob_file(data, Digest.of(b"before the restart, after it")).exists()


async def test_a_resumed_session_is_hashed_again(data: Path, store: LocalBlobs) -> None:
    """Bytes of a session that were changed on the disk between two runs are found by the digest."""
    key = await begin(store)
    await patch(store, key, b"as it was sent")
    store.close()
    (data / "uploads" / key.name).write_bytes(b"as it was SENT")
    again = LocalBlobs(data)
    with pytest.raises(DigestInvalid):
        await finish(again, key, b"", Digest.of(b"as it was sent"))
    again.close()


async def test_a_known_hash_avoids_reading_the_file(store: LocalBlobs, disk: FailingDisk) -> None:
    """POST, PATCH and PUT in one process hash every byte once."""
    key = await begin(store)
    await patch(store, key, b"h" * MEBIBYTE)
    await finish(store, key, b"", Digest.of(b"h" * MEBIBYTE))

    assert disk.calls["read_at"] == 0


async def test_a_known_hash_is_not_used_for_a_changed_file(data: Path, store: LocalBlobs) -> None:
    """If another process has written to a session meanwhile, its file is read again."""
    key = await begin(store)
    await patch(store, key, b"one ")
    other = LocalBlobs(data)
    await patch(other, key, b"two ")
    other.close()
    await finish(store, key, b"three", Digest.of(b"one two three"))

    assert store.maintenance.look(Digest.of(b"one two three")) is not None


async def test_another_process_has_the_session(data: Path, store: LocalBlobs) -> None:
    """The file system's lock on a session excludes other processes, and ends with its process."""
    key = await begin(store)
    with (data / "uploads" / key.name).open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UploadBusy):
            await patch(store, key, b"x")
    await patch(store, key, b"x")

    assert await store.uploads.upload_size(key) == 1


async def test_a_session_with_a_second_link_is_not_written_to(data: Path, store: LocalBlobs) -> None:
    """A session's file with a second hard link, as after a crash, may be a blob's, and is not continued."""
    key = await begin(store)
    await patch(store, key, b"blob")
    os.link(data / "uploads" / key.name, tmp := data / "second")

    with pytest.raises(UploadUnknown):
        await patch(store, key, b" destroyed")
    with pytest.raises(UploadUnknown):
        await store.uploads.upload_size(key)
    assert tmp.read_bytes() == b"blob"


async def test_a_removed_folder_is_created_again(data: Path, store: LocalBlobs) -> None:
    """A push creates a folder again that was removed while empty."""
    digest = await push(store, b"shard")
    remove(store, digest)
    blob_file(data, digest).parent.rmdir()
    await push(store, b"shard")

    assert store.maintenance.look(digest) is not None


async def test_the_time_of_a_blob_is_that_of_its_commit(data: Path, store: LocalBlobs) -> None:
    """A blob's file has the time of its commit, also if its bytes came earlier, so that garbage collection spares it."""
    key = await begin(store)
    await patch(store, key, b"yesterday")
    os.utime(data / "uploads" / key.name, (1, 1))
    before_us = time.time_ns() // 1000 - 1_000_000
    await finish(store, key, b"", Digest.of(b"yesterday"))

    assert next(iter(store.maintenance.walk())).mtime_us > before_us


# Threads, cancellation, memory.


async def test_a_cancelled_request_waits_for_its_thread(store: LocalBlobs, disk: FailingDisk) -> None:
    """A cancelled request closes its file and its lock only after its thread has ended."""
    key = await begin(store)
    let_go = disk.hold("append")

    async def request() -> None:
        await patch(store, key, b"c" * 10)

    task = asyncio.create_task(request())
    await asyncio.to_thread(disk.arrived("append").wait, 5)
    task.cancel()
    await asyncio.sleep(0.02)  # time in which a request that does not wait would end
    still_running = not task.done()
    with pytest.raises(UploadBusy):
        async with store.uploads.open_upload(key):
            pass
    let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert still_running
    assert await store.uploads.upload_size(key) == 10


async def test_bytes_written_before_a_disconnect_are_kept(store: LocalBlobs) -> None:
    """A PATCH whose client disconnected is resumed at the offset that the session reports."""
    content = b"k" * (5 * MEBIBYTE)
    key = await begin(store)
    with pytest.raises(ConnectionError):
        await broken_patch(store, key, content)
    held = await store.uploads.upload_size(key)
    await finish(store, key, content, Digest.of(b"k" * held + content))

    assert 0 < held <= 2 * len(content)
    assert store.buffered_bytes == 0


@pytest.mark.slow
async def test_many_writers_stay_within_the_memory(data: Path, disk: FailingDisk) -> None:
    """However many clients push to a slow disk, the buffered bytes stay within the budget."""
    budget = 2 * MEBIBYTE
    store = LocalBlobs(data, disk=disk, memory_bytes=budget)
    let_go = disk.hold("append")
    chunk = b"m" * 32_768
    content = chunk * 40
    tasks = [asyncio.create_task(push_in(store, chunk, 40)) for _ in range(100)]
    await asyncio.to_thread(disk.arrived("append").wait, 5)
    await asyncio.sleep(0.1)  # time in which the other writers fill the memory
    held = store.buffered_bytes
    let_go.set()
    await asyncio.gather(*tasks)
    left = store.buffered_bytes
    store.close()

    assert 0 < held <= budget + len(tasks) * len(chunk)
    assert left == 0
    assert blob_file(data, Digest.of(content)).stat().st_size == len(content)


async def push_in(store: LocalBlobs, chunk: bytes, times: int) -> None:
    """Push a blob of equal chunks in one request."""
    key = await begin(store)
    async with store.uploads.open_upload(key) as writer:
        for _ in range(times):
            await writer.write(chunk)
        await writer.commit(Digest.of(chunk * times))


async def test_tiny_chunks_cost_no_more_than_their_bytes(store: LocalBlobs, disk: FailingDisk) -> None:
    """A client that sends single bytes causes neither many objects nor many writes."""
    key = await begin(store)
    async with store.uploads.open_upload(key) as writer:
        for _ in range(20_000):
            await writer.write(b"t")
        await writer.commit(Digest.of(b"t" * 20_000))

    assert disk.calls["append"] == 1


# Foreign files in the folder, and links that must not be followed.


async def test_folders_and_files_are_private(data: Path, store: LocalBlobs) -> None:
    """Files and folders are readable by owner and group only."""
    digest = await push(store, b"private")
    await begin(store)
    files, folders = modes_below(data)

    assert blob_file(data, digest).exists()
    assert all(mode & ~0o640 == 0 for mode in files)
    assert all(mode & ~0o750 == 0 for mode in folders)


def modes_below(folder: Path) -> tuple[set[int], set[int]]:
    """Return the permissions of all files and of all folders."""
    found = [folder, *folder.rglob("*")]
    files = {path.stat().st_mode & 0o777 for path in found if path.is_file()}
    return files, {path.stat().st_mode & 0o777 for path in found if path.is_dir()}


async def test_a_link_in_place_of_a_blob_is_not_a_blob(data: Path, store: LocalBlobs, tmp_path: Path) -> None:
    """A symbolic link in place of a blob is not served, and a push replaces it without changing its target."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    digest = Digest.of(b"content")
    place = blob_file(data, digest)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(secret)
    size, there, walked = await store.stat(digest), store.maintenance.look(digest), list(store.maintenance.walk())
    with pytest.raises(StoreBroken):
        await anext(store.read(digest, 0, 6))
    await push(store, b"content")

    assert (size, there, walked) == (None, None, [])
    assert place.read_bytes() == b"content"
    assert secret.read_bytes() == b"secret"


async def test_a_link_in_place_of_a_session_is_not_followed(data: Path, store: LocalBlobs, tmp_path: Path) -> None:
    """A symbolic link in place of a session is neither read nor written."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"v")
    key = UploadKey(REPOSITORY, UploadId.new())
    (data / "uploads" / key.name).symlink_to(victim)

    with pytest.raises(StoreBroken):
        await patch(store, key, b"overwritten")
    assert victim.read_bytes() == b"v"


async def test_foreign_files_are_reported_and_left_alone(data: Path, store: LocalBlobs) -> None:
    """Foreign files are reported, are never treated as blobs, and do not stop the walk."""
    digest = await push(store, b"known")
    folder = blob_file(data, digest).parent
    foreign = {
        f"blobs/sha256/{folder.name}/README": folder / "README",
        f"blobs/sha256/{folder.name}/{'g' * 64}": folder / ("g" * 64),
        f"blobs/sha256/{folder.name}/{'0' * 63}": folder / ("0" * 63),
        "blobs/sha256/zz": data / "blobs" / "sha256" / "zz",
        "blobs/md5": data / "blobs" / "md5",
        "uploads/lost+found": data / "uploads" / "lost+found",
    }
    for path in foreign.values():
        path.write_bytes(b"?")
    wrong_shard = data / "blobs" / "sha256" / ("00" if folder.name != "00" else "01")
    wrong_shard.mkdir()
    (wrong_shard / digest.hex).write_bytes(b"?")
    (wrong_shard / (wrong_shard.name + "0" * 62)).mkdir()
    found = set(strays(store))

    assert [blob.digest for blob in store.maintenance.walk()] == [digest]
    assert found == {
        *foreign,
        f"blobs/sha256/{wrong_shard.name}/{digest.hex}",
        f"blobs/sha256/{wrong_shard.name}/{wrong_shard.name}{'0' * 62}",
    }
    assert all(path.exists() for path in foreign.values())


async def test_a_store_that_cannot_be_read_is_not_a_miss(data: Path, store: LocalBlobs) -> None:
    """A store that can't be read is an error, and is not taken for an empty one."""
    digest = Digest.of(b"doubt")
    blob_file(data, digest).parent.write_bytes(b"a file where the folder should be")

    with pytest.raises(StoreBroken):
        store.maintenance.look(digest)
    with pytest.raises(StoreBroken):
        await store.stat(digest)


def test_reading_creates_nothing(data: Path) -> None:
    """A store opened for reading creates no folder."""
    store = LocalBlobs(data, create=False)
    seen = [*store.maintenance.walk(), *strays(store), *store.upload_cleanup.abandoned(FAR_FUTURE_US)]
    store.close()

    assert seen == []
    assert not data.exists()


async def test_uncached_bytes_are_read_in_a_thread(store: LocalBlobs, disk: FailingDisk) -> None:
    """If bytes are not in the page cache, or that is unknown, they are read in a thread."""
    content = b"cold" * 200_000
    digest = await push(store, content)
    disk.read_cached_at = lambda fd, size, position: None  # type: ignore[method-assign]  # nothing is in memory
    pieces = [piece async for piece in store.read(digest, 0, len(content))]

    assert b"".join(pieces) == content
    assert disk.calls["read_at"] == len(pieces)


def pread_at(fd: int, size: int, position: int) -> bytes:
    """Return the reads of bytes that are in memory."""
    return os.pread(fd, size, position)


async def test_several_readers_share_the_loop(store: LocalBlobs, disk: FailingDisk) -> None:
    """Several concurrent readers read smaller chunks in threads; a single one reads large chunks again."""
    content = b"crowd" * 1_000_000
    disk.read_cached_at = pread_at  # type: ignore[method-assign]  # a tmpfs can't say what is in memory
    digest = await push(store, content)
    one, two = (store.read(digest, 0, len(content)) for _ in range(2))
    alone = len(await anext(one))
    shared = [len(await anext(reader)) for reader in (two, one)]
    in_threads = disk.calls["read_at"]
    await cast("AsyncGenerator[bytes, None]", two).aclose()
    rest = [piece async for piece in one]

    assert alone == PIECE_BYTES
    assert shared == [SHARED_PIECE_BYTES] * 2
    assert in_threads == 2
    assert len(rest[0]) == PIECE_BYTES
    assert sum(map(len, rest)) == len(content) - alone - shared[1]


async def test_a_short_read_is_immediate_beside_long_ones(store: LocalBlobs, disk: FailingDisk) -> None:
    """A stalled download does not cause every small blob to be read in a thread."""
    disk.read_cached_at = pread_at  # type: ignore[method-assign]  # a tmpfs can't say what is in memory
    digest = await push(store, b"crowd" * 1_000_000)
    stalled = [store.read(digest, 0, 4 * MEBIBYTE) for _ in range(2)]
    for reader in stalled:
        await anext(reader)
    before = disk.calls["read_at"]
    short = [piece async for piece in store.read(digest, 5, 1000)]
    for reader in stalled:
        await cast("AsyncGenerator[bytes, None]", reader).aclose()

    assert len(short[0]) == 1000
    assert disk.calls["read_at"] == before


async def test_a_disk_that_cannot_read_is_not_a_miss(store: LocalBlobs, disk: FailingDisk) -> None:
    """An input error while a blob is opened or read breaks the answer, and is not a miss."""
    digest = await push(store, b"unreadable")
    disk.fail("open_to_read", errno.EIO)
    with pytest.raises(StoreBroken):
        await anext(store.read(digest, 0, 10))
    disk.fail("read_cached_at", errno.EIO)
    with pytest.raises(StoreBroken):
        await anext(store.read(digest, 0, 10))
    remove(store, digest)
    with pytest.raises(BlobAbsent):
        await anext(store.read(digest, 0, 10))

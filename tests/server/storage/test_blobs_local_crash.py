"""The local store after a kill and with a full disk: blobs are complete or absent, and the store continues."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.storage.blobs.local_store import LocalBlobs
from boltseal.server.storage.blobs.protocol import NoSpace, UploadBusy, UploadId, UploadKey
from tests.server.storage import pusher
from tests.server.storage.stored import remove, strays
from tests.small_disk import small_disk
from tests.soak.scale import IS_FULL

pytestmark = pytest.mark.slow

FAR_FUTURE_US = 2**62
MEBIBYTE = 1024 * 1024
KILLS = 50 if IS_FULL else 5
REPOSITORY = Repository("shop/app")


def start_pusher(data: Path, seed: int) -> subprocess.Popen[str]:
    """Start a process that pushes until it is killed, from this process's sources."""
    return subprocess.Popen(
        [sys.executable, pusher.__file__, str(data), str(seed)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_killed_process_leaves_complete_blobs_or_none(tmp_path: Path) -> None:
    """After a kill at any moment, acknowledged blobs are stored and every stored blob is complete."""
    data = tmp_path / "data"
    acknowledged: dict[str, int] = {}
    dice = random.Random(0)  # noqa: S311 - not for secrets
    for seed in range(KILLS):
        process = start_pusher(data, seed)
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(dice.uniform(0.05, 0.5))  # the moment of the kill, at random
        process.kill()
        lines = (first + process.communicate()[0]).splitlines(keepends=True)
        acknowledged |= {line.split()[0]: int(line.split()[1]) for line in lines if line.endswith("\n")}
    store = LocalBlobs(data)
    found = {str(blob.digest): blob.size for blob in store.maintenance.walk()}
    broken = [
        blob
        for blob in store.maintenance.walk()
        if Digest.of(content(store, blob.digest), blob.digest.algorithm) != blob.digest
    ]
    foreign, left = strays(store), list(store.upload_cleanup.abandoned(FAR_FUTURE_US))
    discarded = [store.upload_cleanup.discard(upload, FAR_FUTURE_US) for upload in left]
    store.close()

    assert len(acknowledged) >= KILLS
    assert acknowledged.items() <= found.items()
    assert broken == []
    assert foreign == []
    assert all(discarded)


def content(store: LocalBlobs, digest: Digest) -> bytes:
    """Return a blob's file content, read without the store."""
    path = store.path(digest)
    assert path is not None
    return path.read_bytes()


async def test_two_processes_cannot_write_to_one_session(tmp_path: Path) -> None:
    """While another process writes to a session, this one gets UploadBusy; after its kill, it continues at the offset."""
    data = tmp_path / "data"
    store = LocalBlobs(data, lock_wait_s=0.1)
    key = UploadKey(REPOSITORY, UploadId.new())
    await store.uploads.start_upload(key)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _HOLD_SESSION,
        str(data),
        key.id,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    await process.stdout.readline()
    with pytest.raises(UploadBusy):
        async with store.uploads.open_upload(key):
            pass
    process.kill()
    await process.wait()
    async with store.uploads.open_upload(key) as writer:
        held = writer.offset
        await writer.write(b"and here")
        await writer.commit(Digest.of(b"there and here"))
    store.close()

    assert held == len(b"there ")


_HOLD_SESSION = """
import asyncio, sys
from pathlib import Path
from boltseal.oci.reference import Repository
from boltseal.server.storage.blobs.protocol import UploadId, UploadKey
from boltseal.server.storage.blobs.local_store import LocalBlobs

async def main():
    store = LocalBlobs(Path(sys.argv[1]))
    async with store.uploads.open_upload(UploadKey(Repository("shop/app"), UploadId(sys.argv[2]))) as writer:
        await writer.write(b"there ")
        await writer.flush()
        await writer.write(b"never acknowledged")
        print("held", flush=True)
        await asyncio.sleep(60)  # until it is killed

asyncio.run(main())
"""


@pytest.fixture
def sixteen_mebibytes(tmp_path: Path) -> Iterator[Path]:
    """A file system of sixteen mebibytes."""
    with small_disk(tmp_path / "small", "size=16m") as folder:
        yield folder


@pytest.fixture
def twelve_inodes(tmp_path: Path) -> Iterator[Path]:
    """A file system for twelve files and folders."""
    with small_disk(tmp_path / "few", "nr_inodes=12") as folder:
        yield folder


async def test_a_full_disk_loses_no_acknowledged_bytes(sixteen_mebibytes: Path) -> None:
    """A chunk that does not fit on the disk is refused, earlier bytes stay, and the session continues with free space."""
    store = LocalBlobs(sixteen_mebibytes / "data")
    kept = await push(store, b"k" * (4 * MEBIBYTE))
    in_the_way = await push(store, b"w" * (8 * MEBIBYTE))
    key = UploadKey(REPOSITORY, UploadId.new())
    await store.uploads.start_upload(key)
    async with store.uploads.open_upload(key) as writer:
        await writer.write(b"s" * MEBIBYTE)
        await writer.flush()
    with pytest.raises(NoSpace, match="no space left"):
        await send_in(store, key, b"b" * MEBIBYTE, 6)
    held = await store.uploads.upload_size(key)
    with pytest.raises(NoSpace):
        await push(store, b"n" * (8 * MEBIBYTE))
    remove(store, in_the_way)
    await send_in(store, key, b"b" * MEBIBYTE, 6)
    digest = Digest.of(b"s" * MEBIBYTE + b"b" * (6 * MEBIBYTE))
    async with store.uploads.open_upload(key) as writer:
        await writer.commit(digest)
    walked = {blob.digest for blob in store.maintenance.walk()}
    broken = [blob for blob in walked if Digest.of(content(store, blob)) != blob]
    store.close()

    assert held == MEBIBYTE
    assert walked == {kept, digest}
    assert broken == []


async def test_a_disk_without_inodes_starts_nothing(twelve_inodes: Path) -> None:
    """A disk without inodes refuses to start an upload, as a full one does."""
    store = LocalBlobs(twelve_inodes / "data")
    with pytest.raises(NoSpace):
        await push_many(store, 12)
    walked = list(store.maintenance.walk())
    broken = [blob for blob in walked if Digest.of(content(store, blob.digest)) != blob.digest]
    store.close()

    assert len(walked) > 0
    assert broken == []


async def push_many(store: LocalBlobs, count: int) -> None:
    """Push different small blobs, one after the other."""
    for number in range(count):
        await push(store, b"%d" % number)


async def push(store: LocalBlobs, whole: bytes) -> Digest:
    """Push a blob in one request."""
    key = UploadKey(REPOSITORY, UploadId.new())
    await store.uploads.start_upload(key)
    async with store.uploads.open_upload(key) as writer:
        for start in range(0, len(whole), 400_000):
            await writer.write(whole[start : start + 400_000])
        await writer.commit(Digest.of(whole))
    return Digest.of(whole)


async def send_in(store: LocalBlobs, key: UploadKey, chunk: bytes, times: int) -> None:
    """Send a request of several chunks."""
    async with store.uploads.open_upload(key) as writer:
        for _ in range(times):
            await writer.write(chunk)
        await writer.flush()

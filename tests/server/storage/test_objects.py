"""Blobs and upload sessions in an object store: what is in the bucket, what the rows say, and two processes on one store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from boltseal.errors import Denied
from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs.object_spool import SpoolFull
from boltseal.server.storage.blobs.protocol import (
    BlobAbsent,
    StoreBroken,
    UploadBusy,
    UploadKey,
    UploadUnknown,
)
from boltseal.server.storage.metadata import upload_progress
from boltseal.server.storage.metadata.protocol import UnitOfWork
from boltseal.server.storage.metadata.upload_progress import WRITER_FOR_US
from tests.object_stores import ObjectStore, now_us, object_store
from tests.ports import free_port
from tests.server.storage.objects import content_of, in_three_requests, keys_in, named, upkeep
from tests.server.storage.sessions import begin, finish, patch, push
from tests.serving import Clock
from tests.storage_servers import SECRET_KEY, ObjectServer

DAY_US = 24 * 3600 * 1_000_000
MIB = 1024 * 1024


@pytest.fixture
def store(object_server: ObjectServer, tmp_path: Path) -> Iterator[ObjectStore]:
    """A blob store on the S3 server, empty."""
    with object_store(object_server, tmp_path / "data", lock_wait_s=0.1) as opened:
        yield opened


@pytest.fixture
def other(object_server: ObjectServer, store: ObjectStore, tmp_path: Path) -> Iterator[ObjectStore]:
    """A second process on the same store, as far as it shares nothing but rows and objects."""
    with object_store(object_server, tmp_path / "data", prefix=store.prefix, lock_wait_s=0.1) as opened:
        yield opened


# What is in the bucket


async def test_a_blob_is_one_object_under_a_random_key(store: ObjectStore) -> None:
    """A blob that came in one request is one object, whose key is another one each time, and says nothing of the digest."""
    digest = await push(store.blobs, b"layer")
    first = named(store, digest)
    await push(store.blobs, b"layer")

    assert len(first) == len(named(store, digest)) == 1
    assert first != named(store, digest)
    assert digest.hex not in first[0]
    assert set(named(store, digest)) <= set(keys_in(store, "blobs/"))


async def test_rows_that_are_refused_undo_the_commit_of_their_blob(store: ObjectStore) -> None:
    """If a quota refuses the row of a blob, there is no blob, and the session continues after its last acknowledgement."""
    key, digest = await begin(store.blobs), Digest.of(b"acknowledged and last")
    await patch(store.blobs, key, b"acknowledged ")

    def refuse(_: UnitOfWork) -> None:
        raise Denied("over the quota")

    async with store.blobs.uploads.open_upload(key, digest) as writer:
        await writer.write(b"and last")
        with pytest.raises(Denied):
            await writer.commit(digest, record=refuse)
        refused = writer.recorded
    stored, size = await store.blobs.stat(digest), await store.blobs.uploads.upload_size(key)
    recorded = list[int]()
    async with store.blobs.uploads.open_upload(key, digest) as writer:
        await writer.write(b"and last")
        await writer.commit(digest, record=lambda tx: recorded.append(tx.now_us))
    upkeep(store).delete_dead(now_us() + 2 * DAY_US)

    assert (refused, stored, size) == (False, None, len(b"acknowledged "))
    assert (writer.recorded, len(recorded)) == (True, 1)
    assert await content_of(store, digest) == b"acknowledged and last"
    assert len(keys_in(store, "blobs/")) == 2
    assert len(keys_in(store, "index/")) == 1


async def test_a_large_blob_is_one_object(store: ObjectStore) -> None:
    """A blob that is written in parts, because it is large, is one object with the same bytes."""
    content = bytes(range(256)) * (12 * MIB // 256)
    digest = await push(store.blobs, content)

    assert len(keys_in(store, "blobs/")) == 1
    assert await content_of(store, digest) == content


async def test_a_small_object_names_the_keys_of_each_blob(store: ObjectStore) -> None:
    """Before a blob is committed an index object is written that has its digest, size and keys in order."""
    digest = await in_three_requests(store)
    (index,) = keys_in(store, f"index/{digest.algorithm}/{digest.hex}")
    document = json.loads(bytes(obstore.get(store.bucket, index).bytes()))

    assert (document["digest"], document["size"]) == (str(digest), 13)
    assert [each["key"] for each in document["keys"]] == named(store, digest)
    assert [each["size"] for each in document["keys"]] == [4, 4, 5]


async def test_a_range_over_several_objects_is_read(store: ObjectStore) -> None:
    """A range that begins in one object and ends in another one is returned whole."""
    digest = await in_three_requests(store)

    assert b"".join([piece async for piece in store.blobs.read(digest, 2, 8)]) == b"e two th"


async def test_an_object_that_is_missing_makes_the_blob_absent(store: ObjectStore) -> None:
    """A blob whose first object was deleted by another program is a miss, so that clients push it again, which repairs it."""
    digest = await push(store.blobs, b"layer")
    obstore.delete(store.bucket, named(store, digest))
    stored = await store.blobs.stat(digest)
    with pytest.raises(BlobAbsent):
        await anext(store.blobs.read(digest, 0, 5))
    await push(store.blobs, b"layer")

    assert stored is None
    assert await content_of(store, digest) == b"layer"


# Two processes


async def test_another_process_continues_after_the_last_acknowledged_request(
    store: ObjectStore, other: ObjectStore
) -> None:
    """Requests of one session may go to any process, and a commit hashes what others received."""
    key = await begin(store.blobs)
    await patch(store.blobs, key, b"one ")
    await patch(other.blobs, key, b"two ")
    offset = await store.blobs.uploads.upload_size(key)
    await finish(store.blobs, key, b"three", Digest.of(b"one two three"))

    assert offset == 8
    assert await content_of(other, Digest.of(b"one two three")) == b"one two three"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_the_last_request_may_be_empty_and_in_another_process(
    store: ObjectStore, other: ObjectStore, algorithm: str
) -> None:
    """A process that received nothing commits what another one received, under either algorithm."""
    key = await begin(store.blobs)
    await patch(store.blobs, key, b"all of it")
    await finish(other.blobs, key, b"", Digest.of(b"all of it", algorithm))

    assert await content_of(store, Digest.of(b"all of it", algorithm)) == b"all of it"


async def test_a_request_that_broke_off_leaves_the_offset(store: ObjectStore, other: ObjectStore) -> None:
    """The bytes of a request whose client left are dropped, and another process continues at the last acknowledged offset."""
    key = await begin(store.blobs)
    await patch(store.blobs, key, b"kept ")
    async with store.blobs.uploads.open_upload(key) as writer:
        await writer.write(b"lost" * MIB)
    offset = await other.blobs.uploads.upload_size(key)
    await finish(other.blobs, key, b"more", Digest.of(b"kept more"))

    assert offset == 5
    assert await content_of(store, Digest.of(b"kept more")) == b"kept more"
    assert store.blobs.spooled_bytes == 0


async def test_a_session_has_one_writer_over_all_processes(store: ObjectStore, other: ObjectStore) -> None:
    """While a request of one process writes to a session, a request to another process gets UploadBusy."""
    key = await begin(store.blobs)
    async with store.blobs.uploads.open_upload(key):
        with pytest.raises(UploadBusy):
            async with other.blobs.uploads.open_upload(key):
                pass
    async with other.blobs.uploads.open_upload(key) as writer:
        assert writer.offset == 0


@pytest.mark.parametrize("last", ["flush", "commit"])
async def test_a_writer_that_lost_its_session_changes_nothing(
    object_server: ObjectServer, tmp_path: Path, last: str
) -> None:
    """A request that was stopped until another process took its session over is refused, and the other one's bytes count."""
    clock = Clock(now_us())
    with (
        object_store(object_server, tmp_path / "data", clock=clock) as store,
        object_store(object_server, tmp_path / "data", clock=clock, prefix=store.prefix) as other,
    ):
        key = await begin(store.blobs)
        async with store.blobs.uploads.open_upload(key) as stopped:
            await stopped.write(b"too late")
            clock.now_us += WRITER_FOR_US + 1
            await patch(other.blobs, key, b"in time")
            with pytest.raises(UploadBusy):
                await (stopped.flush() if last == "flush" else stopped.commit(Digest.of(b"too late")))

        assert await store.blobs.uploads.upload_size(key) == 7
        assert await store.blobs.stat(Digest.of(b"too late")) is None


async def test_a_process_that_ended_gives_its_session_back_after_some_seconds(
    object_server: ObjectServer, tmp_path: Path
) -> None:
    """The session of a request whose process was killed is free once the time of the request is over."""
    clock = Clock(now_us())
    with object_store(object_server, tmp_path / "data", clock=clock, lock_wait_s=0) as store:
        key = await begin(store.blobs)
        await store.database.write(lambda tx: upload_progress.claim(tx, key.name, "blobs/of-a-killed-process"))
        with pytest.raises(UploadBusy):
            async with store.blobs.uploads.open_upload(key):
                pass
        clock.now_us += WRITER_FOR_US
        async with store.blobs.uploads.open_upload(key) as writer:
            assert writer.offset == 0


# Joining


async def test_the_objects_of_a_blob_are_joined(store: ObjectStore) -> None:
    """A blob of several objects becomes one object with the same bytes, and the former ones are deleted an hour later."""
    digest = await in_three_requests(store)
    before = await store.blobs.stat(digest)
    joined = upkeep(store).join_objects()
    upkeep(store).delete_dead(now_us() + 2 * 3600 * 1_000_000)
    again = upkeep(store).join_objects()

    assert (joined, again) == (1, 0)
    assert await store.blobs.stat(digest) == before
    assert await content_of(store, digest) == b"one two three"
    assert keys_in(store, "blobs/") == named(store, digest)
    assert len(keys_in(store, "index/")) == 1


async def test_a_damaged_blob_is_not_joined(store: ObjectStore) -> None:
    """Objects whose bytes are not those of the digest are left as they are, and what was written of them is deleted."""
    digest = await in_three_requests(store)
    before = named(store, digest)
    obstore.put(store.bucket, before[1], b"TWO ")
    joined = upkeep(store).join_objects()
    upkeep(store).delete_dead(now_us() + 2 * DAY_US)

    assert joined == 0
    assert keys_in(store, "blobs/") == sorted(before)


# The spool


async def test_a_full_spool_refuses_and_loses_nothing(object_server: ObjectServer, tmp_path: Path) -> None:
    """A request that does not fit into the spool is refused; its session keeps what was acknowledged and goes on later."""
    with object_store(object_server, tmp_path / "data", spool_bytes=3 * MIB) as store:
        key = await begin(store.blobs)
        await patch(store.blobs, key, b"kept ")
        async with store.blobs.uploads.open_upload(key) as writer:
            for _ in range(3):
                await writer.write(b"x" * MIB)
            with pytest.raises(SpoolFull):
                await writer.write(b"x" * MIB)
            offset = writer.offset
        await finish(store.blobs, key, b"more", Digest.of(b"kept more"))

        assert offset == 5
        assert await content_of(store, Digest.of(b"kept more")) == b"kept more"
        assert (store.blobs.spooled_bytes, store.blobs.buffered_bytes) == (0, 0)


async def test_the_spool_has_no_names(object_server: ObjectServer, tmp_path: Path) -> None:
    """While a large request is received nothing is in the folder of the spool, so a killed process leaves nothing there."""
    with object_store(object_server, tmp_path / "data") as store:
        key = await begin(store.blobs)
        async with store.blobs.uploads.open_upload(key) as writer:
            for _ in range(4):
                await writer.write(b"x" * MIB)

            assert store.blobs.spooled_bytes > 0
            assert list((tmp_path / "data" / "spool").iterdir()) == []


# Errors


def unreachable_store() -> S3Store:
    """Return a client of an S3 server that is not there, which gives up soon."""
    return S3Store(
        "nowhere",
        config={"endpoint": f"http://127.0.0.1:{free_port()}", "access_key_id": "a", "secret_access_key": SECRET_KEY},
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )


async def test_an_error_names_no_address_and_no_key(object_server: ObjectServer, tmp_path: Path) -> None:
    """What a client reads when the object store does not answer has neither its address nor credentials nor keys in it."""
    with object_store(object_server, tmp_path / "data") as store:
        key = await begin(store.blobs)
        gone = UploadKey(key.repository, key.id)
        async with store.blobs.uploads.open_upload(gone) as writer:
            await store.blobs.uploads.cancel_upload(gone)
            await writer.write(b"x")
            with pytest.raises(UploadUnknown) as refused:
                await writer.flush()
    with object_store(object_server, tmp_path / "data", client=unreachable_store()) as broken:
        with pytest.raises(StoreBroken) as unreachable:
            await push(broken.blobs, b"layer")
        trouble = await upkeep(broken).trouble()

    texts = f"{refused.value.message} {unreachable.value.message} {trouble}"
    assert "127.0.0.1" not in texts
    assert "blobs/" not in texts
    assert trouble is not None

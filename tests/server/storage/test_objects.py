"""Blobs and upload sessions in an object store: what is in the bucket, what the rows say, and two processes on one store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import S3Store

from boltseal.ledger.tiles import BundleId, TileId
from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs.object_comparison import merge
from boltseal.server.storage.blobs.object_spool import SpoolFull
from boltseal.server.storage.blobs.object_upkeep import ObjectUpkeep
from boltseal.server.storage.blobs.object_upload import ObjectUploadWriter
from boltseal.server.storage.blobs.protocol import (
    BlobAbsent,
    DifferenceKind,
    StoreBroken,
    UploadBusy,
    UploadKey,
    UploadUnknown,
    UploadWriter,
)
from boltseal.server.storage.bucket_owner import KEY, PROBE
from boltseal.server.storage.full_collection import FullCollection
from boltseal.server.storage.metadata import blob_keys, upload_progress
from boltseal.server.storage.metadata.object_names import NamedKey
from boltseal.server.storage.metadata.protocol import UnitOfWork
from boltseal.server.storage.metadata.upload_progress import WRITER_FOR_US
from boltseal.server.storage.object_client import ListedObject, ObjectClient
from boltseal.server.storage.object_tiles import TILES, ObjectTiles
from tests.object_stores import ObjectStore, now_us, object_store
from tests.ports import free_port
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


# Deletion


async def test_a_deleted_blob_leaves_no_object(store: ObjectStore) -> None:
    """Deleting a blob deletes its objects and its index object."""
    digest = await in_three_requests(store)
    stored = await store.blobs.stat(digest)
    assert stored is not None
    deleted = await store.blobs.delete(stored)

    assert deleted
    assert keys_in(store) == []


async def test_a_late_delete_does_not_reach_the_next_push(store: ObjectStore) -> None:
    """A DELETE that the S3 server does only after the blob was pushed again hits no object of the new one."""
    digest = await push(store.blobs, b"layer")
    stored, before = await store.blobs.stat(digest), keys_in(store)
    assert stored is not None
    await store.blobs.delete(stored)
    await push(store.blobs, b"layer")
    obstore.delete(store.bucket, before)

    assert await content_of(store, digest) == b"layer"
    assert not set(before) & set(keys_in(store))


async def test_the_objects_of_a_replaced_blob_are_deleted_after_an_hour(store: ObjectStore) -> None:
    """A push of a stored blob replaces its objects; readers that have begun have an hour before the old ones are deleted."""
    digest = await push(store.blobs, b"layer")
    (before,) = named(store, digest)
    await push(store.blobs, b"layer")
    early = upkeep(store).delete_dead(now_us())
    there = before in keys_in(store)
    late = upkeep(store).delete_dead(now_us() + 2 * 3600 * 1_000_000)

    assert (early, there, late) == (0, True, 2)  # the object, and its index object
    assert before not in keys_in(store)
    assert await content_of(store, digest) == b"layer"


async def test_the_objects_of_a_cancelled_session_are_deleted(store: ObjectStore) -> None:
    """The objects of a session that its client cancelled are deleted by the background work."""
    key = await begin(store.blobs)
    await patch(store.blobs, key, b"never finished")
    await store.blobs.uploads.cancel_upload(key)
    upkeep(store).delete_dead(now_us() + 2 * 3600 * 1_000_000)

    assert keys_in(store) == []


def sweep(store: ObjectStore, at_us: int) -> int:
    """Run the part of a full collection that looks at objects, and delete what it marks. Return how many were deleted."""
    comparison = FullCollection(store.database, store.blobs.maintenance, store.blobs.upkeep, at_us)
    marked = sum(1 for item in comparison.find_all(dry_run=False) if item.what == "object")
    assert upkeep(store).delete_dead(now_us() + 1_000_000) == marked
    return marked


async def test_an_object_that_no_row_names_is_found_after_a_day(store: ObjectStore) -> None:
    """A full collection deletes a day old object that no row names, none that a blob or a session names, and no foreign one."""
    digest = await in_three_requests(store)
    key = await begin(store.blobs)
    await patch(store.blobs, key, b"open")
    wanted = keys_in(store)
    obstore.put(store.bucket, f"blobs/{'0' * 32}", b"left by a killed request")
    obstore.put(store.bucket, f"index/sha256/{digest.hex}/{'0' * 32}", b"{}")
    foreign = ["blobs/of-another-program", "index/notes", f"manifests/{'0' * 32}", "owner"]
    for name in foreign:
        obstore.put(store.bucket, name, b"not ours")
    early = sweep(store, now_us())
    late = sweep(store, now_us() + 2 * DAY_US)

    assert (early, late) == (0, 2)
    assert keys_in(store) == sorted([*wanted, *foreign])


async def test_an_object_whose_request_still_runs_is_not_deleted(store: ObjectStore) -> None:
    """The object that a running request has written, and that its session does not name yet, is no unnamed object."""
    key = await begin(store.blobs)
    async with store.blobs.uploads.open_upload(key) as writer:
        obstore.put(store.bucket, key_of(writer), b"written a day ago")
        deleted = sweep(store, now_us() + DAY_US + 1_000_000)

        assert deleted == 0
        assert keys_in(store) == [key_of(writer)]


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "failed"])
async def test_what_a_request_wrote_without_an_answer_is_deleted_without_a_list(
    object_server: ObjectServer, tmp_path: Path, *, killed: bool
) -> None:
    """The objects of a request that was killed, or failed, before its commit are deleted a day later, and no list is needed."""
    clock = Clock(now_us())
    with object_store(object_server, tmp_path / "data", clock=clock) as store:
        key, digest = await begin(store.blobs), Digest.of(b"half")
        if killed:
            index = f"index/sha256/{digest.hex}/{'0' * 32}"
            writer = f"blobs/{'1' * 32}"
            await store.database.write(lambda tx: upload_progress.claim(tx, key.name, writer, index))
            for name in (writer, index):
                obstore.put(store.bucket, name, b"half")
            clock.now_us += WRITER_FOR_US + 1
        else:
            async with store.blobs.uploads.open_upload(key, digest) as failing:
                await failing.write(b"half")
                with pytest.raises(RuntimeError, match="the database is gone"):
                    await commit_without_database(failing, store, digest)
        left = keys_in(store)
        await patch(store.blobs, key, b"whole")
        await finish(store.blobs, key, b"", Digest.of(b"whole"))
        upkeep(store).delete_dead(clock.now_us + DAY_US - 1_000_000)
        waiting = set(left) & set(keys_in(store))
        upkeep(store).delete_dead(clock.now_us + DAY_US + 1_000_000)

        assert len(left) == 2
        assert waiting == set(left)
        assert keys_in(store, "blobs/") == named(store, Digest.of(b"whole"))
        assert len(keys_in(store, "index/")) == 1


async def commit_without_database(writer: UploadWriter, store: ObjectStore, digest: Digest) -> None:
    """Commit, with a database whose next transaction fails after both objects were written."""

    def fail(_: UnitOfWork) -> None:
        raise RuntimeError("the database is gone")

    class Failing:
        """Metadata whose writes fail."""

        def __getattr__(self, name: str) -> object:
            return getattr(store.database, name)

        async def write(self, _: object, **more: Any) -> None:
            await store.database.write(fail, **more)

    assert isinstance(writer, ObjectUploadWriter)
    whole = writer._resources
    writer._resources = replace(whole, database=Failing())  # type: ignore[arg-type]  # the rest by __getattr__
    try:
        await writer.commit(digest)
    finally:
        writer._resources = whole


async def test_a_request_that_was_stopped_for_a_day_can_not_name_a_deleted_object(
    object_server: ObjectServer, tmp_path: Path
) -> None:
    """When a request goes on after its object was deleted as unnamed, the session refuses it."""
    clock = Clock(now_us())
    with object_store(object_server, tmp_path / "data", clock=clock) as store:
        key = await begin(store.blobs)
        async with store.blobs.uploads.open_upload(key) as stopped:
            await stopped.write(b"stopped")
            obstore.put(store.bucket, key_of(stopped), b"stopped")
            clock.now_us += 3 * DAY_US
            dropped = [
                store.blobs.upload_cleanup.discard(each, clock.now_us - DAY_US)
                for each in store.blobs.upload_cleanup.abandoned(clock.now_us - DAY_US)
            ]
            deleted = upkeep(store).delete_dead(clock.now_us + 2 * DAY_US)
            with pytest.raises(UploadUnknown):
                await stopped.flush()

        assert dropped == [True]
        assert deleted == 1


# Comparing


async def test_a_comparison_finds_every_difference(store: ObjectStore) -> None:
    """Objects that are missing, have another size, are named by no row or are foreign are found, also when it continues."""
    kept, missing, cut = [await push(store.blobs, name) for name in (b"kept", b"missing", b"cut")]
    key = await begin(store.blobs)
    await patch(store.blobs, key, b"open")
    (gone,), (shorter,) = named(store, missing), named(store, cut)
    (index,) = keys_in(store, f"index/sha256/{kept.hex}")
    obstore.delete(store.bucket, [gone, index])
    obstore.put(store.bucket, shorter, b"c")
    obstore.put(store.bucket, f"blobs/{'0' * 32}", b"unnamed")
    obstore.put(store.bucket, "notes", b"foreign")
    found = {each.name: each.kind for page in store.blobs.maintenance.compare() for each in page.differences}
    rest = {each.name for page in store.blobs.maintenance.compare(max(gone, shorter)) for each in page.differences}

    assert found == {
        gone: DifferenceKind.MISSING,
        index: DifferenceKind.MISSING,
        shorter: DifferenceKind.WRONG_SIZE,
        f"blobs/{'0' * 32}": DifferenceKind.UNREFERENCED,
        "notes": DifferenceKind.FOREIGN,
    }
    assert rest == {index, "notes"}


listed_keys = st.lists(st.text("abc", min_size=1, max_size=3), unique=True).map(sorted)


@given(listed=listed_keys, rows=listed_keys)
def test_a_merge_yields_each_key_once(listed: list[str], rows: list[str]) -> None:
    """The merge of a listing and the rows yields every key of either once, in order, with what has it."""
    pairs = list(merge((ListedObject(key, 1, 0) for key in listed), (NamedKey(key, 1, None) for key in rows)))
    keys = [one.key if one is not None else "" if other is None else other.key for one, other in pairs]

    assert keys == sorted({*listed, *rows})
    assert [one.key for one, _ in pairs if one] == listed
    assert [other.key for _, other in pairs if other] == rows


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


@pytest.mark.parametrize("log", ["ledger", "observations"])
async def test_the_objects_of_a_log_are_no_foreign_objects(store: ObjectStore, log: str) -> None:
    """Fsck reports an object that boltseal does not write, and no tile, bundle or checkpoint of a log."""
    tiles, foreign = ObjectTiles(ObjectClient(store.bucket, TILES), log), f"{log}/notes.txt"
    paths = [TileId(0, 0, 3).path(), TileId(12, 1_234_067).path(), BundleId(0, 255).path(), BundleId(1_000).path()]
    tiles.put("registry.example.com", dict.fromkeys(paths, b"bytes"))
    tiles.put_checkpoint("registry.example.com", b"a checkpoint")
    obstore.put(store.bucket, foreign, b"?")

    assert len(keys_in(store, log)) == len(paths) + 2
    differences = [each for page in store.blobs.maintenance.compare() for each in page.differences]
    assert [(each.kind, each.name) for each in differences] == [(DifferenceKind.FOREIGN, foreign)]

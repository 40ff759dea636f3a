"""What is deleted from an object store, and when: dead objects, objects without a row, and how both are found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.ledger.tiles import BundleId, TileId
from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs.object_comparison import merge
from boltseal.server.storage.blobs.object_upload import ObjectUploadWriter
from boltseal.server.storage.blobs.protocol import (
    DifferenceKind,
    UploadUnknown,
    UploadWriter,
)
from boltseal.server.storage.full_collection import FullCollection
from boltseal.server.storage.metadata import upload_progress
from boltseal.server.storage.metadata.object_names import NamedKey
from boltseal.server.storage.metadata.protocol import UnitOfWork
from boltseal.server.storage.metadata.upload_progress import WRITER_FOR_US
from boltseal.server.storage.object_client import ListedObject, ObjectClient
from boltseal.server.storage.object_tiles import TILES, ObjectTiles
from tests.object_stores import ObjectStore, now_us, object_store
from tests.server.storage.objects import content_of, in_three_requests, key_of, keys_in, named, upkeep
from tests.server.storage.sessions import begin, finish, patch, push
from tests.serving import Clock
from tests.storage_servers import ObjectServer

DAY_US = 24 * 3600 * 1_000_000
MIB = 1024 * 1024


@pytest.fixture
def store(object_server: ObjectServer, tmp_path: Path) -> Iterator[ObjectStore]:
    """A blob store on the S3 server, empty."""
    with object_store(object_server, tmp_path / "data", lock_wait_s=0.1) as opened:
        yield opened


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
    obstore.put(store.bucket, f"manifests/{'0' * 32}", b"left by a killed push")
    foreign = ["blobs/of-another-program", "index/notes", "manifests/notes", "owners"]
    for name in foreign:
        obstore.put(store.bucket, name, b"not ours")
    early = sweep(store, now_us())
    late = sweep(store, now_us() + 2 * DAY_US)

    assert (early, late) == (0, 3)
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


@pytest.mark.parametrize("log", ["ledger", "observations"])
async def test_the_objects_of_a_log_are_no_foreign_objects(store: ObjectStore, log: str) -> None:
    """Fsck reports an object that boltseal does not write, and no tile, bundle or checkpoint of a log."""
    tiles, foreign = ObjectTiles(ObjectClient(store.bucket, TILES), log), f"{log}/notes.txt"
    paths = [TileId(0, 0, 3).path(), TileId(12, 1_234_067).path(), BundleId(0, 255).path(), BundleId(1_000).path()]
    tiles.put("registry.example.com", dict.fromkeys(paths, b"bytes"))
    tiles.put_checkpoint("registry.example.com", b"a checkpoint", lambda _: True)
    obstore.put(store.bucket, foreign, b"?")

    assert len(keys_in(store, log)) == len(paths) + 2
    differences = [each for page in store.blobs.maintenance.compare() for each in page.differences]
    assert [(each.kind, each.name) for each in differences] == [(DifferenceKind.FOREIGN, foreign)]

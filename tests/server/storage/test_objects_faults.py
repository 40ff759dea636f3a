"""An object store that fails: each write fails twice, not done and done with the answer lost; nothing acknowledged is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import obstore
import pytest

from boltseal.errors import Unavailable
from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs.object_failures import BLOBS
from boltseal.server.storage.blobs.object_store import ObjectBlobs
from boltseal.server.storage.blobs.object_upkeep import ObjectUpkeep
from boltseal.server.storage.blobs.protocol import StoreBroken, UploadUnknown
from boltseal.server.storage.metadata.protocol import Metadata
from boltseal.server.storage.object_client import ObjectClient
from tests.fakes.failing_database import FailingDatabase
from tests.object_faults import Fault, FaultyServer, faulty, no_fault, on
from tests.object_stores import ObjectStore, now_us, object_store
from tests.server.storage.sessions import begin, finish, patch, push
from tests.storage_servers import ObjectServer

DAY_US = 24 * 3600 * 1_000_000
FAILING = [Fault.REFUSED, Fault.TORN, Fault.LOST]
LARGE = bytes(range(256)) * (6 * 1024 * 1024 // 256)


@dataclass(frozen=True, slots=True)
class FaultyStore:
    """A blob store whose requests pass the proxy."""

    opened: ObjectStore
    proxy: FaultyServer


@pytest.fixture(scope="module")
def proxy(object_server: ObjectServer) -> Iterator[FaultyServer]:
    """A proxy in front of the S3 server."""
    with faulty(object_server) as running:
        yield running


@pytest.fixture
def store(object_server: ObjectServer, proxy: FaultyServer, tmp_path: Path) -> Iterator[FaultyStore]:
    """A blob store behind the proxy, empty, without faults so far."""
    proxy.plan = no_fault
    prefix = tmp_path.name.replace("_", "-")
    with object_store(object_server, tmp_path / "data", prefix=prefix, client=proxy.store(prefix)) as opened:
        yield FaultyStore(opened, proxy)
    proxy.plan = no_fault


async def content_of(store: ObjectStore, digest: Digest) -> bytes:
    """Return all bytes of a blob."""
    stored = await store.blobs.stat(digest)
    assert stored is not None
    return b"".join([piece async for piece in store.blobs.read(digest, 0, stored.size)])


def sweep(store: ObjectStore) -> None:
    """Delete, as two days later, everything that is dead. Nothing is listed: every object has a row."""
    assert isinstance(store.blobs.upkeep, ObjectUpkeep)
    store.blobs.upkeep.delete_dead(now_us() + 2 * DAY_US)


def keys_in(store: ObjectStore) -> list[str]:
    """Return the keys of the bytes that are really there."""
    return sorted(each["path"] for page in obstore.list(store.bucket, "blobs/") for each in page)


@pytest.mark.parametrize("fault", FAILING)
@pytest.mark.parametrize("step", ["/blobs/", "/index/"])
@pytest.mark.parametrize("content", [b"small", LARGE], ids=["small", "large"])
async def test_a_failed_commit_stores_nothing_and_can_be_repeated(
    store: FaultyStore, fault: Fault, step: str, content: bytes
) -> None:
    """When an object of a commit can't be written, the blob is absent, its session is as it was, and goes on later."""
    key = await begin(store.opened.blobs)
    await patch(store.opened.blobs, key, b"kept ")
    method = "POST" if content is LARGE and step == "/blobs/" else "PUT"
    store.proxy.plan = on(method, step, fault)
    digest = Digest.of(b"kept " + content)
    with pytest.raises(StoreBroken):
        await finish(store.opened.blobs, key, content, digest)
    absent = await store.opened.blobs.stat(digest)
    offset = await store.opened.blobs.uploads.upload_size(key)
    store.proxy.plan = no_fault
    await finish(store.opened.blobs, key, content, digest)
    sweep(store.opened)

    assert (absent, offset) == (None, 5)
    assert await content_of(store.opened, digest) == b"kept " + content
    assert len(keys_in(store.opened)) == 2


@pytest.mark.parametrize("fault", FAILING)
async def test_a_failed_chunk_leaves_the_offset(store: FaultyStore, fault: Fault) -> None:
    """When the object of a chunk can't be written, the offset stays, and the chunk can be sent again."""
    key = await begin(store.opened.blobs)
    await patch(store.opened.blobs, key, b"kept ")
    store.proxy.plan = on("PUT", "/blobs/", fault)
    with pytest.raises(StoreBroken):
        await patch(store.opened.blobs, key, b"more")
    offset = await store.opened.blobs.uploads.upload_size(key)
    store.proxy.plan = no_fault
    await patch(store.opened.blobs, key, b"more")
    await finish(store.opened.blobs, key, b"", Digest.of(b"kept more"))
    sweep(store.opened)

    assert offset == 5
    assert await content_of(store.opened, Digest.of(b"kept more")) == b"kept more"


@pytest.mark.parametrize("fault", FAILING)
async def test_one_failed_request_is_repeated(store: FaultyStore, fault: Fault) -> None:
    """A single failure of the object store costs a push nothing but time: the request is repeated under the same key."""
    faults = iter([fault])
    store.proxy.plan = lambda method, path: next(faults, None) if method == "PUT" and "/blobs/" in path else None
    digest = await push(store.opened.blobs, b"layer")

    assert next(faults, None) is None
    assert await content_of(store.opened, digest) == b"layer"


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.LOST])
async def test_a_failed_deletion_is_finished_later(store: FaultyStore, fault: Fault) -> None:
    """When the objects of a deleted blob can't be deleted, the blob is absent at once, and they are deleted later."""
    digest = await push(store.opened.blobs, b"layer")
    stored = await store.opened.blobs.stat(digest)
    assert stored is not None
    store.proxy.plan = on("POST", "delete", fault)
    with pytest.raises(StoreBroken):
        await store.opened.blobs.delete(stored)
    absent = await store.opened.blobs.stat(digest)
    store.proxy.plan = no_fault
    await push(store.opened.blobs, b"layer")
    sweep(store.opened)

    assert absent is None
    assert len(keys_in(store.opened)) == 1
    assert await content_of(store.opened, digest) == b"layer"


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.TORN, Fault.CUT])
async def test_a_read_that_breaks_off_once_is_continued(store: FaultyStore, fault: Fault) -> None:
    """A reader gets every byte although one request of the object store fails or ends in the middle."""
    digest = await push(store.opened.blobs, LARGE)
    faults = iter([fault])
    store.proxy.plan = lambda method, _: next(faults, None) if method == "GET" else None

    assert await content_of(store.opened, digest) == LARGE


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.TORN, Fault.CUT])
async def test_a_read_that_fails_is_an_error_and_no_short_blob(store: FaultyStore, fault: Fault) -> None:
    """A reader gets an error when the object store keeps failing, never fewer bytes and never a miss."""
    digest = await push(store.opened.blobs, LARGE)
    store.proxy.plan = on("GET", "/blobs/", fault)
    received = bytearray()

    async def read() -> None:
        async for piece in store.opened.blobs.read(digest, 0, len(LARGE)):
            received.extend(piece)

    with pytest.raises(StoreBroken):
        await read()

    assert LARGE.startswith(received)


async def test_a_slow_object_store_is_waited_for(store: FaultyStore) -> None:
    """With two seconds for each write a push succeeds, and the store is not in trouble."""
    store.proxy.plan = lambda method, _: Fault.LATE if method == "PUT" else None
    digest = await push(store.opened.blobs, b"layer")
    assert store.opened.blobs.upkeep is not None

    assert await content_of(store.opened, digest) == b"layer"
    assert await store.opened.blobs.upkeep.trouble() is None


@pytest.mark.parametrize("fault", FAILING)
async def test_trouble_is_reported_as_long_as_nothing_can_be_written(store: FaultyStore, fault: Fault) -> None:
    """Readiness sees an object store that refuses, tears or loses writes, and sees when that is over."""
    assert store.opened.blobs.upkeep is not None
    store.proxy.plan = on("PUT", "health", fault)
    trouble = await store.opened.blobs.upkeep.trouble()
    store.proxy.plan = no_fault

    assert trouble is not None
    assert await store.opened.blobs.upkeep.trouble() is None


async def test_a_failed_push_ends_the_success_that_readiness_remembers(store: FaultyStore) -> None:
    """Readiness that was just fine is not after a failed request; and is again, without a wait, when the store answers."""
    upkeep = store.opened.blobs.upkeep
    assert upkeep is not None
    before = await upkeep.trouble()
    store.proxy.plan = lambda method, _: Fault.REFUSED if method == "PUT" else None
    with pytest.raises(StoreBroken):
        await push(store.opened.blobs, b"layer")
    during = await upkeep.trouble()
    store.proxy.plan = no_fault

    assert before is None
    assert during is not None
    assert await upkeep.trouble() is None


@pytest.mark.parametrize("step", ["PUT", "POST"])
@pytest.mark.parametrize("fault", FAILING)
async def test_a_failed_joining_leaves_the_blob(store: FaultyStore, fault: Fault, step: str) -> None:
    """When the one object of a blob can't be written, the blob keeps its objects, and is joined the next time."""
    upkeep = store.opened.blobs.upkeep
    assert isinstance(upkeep, ObjectUpkeep)
    key = await begin(store.opened.blobs)
    await patch(store.opened.blobs, key, LARGE)
    await finish(store.opened.blobs, key, b"more", Digest.of(LARGE + b"more"))
    store.proxy.plan = on(step, "/blobs/", fault)
    failed = upkeep.join_objects()
    there = await content_of(store.opened, Digest.of(LARGE + b"more"))
    store.proxy.plan = no_fault
    joined = upkeep.join_objects()
    sweep(store.opened)

    assert (failed, joined) == (0, 1)
    assert there == await content_of(store.opened, Digest.of(LARGE + b"more")) == LARGE + b"more"
    assert len(keys_in(store.opened)) == 1


@pytest.mark.parametrize("done", [False, True], ids=["not done", "answer lost"])
@pytest.mark.parametrize("content", [b"small", LARGE], ids=["small", "large"])
async def test_a_failed_transaction_of_a_commit_is_no_acknowledgement(
    object_server: ObjectServer, tmp_path: Path, content: bytes, *, done: bool
) -> None:
    """When the transaction of a commit fails, or its answer is lost, the push fails, and no row names a deleted object."""
    digest = Digest.of(content)
    with object_store(object_server, tmp_path / "data") as store:
        database = FailingDatabase(store.database)
        blobs = ObjectBlobs(cast("Metadata", database), ObjectClient(store.bucket, BLOBS), tmp_path / "data")
        key = await begin(blobs)
        database.failures = [done]
        with pytest.raises(Unavailable):
            await finish(blobs, key, content, digest)
        stored = await blobs.stat(digest)
        sweep(store)

        assert (stored is not None) is done
        if done:
            assert await content_of(store, digest) == content
            with pytest.raises(UploadUnknown):
                await blobs.uploads.upload_size(key)
        await push(blobs, content)
        sweep(store)

        assert await content_of(store, digest) == content
        assert len(keys_in(store)) == 1
        blobs.close()

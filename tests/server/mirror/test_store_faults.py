"""A store that fails while the mirror fetches a blob: each write not done, and done with the answer lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from boltseal.errors import BoltsealError, Full, Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.policy.rules import parse_rules
from boltseal.policy.upstreams import parse_upstreams
from boltseal.server.mirror.blobs import MirroredBlobs
from boltseal.server.mirror.upstream_limits import UpstreamLimits
from boltseal.server.mirror.upstreams import Upstreams
from boltseal.server.mirror_factory import build_upstreams
from boltseal.server.registry import build_registry
from boltseal.server.storage.blobs.local_store import LocalBlobs
from boltseal.server.storage.blobs.protocol import BlobStore, NoSpace, StoreBroken
from boltseal.server.storage.coordination.interprocess_lock import FileInterprocessLock
from boltseal.server.storage.metadata.migrate import DATABASE_NAME, GENERATION_NAME
from boltseal.server.storage.metadata.protocol import Metadata
from boltseal.server.storage.metadata.sqlite import open_database
from boltseal.server.store_factory import now_us
from tests.fakes.blobs_memory import MemoryBlobs
from tests.fakes.disk import FailingDisk
from tests.fakes.upstream import FakeUpstream
from tests.polling import until_answer
from tests.server.mirror.mirrors import NAME, table_of

REPOSITORY = Repository(f"{NAME}/team/app")
BLOB = bytes(range(256)) * 1024


class Bench:
    """The mirror's blob fetcher on a store in memory."""

    def __init__(self, data: Path, upstreams: Upstreams) -> None:
        self.store = MemoryBlobs()
        self.database: Metadata = open_database(data / DATABASE_NAME, data / GENERATION_NAME, now_us)
        self.upstream = upstreams.by_name[NAME]
        self.locks = FileInterprocessLock(data)
        self.use(self.store)

    def use(self, store: BlobStore) -> None:
        """Fetch blobs into this store from now on."""
        registry = build_registry(self.database, store, parse_rules(()))
        self.pulls = registry.pulls
        self.blobs = MirroredBlobs(
            registry.pulls,
            registry.uploads,
            store,
            UpstreamLimits(registry.upstreams, clock=now_us, on_event=lambda _: None),
            self.locks,
            check_disk=lambda _: None,
            count=lambda _: None,
        )

    async def bring(self, digest: Digest) -> bytes:
        """Return all bytes of a blob, as a client gets them."""
        fetch = await self.blobs.fetch(self.upstream, REPOSITORY, digest)
        await fetch.wait_started()
        async with aclosing(fetch.chunks()) as pieces:
            return b"".join([piece async for piece in pieces])


@pytest.fixture
async def bench(data: Path, upstream: FakeUpstream) -> AsyncIterator[Bench]:
    upstreams = build_upstreams(parse_upstreams([table_of(upstream)]))
    made = Bench(data, upstreams)
    yield made
    await made.blobs.aclose()
    await upstreams.aclose()
    made.locks.close()
    made.database.close()


@pytest.mark.parametrize("done", [False, True], ids=["not done", "answer lost"])
@pytest.mark.parametrize("what", ["start_upload", "write", "flush", "commit"])
@pytest.mark.parametrize("error", [NoSpace("full"), StoreBroken("broken")], ids=["full", "broken"])
async def test_a_failed_write_is_an_error_and_the_next_fetch_succeeds(
    bench: Bench, upstream: FakeUpstream, what: str, error: BoltsealError, done: bool
) -> None:
    """A failed write is an error for the client, nothing incomplete is stored, and the next fetch succeeds."""
    digest = Digest.of(BLOB)
    upstream.blobs[str(digest)] = BLOB
    bench.store.fail(what, error, done=done)

    with pytest.raises((Full, Unavailable)):
        await bench.bring(digest)
    held = await bench.blobs.stored(REPOSITORY, digest)
    again = await bench.bring(digest)

    async def stored() -> bool:
        return await bench.blobs.stored(REPOSITORY, digest)

    assert not held
    assert again == BLOB
    assert await until_answer(stored, "the blob is stored")


async def test_lost_bytes_are_fetched_again(bench: Bench, upstream: FakeUpstream) -> None:
    """A blob whose row exists but whose bytes are lost is fetched again."""
    digest = Digest.of(BLOB)
    upstream.blobs[str(digest)] = BLOB
    await bench.bring(digest)
    bench.store.blobs.clear()

    assert not await bench.blobs.stored(REPOSITORY, digest)
    assert await bench.bring(digest) == BLOB


async def test_a_client_does_not_wait_until_a_blob_is_durable(
    data: Path, tmp_path: Path, upstream: FakeUpstream, bench: Bench
) -> None:
    """Verified bytes are sent to their end while the disk syncs; a second client that asks meanwhile fetches nothing anew."""
    digest, disk = Digest.of(BLOB), FailingDisk()
    upstream.blobs[str(digest)] = BLOB
    bench.use(LocalBlobs(tmp_path / "blobs", disk=disk))
    syncing = disk.hold("sync")
    received = [await bench.bring(digest) for _ in range(2)]
    synced = syncing.is_set()
    syncing.set()

    async def stored() -> bool:
        return await bench.blobs.stored(REPOSITORY, digest)

    await until_answer(stored, "the blob is stored")

    assert received == [BLOB, BLOB]
    assert not synced
    assert upstream.gets("/blobs/") == 1

"""What every blob store promises (`boltseal.server.storage.blobs.protocol`), checked on each implementation."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.reference import Repository
from boltseal.server.storage.blobs.local_store import LocalBlobs
from boltseal.server.storage.blobs.protocol import (
    PIECE_BYTES,
    BlobAbsent,
    BlobStore,
    FetchKey,
    StoreBroken,
    UploadBusy,
    UploadFile,
    UploadId,
    UploadKey,
    UploadUnknown,
)
from tests.fakes.blobs_memory import MemoryBlobs
from tests.object_stores import object_store
from tests.server.storage.stored import strays

REPOSITORY = Repository("shop/app")
FAR_FUTURE_US = 2**62


@pytest.fixture(params=["files", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    """Each implementation of a blob store, empty."""
    if request.param == "s3":
        with object_store(request.getfixturevalue("object_server"), tmp_path / "data", lock_wait_s=0.1) as made:
            yield made.blobs
        return
    files_or_memory: BlobStore = (
        LocalBlobs(tmp_path / "data", lock_wait_s=0.1) if request.param == "files" else MemoryBlobs(lock_wait_s=0.1)
    )
    yield files_or_memory
    files_or_memory.close()


async def begin(store: BlobStore) -> UploadKey:
    """Begin a new, empty upload session."""
    key = UploadKey(REPOSITORY, UploadId.new())
    await store.uploads.start_upload(key)
    return key


async def push(store: BlobStore, content: bytes, algorithm: str = "sha256") -> Digest:
    """Push a whole blob in one request."""
    key = await begin(store)
    digest = Digest.of(content, algorithm)
    async with store.uploads.open_upload(key, digest) as writer:
        await writer.write(content)
        await writer.commit(digest)
    return digest


async def patch(store: BlobStore, key: UploadKey, *chunks: bytes) -> None:
    """Append a chunk in one acknowledged request."""
    async with store.uploads.open_upload(key) as writer:
        for chunk in chunks:
            await writer.write(chunk)
        await writer.flush()


async def content_of(store: BlobStore, digest: Digest) -> bytes:
    """Return all bytes of a blob."""
    stored = await store.stat(digest)
    assert stored is not None
    return b"".join([piece async for piece in store.read(digest, 0, stored.size)])


async def size_of(store: BlobStore, digest: Digest) -> int | None:
    """Return the size of a blob in bytes, or None if it is absent."""
    stored = await store.stat(digest)
    return None if stored is None else stored.size


async def test_a_pushed_blob_is_returned_unchanged(store: BlobStore) -> None:
    """A blob that was pushed in one request is returned under its digest with its size."""
    digest = await push(store, b"layer")

    assert await content_of(store, digest) == b"layer"
    assert await size_of(store, digest) == 5
    assert store.maintenance.look(digest) is not None


async def test_an_empty_blob_is_stored(store: BlobStore) -> None:
    """A blob of zero bytes is stored and returned."""
    digest = await push(store, b"")

    assert await size_of(store, digest) == 0
    assert await content_of(store, digest) == b""


async def test_an_absent_blob_is_absent(store: BlobStore) -> None:
    """A blob that was never pushed is a miss, and reading it raises at the first chunk."""
    digest = Digest.of(b"never pushed")

    assert await store.stat(digest) is None
    assert store.maintenance.look(digest) is None
    with pytest.raises(BlobAbsent):
        await anext(store.read(digest, 0, 1))


async def test_a_blob_in_many_requests_is_the_same_blob(store: BlobStore) -> None:
    """PATCH requests and a final PUT add up to the blob."""
    key = await begin(store)
    await patch(store, key, b"one ")
    await patch(store, key, b"two ", b"and ")
    async with store.uploads.open_upload(key) as writer:
        await writer.write(b"three")
        size = await writer.commit(Digest.of(b"one two and three"))

    assert size == 17
    assert await content_of(store, Digest.of(b"one two and three")) == b"one two and three"


async def test_a_session_ends_with_its_commit(store: BlobStore) -> None:
    """After a commit the session is unknown to every call."""
    key = await begin(store)
    async with store.uploads.open_upload(key) as writer:
        await writer.write(b"x")
        await writer.commit(Digest.of(b"x"))
        with pytest.raises(UploadUnknown):
            await writer.write(b"more")

    with pytest.raises(UploadUnknown):
        await store.uploads.upload_size(key)
    with pytest.raises(UploadUnknown):
        await store.uploads.cancel_upload(key)
    with pytest.raises(UploadUnknown):
        async with store.uploads.open_upload(key):
            pass


async def test_upload_size_is_the_offset_to_resume_at(store: BlobStore) -> None:
    """The size of a session is how many bytes it holds, from 0 on."""
    key = await begin(store)
    before = await store.uploads.upload_size(key)
    await patch(store, key, b"12345")

    assert before == 0
    assert await store.uploads.upload_size(key) == 5


async def test_the_offset_counts_buffered_bytes(store: BlobStore) -> None:
    """The offset includes buffered bytes, so that the next chunk's position is known before they are on disk."""
    key = await begin(store)
    await patch(store, key, b"12345")
    async with store.uploads.open_upload(key) as writer:
        opened = writer.offset
        await writer.write(b"678")

        assert opened == 5
        assert writer.offset == 8


async def test_a_wrong_digest_keeps_the_session_as_it_was(store: BlobStore) -> None:
    """After a wrong digest the refused request's bytes are gone, acknowledged ones stay, and the right digest succeeds."""
    key = await begin(store)
    await patch(store, key, b"acknowledged ")
    wrong = Digest.of(b"something else")
    async with store.uploads.open_upload(key) as writer:
        await writer.write(b"last chunk")
        with pytest.raises(DigestInvalid, match=str(wrong)):
            await writer.commit(wrong)
    held = await store.uploads.upload_size(key)
    async with store.uploads.open_upload(key) as writer:
        await writer.write(b"last chunk")
        await writer.commit(Digest.of(b"acknowledged last chunk"))

    assert held == 13
    assert store.maintenance.look(wrong) is None
    assert await content_of(store, Digest.of(b"acknowledged last chunk")) == b"acknowledged last chunk"


async def test_a_wrong_digest_can_be_followed_by_the_right_one_at_once(store: BlobStore) -> None:
    """After a refused commit the same writer can commit with the right digest."""
    key = await begin(store)
    async with store.uploads.open_upload(key) as writer:
        await writer.write(b"abc")
        with pytest.raises(DigestInvalid):
            await writer.commit(Digest.of(b"not abc"))
        offset = writer.offset
        await writer.write(b"abc")
        await writer.commit(Digest.of(b"abc"))

    assert offset == 0
    assert await content_of(store, Digest.of(b"abc")) == b"abc"


@pytest.mark.parametrize("expected", ["sha256", "sha512"])
@pytest.mark.parametrize("asked", ["sha256", "sha512"])
async def test_the_algorithm_may_be_chosen_at_the_commit(store: BlobStore, expected: str, asked: str) -> None:
    """A session that was opened for one digest algorithm can be committed under the other."""
    key = await begin(store)
    async with store.uploads.open_upload(key, Digest.of(b"", expected)) as writer:
        await writer.write(b"a" * 100_000)
        await writer.flush()
        await writer.write(b"b" * 100_000)
        await writer.commit(Digest.of(b"a" * 100_000 + b"b" * 100_000, asked))

    assert await size_of(store, Digest.of(b"a" * 100_000 + b"b" * 100_000, asked)) == 200_000


async def test_a_rollback_forgets_the_request(store: BlobStore) -> None:
    """A rollback removes the current request's bytes; size and hash of acknowledged ones stay."""
    key = await begin(store)
    await patch(store, key, b"kept ")
    async with store.uploads.open_upload(key) as writer:
        await writer.write(b"y" * 3_000_000)
        await writer.rollback()
        offset = writer.offset
    held = await store.uploads.upload_size(key)
    async with store.uploads.open_upload(key) as writer:
        await writer.write(b"and done")
        await writer.commit(Digest.of(b"kept and done"))

    assert offset == held == 5
    assert store.maintenance.look(Digest.of(b"kept and done")) is not None


async def test_a_session_belongs_to_its_repository(store: BlobStore) -> None:
    """An upload id is unknown under another repository, for reading, writing and cancelling."""
    key = await begin(store)
    elsewhere = UploadKey(Repository("shop/other"), key.id)

    with pytest.raises(UploadUnknown):
        await store.uploads.upload_size(elsewhere)
    with pytest.raises(UploadUnknown):
        await store.uploads.cancel_upload(elsewhere)
    with pytest.raises(UploadUnknown):
        async with store.uploads.open_upload(elsewhere):
            pass
    assert await store.uploads.upload_size(key) == 0


async def test_a_session_has_one_writer(store: BlobStore) -> None:
    """A second writer gets UploadBusy, and the first one is not affected."""
    key = await begin(store)
    async with store.uploads.open_upload(key) as writer:
        await writer.write(b"mine")
        with pytest.raises(UploadBusy):
            async with store.uploads.open_upload(key):
                pass
        await writer.commit(Digest.of(b"mine"))

    assert store.maintenance.look(Digest.of(b"mine")) is not None


async def test_a_writer_waits_for_the_one_before(store: BlobStore) -> None:
    """A second request to a session waits for the first, so that clients may pipeline."""
    key = await begin(store)
    opened = asyncio.Event()

    async def first() -> None:
        async with store.uploads.open_upload(key) as writer:
            opened.set()
            await writer.write(b"first ")
            await asyncio.sleep(0.02)  # the second writer waits meanwhile
            await writer.flush()

    async def second() -> None:
        await opened.wait()
        async with store.uploads.open_upload(key) as writer:
            await writer.write(b"second")
            await writer.commit(Digest.of(b"first second"))

    await asyncio.gather(first(), second())

    assert store.maintenance.look(Digest.of(b"first second")) is not None


async def test_a_cancelled_session_cannot_be_committed(store: BlobStore) -> None:
    """Cancelling does not wait for the writer, whose commit then fails."""
    key = await begin(store)
    async with store.uploads.open_upload(key) as writer:
        await writer.write(b"too late")
        await store.uploads.cancel_upload(key)
        with pytest.raises(UploadUnknown):
            await writer.commit(Digest.of(b"too late"))

    assert store.maintenance.look(Digest.of(b"too late")) is None


async def test_a_push_replaces_a_stored_blob(store: BlobStore) -> None:
    """Pushing a stored blob again replaces it, and it is stored once."""
    await push(store, b"again")
    digest = await push(store, b"again")

    assert [blob.digest for blob in store.maintenance.walk()] == [digest]
    assert await content_of(store, digest) == b"again"


async def test_two_sessions_may_push_the_same_blob_concurrently(store: BlobStore) -> None:
    """Concurrent pushes of one digest all succeed and leave one complete blob."""
    digests = await asyncio.gather(*(push(store, b"z" * 50_000) for _ in range(8)))

    assert len(set(digests)) == 1
    assert await content_of(store, digests[0]) == b"z" * 50_000


async def test_a_range_is_what_was_requested(store: BlobStore) -> None:
    """A range is given in bytes by start and length, and every chunk is at most the chunk size."""
    content = bytes(range(256)) * 16_384
    digest = await push(store, content)
    pieces = [piece async for piece in store.read(digest, 1000, 3 * PIECE_BYTES)]

    assert b"".join(pieces) == content[1000 : 1000 + 3 * PIECE_BYTES]
    assert max(map(len, pieces)) <= PIECE_BYTES
    assert [piece async for piece in store.read(digest, 5, 0)] == []


async def test_reading_beyond_the_end_is_an_error(store: BlobStore) -> None:
    """Reading a blob that is shorter than its row states raises an error instead of ending early."""
    digest = await push(store, b"short")

    with pytest.raises(StoreBroken):
        async for _ in store.read(digest, 0, 6):
            pass


async def test_a_reader_may_stop_early(store: BlobStore) -> None:
    """A reader may close the iterator early."""
    digest = await push(store, b"q" * (2 * PIECE_BYTES))
    pieces = store.read(digest, 0, 2 * PIECE_BYTES)
    first = await anext(pieces)
    await pieces.aclose()  # type: ignore[attr-defined]  # the protocol says iterator; both stores give generators

    assert len(first) == PIECE_BYTES


async def test_walk_names_every_blob_in_order(store: BlobStore) -> None:
    """`walk` yields every blob's digest and size in order, of both algorithms, without upload sessions."""
    pushed = [await push(store, b"w" * size, algorithm) for size in range(20) for algorithm in ("sha256", "sha512")]
    await begin(store)
    walked = list(store.maintenance.walk())

    assert [blob.digest for blob in walked] == sorted(pushed)
    assert {blob.size for blob in walked} == set(range(20))
    assert strays(store) == []


async def test_scan_yields_every_stored_byte(store: BlobStore) -> None:
    """`scan` yields all bytes, none of an empty blob, and raises for an absent one at the first piece."""
    big = await push(store, b"s" * (2 * 1024 * 1024 + 7))
    empty = await push(store, b"")

    assert b"".join(store.maintenance.scan(big)) == b"s" * (2 * 1024 * 1024 + 7)
    assert list(store.maintenance.scan(empty)) == []
    with pytest.raises(BlobAbsent):
        next(store.maintenance.scan(Digest.of(b"never pushed")))


async def test_bytes_that_were_committed_meanwhile_are_not_deleted(store: BlobStore) -> None:
    """A delete of a blob fails if it was pushed again after the decision."""
    digest = await push(store, b"again")
    stored = await store.stat(digest)
    walked = list(store.maintenance.walk())
    await push(store, b"again")
    now = await store.stat(digest)

    assert stored is not None
    assert walked == [stored]
    assert not await store.delete(stored)
    assert not store.maintenance.delete(stored)
    assert now is not None
    assert now == store.maintenance.look(digest)
    assert await store.delete(now)
    assert store.maintenance.look(digest) is None


async def test_removing_is_final_and_may_be_repeated(store: BlobStore) -> None:
    """A deleted blob is absent, and deleting an absent blob does nothing."""
    digest = await push(store, b"gone")
    stored = store.maintenance.look(digest)

    assert stored is not None
    assert await store.delete(stored)
    assert not await store.delete(stored)
    assert not store.maintenance.delete(stored)
    assert store.maintenance.look(digest) is None
    assert await store.stat(digest) is None


async def test_an_abandoned_session_is_found_and_discarded(store: BlobStore) -> None:
    """Abandoned sessions are listed with their sizes, and can be discarded."""
    key = await begin(store)
    await patch(store, key, b"left here")
    found = list(store.upload_cleanup.abandoned(FAR_FUTURE_US))

    assert [(upload.name, upload.size) for upload in found] == [(key.name, 9)]
    assert list(store.upload_cleanup.abandoned(0)) == []
    assert store.upload_cleanup.discard(found[0], FAR_FUTURE_US)
    with pytest.raises(UploadUnknown):
        await store.uploads.upload_size(key)


async def test_a_session_in_use_is_not_abandoned(store: BlobStore) -> None:
    """A session that is in use, or was written to recently, is not discarded."""
    key = await begin(store)
    found = next(iter(store.upload_cleanup.abandoned(FAR_FUTURE_US)))
    async with store.uploads.open_upload(key) as writer:
        in_use = store.upload_cleanup.discard(found, FAR_FUTURE_US)
        await writer.write(b"alive")
        await writer.flush()
    too_young = store.upload_cleanup.discard(found, 0)

    assert not in_use
    assert not too_young
    assert await store.uploads.upload_size(key) == 5


async def test_discarding_an_invalid_session_does_nothing(store: BlobStore) -> None:
    """An invalid session name is refused, and no path is followed."""
    digest = await push(store, b"safe")
    path = UploadFile(f"../blobs/sha256/{digest.hex[:2]}/{digest.hex}", 4, 0)

    assert not store.upload_cleanup.discard(path, FAR_FUTURE_US)
    assert store.maintenance.look(digest) is not None


@pytest.mark.parametrize(
    "text",
    ["", "..", "../../etc/passwd", "0" * 32, "A" * 32, "6f1d3a2e5b7c4d8e9fa0b1c2d3e4f5a6/x", "6f1d3a2e-5b7c-4d8e"],
)
def test_a_made_up_upload_id_is_unknown(text: str) -> None:
    """Only upload ids that the store created can become a path."""
    with pytest.raises(UploadUnknown):
        UploadId(text)


class Step(str):
    """A step of the property test: write a chunk, flush, reopen the session, or roll back a request."""


steps = st.lists(
    st.one_of(
        st.binary(max_size=300),
        st.integers(min_value=1, max_value=3).map(lambda n: b"big" * (n * 150_000)),
        st.sampled_from([Step("flush"), Step("reopen"), Step("rollback"), Step("wrong")]),
    ),
    max_size=14,
)


@settings(max_examples=settings().max_examples * 6 // 10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps, algorithm=st.sampled_from(["sha256", "sha512"]))
@pytest.mark.slow
async def test_any_sequence_of_chunks_and_requests_gives_its_bytes(
    store: BlobStore, steps: list[bytes | Step], algorithm: str
) -> None:
    """However a blob is split over chunks and requests, with refused ones between, its bytes are complete."""
    key = await begin(store)
    kept = pending = b""
    opened = store.uploads.open_upload(key)
    writer = await opened.__aenter__()
    for step in steps:
        if isinstance(step, bytes):
            await writer.write(step)
            pending += step
            continue
        if step == "rollback":
            await writer.rollback()
        elif step == "wrong":
            with pytest.raises(DigestInvalid):
                await writer.commit(Digest.of(kept + pending + b"!", algorithm))
        else:
            await writer.flush()
            kept += pending
        pending = b""
        if step == "reopen":
            await opened.__aexit__(None, None, None)
            opened = store.uploads.open_upload(key)
            writer = await opened.__aenter__()
        assert writer.offset == len(kept)
    digest = Digest.of(kept + pending, algorithm)
    size = await writer.commit(digest)
    await opened.__aexit__(None, None, None)

    assert size == len(kept + pending)
    assert await content_of(store, digest) == kept + pending


def test_upload_ids_can_not_be_guessed() -> None:
    """Upload ids are random: no part of one follows from another."""
    names = {UploadId.new() for _ in range(100)}

    assert len({name[:8] for name in names}) == len({name[-8:] for name in names}) == 100


async def test_an_existing_session_is_continued(store: BlobStore) -> None:
    """A second process that fetches the same digest continues the existing session."""
    key = FetchKey(REPOSITORY, UploadId.of(Digest.of(b"from elsewhere")))
    await store.uploads.start_upload(key)
    await patch(store, key, b"from ")
    await store.uploads.start_upload(key)

    assert await store.uploads.upload_size(key) == 5


async def test_no_request_can_name_a_fetch_session(store: BlobStore) -> None:
    """A client's upload with the same number in the same repository is separate from a fetch session."""
    number = UploadId.of(Digest.of(b"from elsewhere"))
    await store.uploads.start_upload(FetchKey(REPOSITORY, number))

    with pytest.raises(UploadUnknown):
        await store.uploads.upload_size(UploadKey(REPOSITORY, number))


async def test_a_session_can_be_read_while_it_is_written(store: BlobStore) -> None:
    """Other readers see acknowledged bytes of a session, also after it became a blob."""
    key = await begin(store)
    seen: list[object] = []
    partial = await store.uploads.open_partial(key)
    seen.append(partial.available())
    async with store.uploads.open_upload(key) as writer:
        await writer.write(b"layer")
        await writer.flush()
        seen.append(partial.available())
        seen.append(await partial.read_unverified(1, 100))
        await writer.write(b" and more")
        await writer.commit(Digest.of(b"layer and more"))
    seen.append(partial.available())
    seen.append(await partial.read_unverified(0, 100))
    partial.close()
    partial.close()

    assert seen == [0, 5, b"ayer", 14, b"layer and more"]


async def test_a_reader_of_a_discarded_session_gets_an_error(store: BlobStore) -> None:
    """A reader of a session that was discarded gets an error, because its bytes never were a blob."""
    key = await begin(store)
    await patch(store, key, b"layer")
    partial = await store.uploads.open_partial(key)
    await store.uploads.cancel_upload(key)

    assert partial.available() == -1
    partial.close()
    with pytest.raises(UploadUnknown):
        await store.uploads.open_partial(key)


async def test_a_writer_that_does_not_wait_is_refused_at_once(store: BlobStore) -> None:
    """With `wait_s=0` a busy session is refused at once."""
    key = await begin(store)
    async with store.uploads.open_upload(key):
        with pytest.raises(UploadBusy):
            async with store.uploads.open_upload(key, wait_s=0):
                pass
    async with store.uploads.open_upload(key, wait_s=0) as writer:
        assert writer.offset == 0

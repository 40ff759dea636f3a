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

REPOSITORY = Repository("shop/app")
FAR_FUTURE_US = 2**62


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    """Each implementation, empty."""
    made: BlobStore = (
        LocalBlobs(tmp_path / "data", lock_wait_s=0.1) if request.param == "local" else MemoryBlobs(lock_wait_s=0.1)
    )
    yield made
    made.close()


async def begin(store: BlobStore) -> UploadKey:
    """A new, empty session."""
    key = UploadKey(REPOSITORY, UploadId.new())
    await store.start_upload(key)
    return key


async def push(store: BlobStore, content: bytes, algorithm: str = "sha256") -> Digest:
    """A whole blob in one request."""
    key = await begin(store)
    digest = Digest.of(content, algorithm)
    async with store.open_upload(key, algorithm) as writer:
        await writer.write(content)
        await writer.commit(digest)
    return digest


async def patch(store: BlobStore, key: UploadKey, *chunks: bytes) -> None:
    """One acknowledged request."""
    async with store.open_upload(key) as writer:
        for chunk in chunks:
            await writer.write(chunk)
        await writer.flush()


async def content_of(store: BlobStore, digest: Digest) -> bytes:
    """All bytes of a blob."""
    stored = await store.stat(digest)
    assert stored is not None
    return b"".join([piece async for piece in store.read(digest, 0, stored.size)])


async def size_of(store: BlobStore, digest: Digest) -> int | None:
    """Size of a blob in bytes, None when absent."""
    stored = await store.stat(digest)
    return None if stored is None else stored.size


async def test_a_blob_comes_back_as_it_went_in(store: BlobStore) -> None:
    """Bytes pushed in one request are there under their digest, with their size."""
    digest = await push(store, b"layer")

    assert await content_of(store, digest) == b"layer"
    assert await size_of(store, digest) == 5
    assert store.look(digest) is not None


async def test_an_empty_blob_is_a_blob(store: BlobStore) -> None:
    """Zero bytes have a digest like any others."""
    digest = await push(store, b"")

    assert await size_of(store, digest) == 0
    assert await content_of(store, digest) == b""


async def test_an_absent_blob_is_absent(store: BlobStore) -> None:
    """What was never pushed is a miss, and reading it is an error at the first piece."""
    digest = Digest.of(b"never pushed")

    assert await store.stat(digest) is None
    assert store.look(digest) is None
    with pytest.raises(BlobAbsent):
        await anext(store.read(digest, 0, 1))


async def test_a_blob_in_many_requests_is_the_same_blob(store: BlobStore) -> None:
    """PATCH, PATCH, and a PUT with the last chunk add up."""
    key = await begin(store)
    await patch(store, key, b"one ")
    await patch(store, key, b"two ", b"and ")
    async with store.open_upload(key) as writer:
        await writer.write(b"three")
        size = await writer.commit(Digest.of(b"one two and three"))

    assert size == 17
    assert await content_of(store, Digest.of(b"one two and three")) == b"one two and three"


async def test_a_session_ends_with_its_commit(store: BlobStore) -> None:
    """After a commit the session is unknown to every call."""
    key = await begin(store)
    async with store.open_upload(key) as writer:
        await writer.write(b"x")
        await writer.commit(Digest.of(b"x"))
        with pytest.raises(UploadUnknown):
            await writer.write(b"more")

    with pytest.raises(UploadUnknown):
        await store.upload_size(key)
    with pytest.raises(UploadUnknown):
        await store.cancel_upload(key)
    with pytest.raises(UploadUnknown):
        async with store.open_upload(key):
            pass


async def test_upload_size_is_the_offset_to_resume_at(store: BlobStore) -> None:
    """The size of a session is how many bytes it holds, from 0 on."""
    key = await begin(store)
    before = await store.upload_size(key)
    await patch(store, key, b"12345")

    assert before == 0
    assert await store.upload_size(key) == 5


async def test_the_offset_counts_what_is_only_buffered(store: BlobStore) -> None:
    """The next chunk's place is known before anything reaches the disk."""
    key = await begin(store)
    await patch(store, key, b"12345")
    async with store.open_upload(key) as writer:
        opened = writer.offset
        await writer.write(b"678")

        assert opened == 5
        assert writer.offset == 8


async def test_a_wrong_digest_keeps_the_session_as_it_was(store: BlobStore) -> None:
    """The refused request's own bytes are gone, the acknowledged ones stay, and the right digest still succeeds."""
    key = await begin(store)
    await patch(store, key, b"acknowledged ")
    wrong = Digest.of(b"something else")
    async with store.open_upload(key) as writer:
        await writer.write(b"last chunk")
        with pytest.raises(DigestInvalid, match=str(wrong)):
            await writer.commit(wrong)
    held = await store.upload_size(key)
    async with store.open_upload(key) as writer:
        await writer.write(b"last chunk")
        await writer.commit(Digest.of(b"acknowledged last chunk"))

    assert held == 13
    assert store.look(wrong) is None
    assert await content_of(store, Digest.of(b"acknowledged last chunk")) == b"acknowledged last chunk"


async def test_a_wrong_digest_can_be_followed_by_the_right_one_at_once(store: BlobStore) -> None:
    """The same writer goes on after a refused commit."""
    key = await begin(store)
    async with store.open_upload(key) as writer:
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
async def test_any_algorithm_may_be_asked_for_at_the_end(store: BlobStore, expected: str, asked: str) -> None:
    """A session opened for one algorithm can be committed under the other."""
    key = await begin(store)
    async with store.open_upload(key, expected) as writer:
        await writer.write(b"a" * 100_000)
        await writer.flush()
        await writer.write(b"b" * 100_000)
        await writer.commit(Digest.of(b"a" * 100_000 + b"b" * 100_000, asked))

    assert await size_of(store, Digest.of(b"a" * 100_000 + b"b" * 100_000, asked)) == 200_000


async def test_a_rollback_forgets_the_request(store: BlobStore) -> None:
    """What was acknowledged before stays, in size and in hash."""
    key = await begin(store)
    await patch(store, key, b"kept ")
    async with store.open_upload(key) as writer:
        await writer.write(b"y" * 3_000_000)
        await writer.rollback()
        offset = writer.offset
    held = await store.upload_size(key)
    async with store.open_upload(key) as writer:
        await writer.write(b"and done")
        await writer.commit(Digest.of(b"kept and done"))

    assert offset == held == 5
    assert store.look(Digest.of(b"kept and done")) is not None


async def test_a_session_belongs_to_its_repository(store: BlobStore) -> None:
    """The same id under another repository's name is unknown, to look at, to write to and to cancel."""
    key = await begin(store)
    elsewhere = UploadKey(Repository("shop/other"), key.id)

    with pytest.raises(UploadUnknown):
        await store.upload_size(elsewhere)
    with pytest.raises(UploadUnknown):
        await store.cancel_upload(elsewhere)
    with pytest.raises(UploadUnknown):
        async with store.open_upload(elsewhere):
            pass
    assert await store.upload_size(key) == 0


async def test_a_session_has_one_writer(store: BlobStore) -> None:
    """A second writer gets UploadBusy, and the first one is not affected."""
    key = await begin(store)
    async with store.open_upload(key) as writer:
        await writer.write(b"mine")
        with pytest.raises(UploadBusy):
            async with store.open_upload(key):
                pass
        await writer.commit(Digest.of(b"mine"))

    assert store.look(Digest.of(b"mine")) is not None


async def test_a_writer_waits_for_the_one_before(store: BlobStore) -> None:
    """A client that pipelines its requests finds its session free a moment later."""
    key = await begin(store)
    opened = asyncio.Event()

    async def first() -> None:
        async with store.open_upload(key) as writer:
            opened.set()
            await writer.write(b"first ")
            await asyncio.sleep(0.02)  # the second writer waits meanwhile
            await writer.flush()

    async def second() -> None:
        await opened.wait()
        async with store.open_upload(key) as writer:
            await writer.write(b"second")
            await writer.commit(Digest.of(b"first second"))

    await asyncio.gather(first(), second())

    assert store.look(Digest.of(b"first second")) is not None


async def test_a_cancelled_session_cannot_be_committed(store: BlobStore) -> None:
    """Cancelling does not wait for the writer, whose commit finds nothing to commit."""
    key = await begin(store)
    async with store.open_upload(key) as writer:
        await writer.write(b"too late")
        await store.cancel_upload(key)
        with pytest.raises(UploadUnknown):
            await writer.commit(Digest.of(b"too late"))

    assert store.look(Digest.of(b"too late")) is None


async def test_a_push_replaces_what_is_there(store: BlobStore) -> None:
    """The same blob pushed again is whole, and there once."""
    await push(store, b"again")
    digest = await push(store, b"again")

    assert [blob.digest for blob in store.walk()] == [digest]
    assert await content_of(store, digest) == b"again"


async def test_two_sessions_may_bring_the_same_blob_at_once(store: BlobStore) -> None:
    """Racing pushes of one digest all succeed and leave one whole blob."""
    digests = await asyncio.gather(*(push(store, b"z" * 50_000) for _ in range(8)))

    assert len(set(digests)) == 1
    assert await content_of(store, digests[0]) == b"z" * 50_000


async def test_a_range_is_what_was_asked_for(store: BlobStore) -> None:
    """Start and length count bytes, and every piece is small enough."""
    content = bytes(range(256)) * 16_384
    digest = await push(store, content)
    pieces = [piece async for piece in store.read(digest, 1000, 3 * PIECE_BYTES)]

    assert b"".join(pieces) == content[1000 : 1000 + 3 * PIECE_BYTES]
    assert max(map(len, pieces)) <= PIECE_BYTES
    assert [piece async for piece in store.read(digest, 5, 0)] == []


async def test_reading_beyond_the_end_is_not_silence(store: BlobStore) -> None:
    """A blob shorter than its row says breaks the answer instead of ending it."""
    digest = await push(store, b"short")

    with pytest.raises(StoreBroken):
        async for _ in store.read(digest, 0, 6):
            pass


async def test_a_reader_may_go_away_in_the_middle(store: BlobStore) -> None:
    """Closing the iterator early is clean."""
    digest = await push(store, b"q" * (2 * PIECE_BYTES))
    pieces = store.read(digest, 0, 2 * PIECE_BYTES)
    first = await anext(pieces)
    await pieces.aclose()  # type: ignore[attr-defined]  # the protocol says iterator; both stores give generators

    assert len(first) == PIECE_BYTES


async def test_walk_names_every_blob_in_order(store: BlobStore) -> None:
    """Digests of both algorithms, sorted, with sizes; sessions are not blobs."""
    pushed = [await push(store, b"w" * size, algorithm) for size in range(20) for algorithm in ("sha256", "sha512")]
    await begin(store)
    walked = list(store.walk())

    assert [blob.digest for blob in walked] == sorted(pushed)
    assert {blob.size for blob in walked} == set(range(20))
    assert list(store.strays()) == []


async def test_scan_yields_every_stored_byte(store: BlobStore) -> None:
    """`scan` yields all bytes, none of an empty blob, and raises for an absent one at the first piece."""
    big = await push(store, b"s" * (2 * 1024 * 1024 + 7))
    empty = await push(store, b"")

    assert b"".join(store.scan(big)) == b"s" * (2 * 1024 * 1024 + 7)
    assert list(store.scan(empty)) == []
    with pytest.raises(BlobAbsent):
        next(store.scan(Digest.of(b"never pushed")))


async def test_bytes_that_were_committed_since_are_not_deleted(store: BlobStore) -> None:
    """A deletion is of the bytes that were looked at: what was pushed again meanwhile stays."""
    digest = await push(store, b"again")
    stored = await store.stat(digest)
    walked = list(store.walk())
    await push(store, b"again")
    now = await store.stat(digest)

    assert stored is not None
    assert walked == [stored]
    assert not await store.delete(stored)
    assert not store.delete_and_wait(stored)
    assert now is not None
    assert now == store.look(digest)
    assert await store.delete(now)
    assert store.look(digest) is None


async def test_removing_is_final_and_may_be_repeated(store: BlobStore) -> None:
    """A deleted blob is absent; deleting what is absent does nothing."""
    digest = await push(store, b"gone")
    stored = store.look(digest)

    assert stored is not None
    assert await store.delete(stored)
    assert not await store.delete(stored)
    assert not store.delete_and_wait(stored)
    assert store.look(digest) is None
    assert await store.stat(digest) is None


async def test_an_abandoned_session_is_found_and_discarded(store: BlobStore) -> None:
    """Old sessions are listed with what they hold, and go."""
    key = await begin(store)
    await patch(store, key, b"left here")
    found = list(store.abandoned(FAR_FUTURE_US))

    assert [(upload.name, upload.size) for upload in found] == [(key.name, 9)]
    assert list(store.abandoned(0)) == []
    assert store.discard(found[0], FAR_FUTURE_US)
    with pytest.raises(UploadUnknown):
        await store.upload_size(key)


async def test_a_session_in_use_is_not_abandoned(store: BlobStore) -> None:
    """A session that is in use, or was written to since, is not discarded."""
    key = await begin(store)
    found = next(iter(store.abandoned(FAR_FUTURE_US)))
    async with store.open_upload(key) as writer:
        in_use = store.discard(found, FAR_FUTURE_US)
        await writer.write(b"alive")
        await writer.flush()
    too_young = store.discard(found, 0)

    assert not in_use
    assert not too_young
    assert await store.upload_size(key) == 5


async def test_discarding_what_is_no_session_does_nothing(store: BlobStore) -> None:
    """A name that leads elsewhere is refused, not followed."""
    digest = await push(store, b"safe")
    path = UploadFile(f"../blobs/sha256/{digest.hex[:2]}/{digest.hex}", 4, 0)

    assert not store.discard(path, FAR_FUTURE_US)
    assert store.look(digest) is not None


@pytest.mark.parametrize(
    "text",
    ["", "..", "../../etc/passwd", "0" * 32, "A" * 32, "6f1d3a2e5b7c4d8e9fa0b1c2d3e4f5a6/x", "6f1d3a2e-5b7c-4d8e"],
)
def test_a_made_up_upload_id_is_unknown(text: str) -> None:
    """Only names that we give out can become a path."""
    with pytest.raises(UploadUnknown):
        UploadId(text)


class Step(str):
    """One of: a chunk was written, flushed, the session re-opened, a request rolled back."""


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
    """However a blob is split over chunks and requests, refused ones between them, the bytes that count are the blob."""
    key = await begin(store)
    kept = pending = b""
    opened = store.open_upload(key)
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
            opened = store.open_upload(key)
            writer = await opened.__aenter__()
        assert writer.offset == len(kept)
    digest = Digest.of(kept + pending, algorithm)
    size = await writer.commit(digest)
    await opened.__aexit__(None, None, None)

    assert size == len(kept + pending)
    assert await content_of(store, digest) == kept + pending


def test_the_names_of_sessions_are_not_to_be_guessed() -> None:
    """No part of one id follows from another one."""
    names = {UploadId.new() for _ in range(100)}

    assert len({name[:8] for name in names}) == len({name[-8:] for name in names}) == 100


async def test_a_session_that_is_there_is_begun_again_as_it_is(store: BlobStore) -> None:
    """A second process that brings the same digest continues where the first one stopped."""
    key = FetchKey(REPOSITORY, UploadId.of(Digest.of(b"from elsewhere")))
    await store.start_upload(key)
    await patch(store, key, b"from ")
    await store.start_upload(key)

    assert await store.upload_size(key) == 5


async def test_no_request_can_name_what_is_fetched(store: BlobStore) -> None:
    """An upload of the same number in the same repository is another one."""
    number = UploadId.of(Digest.of(b"from elsewhere"))
    await store.start_upload(FetchKey(REPOSITORY, number))

    with pytest.raises(UploadUnknown):
        await store.upload_size(UploadKey(REPOSITORY, number))


async def test_a_session_can_be_looked_into_while_it_is_written_to(store: BlobStore) -> None:
    """What was acknowledged is there for others, also when the session has become a blob."""
    key = await begin(store)
    seen: list[object] = []
    partial = store.open_partial(key)
    seen.append(partial.available())
    async with store.open_upload(key) as writer:
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


async def test_a_reader_of_a_session_sees_that_it_was_dropped(store: BlobStore) -> None:
    """Its bytes were never a blob."""
    key = await begin(store)
    await patch(store, key, b"layer")
    partial = store.open_partial(key)
    await store.cancel_upload(key)

    assert partial.available() == -1
    partial.close()
    with pytest.raises(UploadUnknown):
        store.open_partial(key)


async def test_a_writer_that_does_not_wait_is_refused_at_once(store: BlobStore) -> None:
    """`wait_s=0`: busy is an answer."""
    key = await begin(store)
    async with store.open_upload(key):
        with pytest.raises(UploadBusy):
            async with store.open_upload(key, wait_s=0):
                pass
    async with store.open_upload(key, wait_s=0) as writer:
        assert writer.offset == 0

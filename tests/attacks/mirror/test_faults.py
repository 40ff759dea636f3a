"""A disturbed fetch: a full disk, a killed process, a client that disconnects, a store that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from boltseal.server.store_factory import examine_store
from tests.asgi import send
from tests.fakes.upstream import Asked, FakeUpstream
from tests.images import OCI_LAYER, OCI_MANIFEST, Blob, Document, digest_of, to_json
from tests.polling import until
from tests.server.mirror.mirrors import NAME, mirror_settings, table_of
from tests.servers import Server, boltseal
from tests.serving import copy_of, serving_as, settings_of
from tests.small_disk import small_disk
from tests.soak.processes import kill_tree

MEBIBYTE = 1024 * 1024
BLOB = bytes(range(256)) * 4096 * 12  # 12 MiB
DIGEST = digest_of(BLOB)
PATH = f"/v2/team/app/blobs/{DIGEST}"
TARGET = f"/v2/{NAME}/team/app/blobs/{DIGEST}"
FAR_FUTURE_US = 4_000_000_000_000_000


def assert_whole(data: Path) -> None:
    """Check with fsck that a store, which no server uses at the moment, has no findings."""
    assert not examine_store(settings_of(data), lambda *_: None, with_keys=False).findings


def config_of(upstream: FakeUpstream) -> str:
    return f'[[upstream]]\nname = "{NAME}"\nurl = "http://{upstream.authority}"\n'


class Stalling:
    """An upstream that sends half of the blob, and the rest once the test releases it."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, _: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(BLOB)}\r\n\r\n".encode() + BLOB[: len(BLOB) // 2])
        await writer.drain()
        await self.go_on.wait()
        writer.transport.set_write_buffer_limits(high=0)  # drained: everything is sent before the connection is closed
        writer.write(BLOB[len(BLOB) // 2 :])
        await writer.drain()


@pytest.fixture
def small_data(tmp_path: Path, fresh_data: Path) -> Iterator[Path]:
    """A data folder on a disk that has space for a third of the blob."""
    with small_disk(tmp_path / "small", "size=6m") as folder:
        yield copy_of(fresh_data, folder / "of")


@pytest.mark.files_only("fills the disk with the files of blobs")
@pytest.mark.slow
async def test_a_disk_that_fills_during_a_fetch_leaves_no_partial_blob(
    small_data: Path, upstream: FakeUpstream
) -> None:
    """The client gets an error or a broken connection; what fits is fetched afterwards, and the store has no findings."""
    small = b"fits"
    upstream.blobs |= {DIGEST: BLOB, digest_of(small): small}
    async with serving_as(
        mirror_settings(small_data, table_of(upstream), server={"data": small_data, "disk_reserve_bytes": 0})
    ) as serving:
        answer = await send(serving.app, "GET", TARGET)
        after = await send(serving.app, "GET", f"/v2/{NAME}/team/app/blobs/{digest_of(small)}")

    assert answer.status == 507 or len(answer.body) < len(BLOB)
    assert (after.status, after.body) == (200, small)
    assert_whole(small_data)


@pytest.mark.files_only("fills the disk with the files of blobs")
@pytest.mark.slow
async def test_a_fetch_that_would_use_the_disks_reserve_is_refused(small_data: Path, upstream: FakeUpstream) -> None:
    """A fetch that would use the disk's reserve is refused before any byte is stored."""
    upstream.blobs[DIGEST] = BLOB
    async with serving_as(
        mirror_settings(small_data, table_of(upstream), server={"data": small_data, "disk_reserve_bytes": MEBIBYTE})
    ) as serving:
        answer = await send(serving.app, "GET", TARGET)

    assert answer.status == 507
    assert b"nearly full" in answer.body
    assert_whole(small_data)


@pytest.mark.files_only("continues the file of an upload")
@pytest.mark.slow
async def test_a_fetch_is_resumed_after_its_process_was_killed(data: Path, upstream: FakeUpstream) -> None:
    """After a kill, the mirror requests only the missing bytes, and serves the complete blob."""
    stalling = Stalling()
    upstream.answers[f"GET {PATH}"] = stalling
    upstream.blobs[DIGEST] = BLOB
    config = config_of(upstream)
    with boltseal(data, config=config) as server:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
            asked = asyncio.create_task(client.get(TARGET))
            await until(
                lambda: sum(path.stat().st_size for path in (data / "uploads").iterdir()) > MEBIBYTE,
                "more than 1 MiB is on disk",
            )
            await asyncio.to_thread(kill_tree, server.pid)
            with pytest.raises(httpx2.TransportError):
                await asked
    stalling.go_on.set()
    upstream.answers.clear()
    with boltseal(data, config=config) as server:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
            answer = await client.get(TARGET)

    assert answer.content == BLOB
    assert int(upstream.asked[-1].headers["range"].removeprefix("bytes=").removesuffix("-")) >= MEBIBYTE
    assert_whole(data)


@pytest.mark.slow
async def test_a_client_that_disconnects_in_a_fetch_affects_no_other(data: Path, upstream: FakeUpstream) -> None:
    """The first client disconnects: the others get the whole blob, and upstream gets one request."""
    stalling = Stalling()
    upstream.answers[f"GET {PATH}"] = stalling
    with boltseal(data, config=config_of(upstream)) as server:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
            await _read_some_and_leave(server)
            others = [asyncio.create_task(client.get(TARGET)) for _ in range(3)]
            await _read_some_and_leave(server)
            stalling.go_on.set()
            answers = await asyncio.gather(*others)

    assert all(answer.content == BLOB for answer in answers)
    assert upstream.counted[f"GET {PATH}"] == 1
    assert_whole(data)


@pytest.mark.slow
async def test_a_fetch_that_all_clients_left_serves_the_next_client(data: Path, upstream: FakeUpstream) -> None:
    """The fetch is completed without clients, and the upstream is not asked again."""
    stalling = Stalling()
    upstream.answers[f"GET {PATH}"] = stalling
    with boltseal(data, config=config_of(upstream)) as server:
        await _read_some_and_leave(server)
        stalling.go_on.set()
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
            answer = await client.get(TARGET)

    assert answer.content == BLOB
    assert upstream.counted[f"GET {PATH}"] == 1


@pytest.mark.slow
async def test_a_broken_fetch_breaks_the_connection(data: Path, upstream: FakeUpstream) -> None:
    """When a fetch fails, the client's connection breaks, so that the client cannot take a partial body for the whole."""
    upstream.answers[f"GET {PATH}"] = _wrong_at_the_end
    with boltseal(data, config=config_of(upstream)) as server:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
            with pytest.raises(httpx2.RemoteProtocolError):
                await client.get(TARGET)

    assert_whole(data)


@pytest.mark.slow
@pytest.mark.files_only(
    "workers relay what another one has written so far; from an object store they wait until it is whole"
)
async def test_workers_fetch_once_for_all_of_them(data: Path, upstream: FakeUpstream) -> None:
    """Three worker processes with forty clients send one upstream request for each blob and manifest, and relay it to
    all."""
    stalling = Stalling()
    upstream.answers[f"GET {PATH}"] = stalling
    large = Blob(BLOB, OCI_LAYER)
    small = [Blob(f"small {number}".encode(), OCI_LAYER) for number in range(10)]
    body = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": small[0].descriptor()}
    layers = [each.descriptor() for each in (large, *small[1:])]
    shown = upstream.publish(
        "team/app", "1", Document(to_json({**body, "layers": layers}), OCI_MANIFEST, (*small, large))
    )
    begun: list[str] = []
    path = f"/v2/{NAME}/team/app"
    with boltseal(data, config=config_of(upstream), workers=3) as server:
        manifests = await asyncio.gather(*(_alone(server, f"{path}/manifests/{shown.digest}") for _ in range(20)))
        tasks = [asyncio.create_task(_alone(server, TARGET, begun)) for _ in range(40)]
        for each in small:
            tasks += [asyncio.create_task(_alone(server, f"{path}/blobs/{each.digest}")) for _ in "1234"]
        await until(lambda: len(begun) == 40, "40 fetches have begun")
        stalling.go_on.set()
        answers = await asyncio.gather(*tasks)

    assert set(manifests) == {shown.raw}
    assert {len(body) if body == BLOB else body[:300] for body in answers[:40]} == {len(BLOB)}
    assert answers[40:] == [each.data for each in small for _ in "1234"]
    assert {key: count for key, count in upstream.counted.items() if count != 1} == {}
    assert_whole(data)


@pytest.mark.slow
async def test_workers_fetch_a_blob_of_unknown_size_once(data: Path, upstream: FakeUpstream) -> None:
    """Without a manifest only the fetching worker learns the size: the others wait until the blob is stored."""
    upstream.blobs[DIGEST] = BLOB
    upstream.slow_s = 0.5
    with boltseal(data, config=config_of(upstream), workers=3) as server:
        answers = await asyncio.gather(*(_alone(server, TARGET) for _ in range(20)))

    assert {body == BLOB for body in answers} == {True}
    assert upstream.counted[f"GET {PATH}"] == 1


async def _alone(server: Server, target: str, begun: list[str] | None = None) -> bytes:
    """A client with a connection of its own, which any worker may accept; written by hand because a library's are slow.

    `begun`: receives the target at the body's first byte.
    """
    host, _, port = server.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nhost: {server.address}\r\nconnection: close\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        assert " 200 " in head.partition("\r\n")[0], head
        first = await reader.readexactly(1)
        if begun is not None:
            begun.append(target)
        return first + await reader.readexactly(int(head.partition("content-length:")[2].partition("\r\n")[0]) - 1)
    finally:
        writer.close()


async def _read_some_and_leave(server: Server) -> None:
    async with (
        httpx2.AsyncClient(base_url=server.url, trust_env=False) as client,
        client.stream("GET", TARGET) as response,
    ):
        assert response.status_code == 200
        assert await anext(response.aiter_raw())


async def _wrong_at_the_end(_: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(BLOB)}\r\n\r\n".encode() + BLOB[:-1] + b"!")

"""A really full disk: pushes get 507, nothing acknowledged is lost, and the registry continues later."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx2
import pytest

from tests import servers
from tests.servers import Server
from tests.small_disk import small_disk
from tests.soak.processes import ballast, fsck
from tests.soak.scale import MEBIBYTE
from tests.soak.traffic import (
    Acknowledged,
    Body,
    Refused,
    client_of,
    manifest_of,
    pull_all,
    push_image,
    put_manifest,
)

pytestmark = pytest.mark.slow

FULL = 507


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB for the data folder; logs are beside it."""
    with small_disk(tmp_path / "small", "size=64m") as folder:
        yield folder


def served(data: Path) -> AbstractContextManager[Server]:
    """Run a registry without a disk reserve, so that the disk itself refuses."""
    return servers.boltseal(data, settings={"BOLTSEAL_SERVER__DISK_RESERVE_BYTES": "0"})


@pytest.fixture
def server(disk: Path) -> Iterator[Server]:
    """A registry whose data is on that disk."""
    with served(disk) as running:
        yield running


async def fill_with_images(client: httpx2.AsyncClient, repository: str, into: Acknowledged) -> list[int]:
    """Push images until several were refused; return the statuses of the refusals."""
    refusals: list[int] = []
    for number in range(1000):
        sizes = [3 * MEBIBYTE, 400_000, 5_000]
        bodies = [Body(f"{repository} {number} {size}", size) for size in sizes]
        try:
            await push_image(client, repository, f"1.{number}.0", bodies, into)
        except Refused as refused:
            refusals.append(refused.status)
        if len(refusals) == 3:
            break
    return refusals


async def test_a_full_disk_is_507_and_loses_nothing(disk: Path, server: Server) -> None:
    """When concurrent pushes fill the disk, every 201 is stored, and every refused push succeeds later."""
    acknowledged = Acknowledged()
    async with client_of(server.url) as client:
        refusals = await asyncio.gather(*(fill_with_images(client, f"shop/{name}", acknowledged) for name in "abcd"))
        await pull_all(client, acknowledged)
        statuses = {status for each in refusals for status in each}

    assert statuses == {FULL}
    assert len(acknowledged.tags) > 0
    assert (await asyncio.to_thread(fsck, disk))["outcome"] == "holds"


async def test_pushes_succeed_when_there_is_space_again(disk: Path, server: Server) -> None:
    """After space was freed, a refused push succeeds without a restart."""
    acknowledged = Acknowledged()
    bodies = [Body("config", 2_000), Body("layer", 8 * MEBIBYTE)]
    async with client_of(server.url) as client:
        with ballast(disk, leave_bytes=2 * MEBIBYTE), pytest.raises(Refused) as refused:
            await push_image(client, "shop/app", "1.0.0", bodies, acknowledged)
        await push_image(client, "shop/app", "1.0.0", bodies, acknowledged)
        await pull_all(client, acknowledged)

    assert refused.value.status == FULL


async def test_a_refused_chunk_can_be_sent_again(disk: Path, server: Server) -> None:
    """An upload session survives a chunk's refusal, keeps its acknowledged bytes, and continues."""
    first, second = Body("first", MEBIBYTE), Body("second", 6 * MEBIBYTE)
    async with client_of(server.url) as client:
        location = (await client.post("/v2/shop/app/blobs/uploads/")).headers["location"]
        taken = await client.patch(location, content=first.stream())
        with ballast(disk, leave_bytes=2 * MEBIBYTE):
            refused = await client.patch(taken.headers["location"], content=second.stream())
            status = await client.get(taken.headers["location"])
        again = await client.patch(taken.headers["location"], content=second.stream())

    assert taken.status_code == 202
    assert refused.status_code == FULL
    assert refused.json()["errors"][0]["code"] == "BLOB_UPLOAD_INVALID"
    assert status.headers["range"] == f"0-{MEBIBYTE - 1}"
    assert again.status_code == 202
    assert again.headers["range"] == f"0-{7 * MEBIBYTE - 1}"


async def test_a_database_on_a_full_disk_publishes_nothing(disk: Path, server: Server) -> None:
    """If no row fits on the disk, a push gets 507, the tag stays free, pulls work, readiness says so, and a later push succeeds."""
    before, after = Acknowledged(), Acknowledged()
    config, layer = Body("config", 2_000), Body("layer", MEBIBYTE)
    named = [(config.digest, config.size), (layer.digest, layer.size)]
    async with client_of(server.url) as client:
        await push_image(client, "shop/app", "1.0.0", [config, layer], before)
        with ballast(disk):
            refusals = [await refusal_of(client, number, named) for number in range(200)]
            full = (await client.get("/readyz")).json()
            await pull_all(client, before)
        held = [(await client.head(f"/v2/shop/app/manifests/2.{number}.0")).status_code for number in range(200)]
        for number in range(200):
            await put_manifest(client, "shop/app", f"2.{number}.0", annotated(named, number), after)
        await pull_all(client, after)

    assert full["ready"]
    assert refusals[-1] != FULL or "the disk of the registry's database is full" in " ".join(full["warnings"])
    assert FULL in refusals
    assert set(refusals) <= {FULL, 201}
    assert [status == 200 for status in held] == [status == 201 for status in refusals]


def annotated(named: list[tuple[str, int]], number: int) -> bytes:
    """Return a unique manifest that is large enough to need space of its own."""
    return manifest_of(*named)[:-1] + b', "annotations": {"n": "' + b"%d" % number * 4000 + b'"}}'


async def refusal_of(client: httpx2.AsyncClient, number: int, named: list[tuple[str, int]]) -> int:
    """Return the status of publishing one more tag."""
    try:
        await put_manifest(client, "shop/app", f"2.{number}.0", annotated(named, number), Acknowledged())
    except Refused as refused:
        return refused.status
    return 201


async def test_a_restart_needs_free_space(disk: Path) -> None:
    """Without space for SQLite's log the server ends with one error line, and nothing is lost."""
    acknowledged = Acknowledged()
    await push_one_image(disk, acknowledged)
    with ballast(disk), pytest.raises(servers.ServerFailed) as failed:
        await push_one_image(disk, Acknowledged())
    with served(disk) as server:
        async with client_of(server.url) as client:
            await pull_all(client, acknowledged)

    assert "ended with 3" in str(failed.value)
    assert "no space left" in str(failed.value)
    assert "Traceback" not in str(failed.value)


async def push_one_image(data: Path, into: Acknowledged) -> None:
    """Start a server, push an image to it, and end it."""
    with served(data) as server:
        async with client_of(server.url) as client:
            await push_image(client, "shop/app", "1.0.0", [Body("config", 2_000)], into)

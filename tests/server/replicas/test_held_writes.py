"""Writes that are held right before their transaction, while what they have read changes: each looks again inside the transaction.

The race of mounts and garbage collection rarely hits the milliseconds between a read and its transaction. Here another session holds the
lock that every transaction of a server takes first, or the collecting process is stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import psycopg
import pytest

from boltseal.server.storage.metadata.postgres import WRITER_LOCK
from tests.images import Blob, Document, image, push_blob, put
from tests.polling import until
from tests.server.replicas.racing import SERVERS, Racing, RunningServers, racing
from tests.server.replicas.stopped_holder import DONE, holder

pytestmark = [pytest.mark.real, pytest.mark.slow]

WAITING = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND (classid::bigint << 32) + objid::bigint = %s
"""
HIDDEN = """
SELECT b.digest FROM blob b JOIN repository r ON r.id = b.repository_id WHERE r.name = %s AND b.hidden_us IS NOT NULL
"""


class HeldWrites:
    """All transactions of the servers wait, in the order in which they came, until `release`."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        connection.execute("SELECT pg_advisory_lock(%s)", (WRITER_LOCK,))

    def waiting(self) -> int:
        """Return how many transactions wait."""
        row = self._connection.execute(WAITING, (WRITER_LOCK,)).fetchone()
        return 0 if row is None else int(row[0])

    async def until_waiting(self, count: int) -> None:
        """Wait until so many transactions wait."""
        await until(lambda: self.waiting() >= count, f"{count} transactions wait")

    def release(self) -> None:
        """Let the transactions go on."""
        self._connection.execute("SELECT pg_advisory_unlock_all()")


@contextmanager
def held_writes(running: RunningServers) -> Iterator[HeldWrites]:
    """Hold all transactions of the servers."""
    with psycopg.connect(running.registry.database, autocommit=True) as connection:
        yield HeldWrites(connection)


def collected(running: RunningServers) -> None:
    """Collect what other tests have left."""
    with holder(running.registry.settings("replica0"), "collect garbage", None, "spawn") as collector:
        assert collector.result() == DONE


async def checked(running: RunningServers, repository: str, document: Document) -> list[str]:
    """Return what is wrong with an image that all servers must serve with its blobs."""
    async with racing(running, "check") as racers:
        await racers.check_tag(repository, "1.0", document)
        return racers.wrong


async def mount(client: httpx2.AsyncClient, repository: str, blob: Blob, source: str) -> httpx2.Response:
    """Ask for a blob of another repository."""
    return await client.post(f"/v2/{repository}/blobs/uploads/", params={"mount": blob.digest, "from": source})


async def test_a_mount_whose_source_is_deleted_before_its_transaction_gives_nothing(racers: Racing) -> None:
    """The delete of the blob, at another server, is committed between the mount's look at its source and its transaction: 202, no blob."""
    source, target, blob = "races/mount-source", "races/mount-target", Blob(b"deleted before it is mounted")
    first, second, _ = racers.one_of_each
    await push_blob(first, source, blob)
    await second.head(f"/v2/{source}/blobs/{blob.digest}")  # its first request writes the time of the login
    with held_writes(racers.running) as held:
        deleting = asyncio.create_task(first.delete(f"/v2/{source}/blobs/{blob.digest}"))
        await held.until_waiting(1)
        mounting = asyncio.create_task(mount(second, target, blob, source))
        await held.until_waiting(2)
        held.release()
        deleted, mounted = (await deleting).status_code, (await mounting).status_code
    found = [(await client.head(f"/v2/{target}/blobs/{blob.digest}")).status_code for client in racers.one_of_each]

    assert (deleted, mounted) == (202, 202)
    assert found == [404] * SERVERS
    assert await racers.findings() == []


def test_a_blob_that_is_needed_before_its_collection_stays(running_servers: RunningServers) -> None:
    """A collection that has found a blob unused is stopped before it hides it; a manifest refers to it meanwhile: it is not hidden."""
    repository, document = "races/needed", image("needed in time")

    async def push_blobs() -> None:
        async with racing(running_servers, "blobs") as racers:
            for blob in document.blobs:
                await push_blob(racers.clients[0], repository, blob)

    async def push_manifest() -> int:
        async with racing(running_servers, "manifest") as racers:
            return (await put(racers.clients[1], repository, "1.0", document)).status_code

    collected(running_servers)
    asyncio.run(push_blobs())
    with holder(running_servers.registry.settings("replica0"), "collect garbage", "_unused_rows", "spawn") as collector:
        collector.wait_stopped()
        pushed = asyncio.run(push_manifest())
        result = collector.go_on()
    with psycopg.connect(running_servers.registry.database) as connection:
        hidden = connection.execute(HIDDEN, (repository,)).fetchall()

    assert (pushed, result) == (201, DONE)
    assert hidden == []
    assert asyncio.run(checked(running_servers, repository, document)) == []


def test_bytes_that_are_pushed_again_before_their_collection_stay(running_servers: RunningServers) -> None:
    """A collection that has found bytes without a row is stopped before it releases them; they are mounted meanwhile and stay."""
    source, other, document = "races/released", "races/pushed-again", image("pushed again")
    [layer] = document.layers

    async def delete() -> None:
        async with racing(running_servers, "delete") as racers:
            await push_blob(racers.clients[0], source, layer)
            assert (await racers.clients[1].delete(f"/v2/{source}/blobs/{layer.digest}")).status_code == 202

    async def push_again() -> int:
        async with racing(running_servers, "again") as racers:
            for blob in document.blobs:
                await push_blob(racers.clients[0], other, blob)
            return (await put(racers.clients[1], other, "1.0", document)).status_code

    collected(running_servers)
    asyncio.run(delete())
    with holder(running_servers.registry.settings("replica0"), "collect garbage", "_delete", "spawn") as collector:
        collector.wait_stopped()
        pushed = asyncio.run(push_again())
        result = collector.go_on()

    assert (pushed, result) == (201, DONE)
    assert asyncio.run(checked(running_servers, other, document)) == []

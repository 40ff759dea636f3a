"""A full disk of PostgreSQL or of the S3 server: the five statements of `checker` hold during it and afterwards."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import httpx2
import pytest

from tests.polling import until
from tests.server.faults.checker import WITHIN_S, Checker, accepts_pushes
from tests.server.faults.conftest import PROCESSES_END, start_again
from tests.server.faults.installation import installation
from tests.soak.processes import ballast
from tests.storage_servers import ObjectServer, Postgres, postgres, seaweedfs

pytestmark = [pytest.mark.real, pytest.mark.slow]

REFUSED = 4
NOTE_BYTES = 2_000_000


async def test_the_disk_of_postgresql_is_full(
    tmp_path: Path, disk: Path, objects: ObjectServer, object_server: ObjectServer
) -> None:
    """Pushes are refused, nothing is lost, and pushes succeed when there is space, if need be after a start of PostgreSQL."""
    with (
        postgres(settings=PROCESSES_END, inside=disk) as server,
        installation(tmp_path, server.url(server.create_database()), objects, object_server) as installed,
        installed.serve(),
    ):
        checker = Checker(installed)
        async with checker.pushing() as client:
            await checker.some_acknowledged()
            with ballast(disk):
                await push_large_manifests(checker, client)
                ready_without = await accepts_pushes(client)  # single pushes may still find space
            await asyncio.to_thread(start_again, server)
            await checker.until_ready(client)
            await checker.some_acknowledged()
        await checker.check(full=True)

    assert not ready_without


async def push_large_manifests(checker: Checker, client: httpx2.AsyncClient) -> None:
    """Push images whose manifests need more space than PostgreSQL has in reserve, until some were refused."""
    before = len(checker.refusals)
    while len(checker.refusals) < before + REFUSED:
        await checker.push(client, checker.probe(note=os.urandom(NOTE_BYTES // 2).hex()))


async def refused(checker: Checker, more: int = REFUSED) -> None:
    """Wait until so many more pushes were refused."""
    before = len(checker.refusals)
    await until(lambda: len(checker.refusals) >= before + more, f"{more} more pushes are refused", WITHIN_S)


async def test_the_disk_of_the_s3_server_is_full(
    tmp_path: Path, disk: Path, database: Postgres, object_server: ObjectServer
) -> None:
    """Pushes are refused, pulls go on, and pushes succeed when there is space, after a start of the S3 server.

    SeaweedFS keeps the names of objects in several LevelDB folders. One whose journal could not be written once refuses every
    write until SeaweedFS starts again, with the same "no space left" as on the full disk.
    """
    with (
        seaweedfs(inside=disk) as server,
        installation(tmp_path, database.url(database.create_database()), server, object_server) as installed,
        installed.serve(),
    ):
        checker = Checker(installed)
        async with checker.pushing() as client:
            await checker.some_acknowledged()
            with ballast(disk):
                await refused(checker)
                ready_without = await checker.is_ready(client)
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            await checker.until_ready(client)
            await checker.some_acknowledged()
        await checker.check(full=True)

    assert not ready_without

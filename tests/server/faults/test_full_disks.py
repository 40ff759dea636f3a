"""A full disk of PostgreSQL or of the S3 server: the five statements of `checker` hold during it and afterwards."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.polling import until, wait_until
from tests.server.faults.checker import WITHIN_S, Checker, accepts_pushes
from tests.server.faults.conftest import PROCESSES_END
from tests.server.faults.installation import installation
from tests.small_disk import small_disk
from tests.soak.processes import ballast
from tests.storage_servers import ObjectServer, Postgres, postgres, seaweedfs

pytestmark = [pytest.mark.real, pytest.mark.slow]

SIZE = "size=400m"


@pytest.fixture
def disk() -> Iterator[Path]:
    """A small file system that every user may read, with a short path because of sockets."""
    with tempfile.TemporaryDirectory(prefix="disk-") as outer:
        Path(outer).chmod(0o755)
        with small_disk(Path(outer) / "d", SIZE) as folder:
            folder.chmod(0o777)
            yield folder


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
                await refused(checker)
                ready_without = await accepts_pushes(client)  # single pushes still find space
            await asyncio.to_thread(start_again, server)
            await checker.until_ready(client)
            await checker.some_acknowledged()
        await checker.check(full=True)

    assert not ready_without


async def refused(checker: Checker, more: int = 4) -> None:
    """Wait until so many more pushes were refused."""
    before = len(checker.refusals)
    await until(lambda: len(checker.refusals) >= before + more, f"{more} more pushes are refused", WITHIN_S)


def start_again(server: Postgres) -> None:
    """Start a PostgreSQL that has ended because it could not write."""
    assert server.process is not None
    if server.process.poll() is not None:
        server.process = None
        server.start()
    wait_until(server.answers, "PostgreSQL takes connections")


async def test_the_disk_of_the_s3_server_is_full(
    tmp_path: Path, disk: Path, database: Postgres, object_server: ObjectServer
) -> None:
    """Pushes are refused, pulls go on, and pushes succeed when there is space."""
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
            await checker.until_ready(client)
            await checker.some_acknowledged()
        await checker.check(full=True)

    assert not ready_without

"""Servers of the fault tests: a PostgreSQL and an S3 server for each module, which it may kill, and installations on them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.polling import wait_until
from tests.server.faults.installation import Installation, installation
from tests.small_disk import small_disk
from tests.storage_servers import ObjectServer, Postgres, postgres, seaweedfs

PROCESSES_END = {"fsync": "off"}
"""The machine does not lose power: what a process wrote is there when it was killed."""
DISK = "size=400m"


@pytest.fixture
def disk() -> Iterator[Path]:
    """A small file system that every user may read, with a short path because of sockets."""
    with tempfile.TemporaryDirectory(prefix="disk-") as outer:
        Path(outer).chmod(0o755)
        with small_disk(Path(outer) / "d", DISK) as folder:
            folder.chmod(0o777)
            yield folder


def start_again(server: Postgres) -> None:
    """Start a PostgreSQL that has ended because it could not write."""
    assert server.process is not None
    if server.process.poll() is not None:
        server.process = None
        server.start()
    wait_until(server.answers, "PostgreSQL takes connections")


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    """A PostgreSQL of this module."""
    with postgres(settings=PROCESSES_END) as server:
        yield server


@pytest.fixture(scope="module")
def objects() -> Iterator[ObjectServer]:
    """An S3 server of this module."""
    with seaweedfs() as server:
        yield server


@pytest.fixture
def installed(
    tmp_path: Path, database: Postgres, objects: ObjectServer, object_server: ObjectServer
) -> Iterator[Installation]:
    """An installation on the servers of this module, with a database and a bucket prefix of its own."""
    with installation(tmp_path, database.url(database.create_database()), objects, object_server) as made:
        yield made

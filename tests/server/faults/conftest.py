"""Servers of the fault tests: a PostgreSQL and an S3 server for each module, which it may kill, and installations on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.faults.installation import Installation, installation
from tests.storage_servers import ObjectServer, Postgres, postgres, seaweedfs

PROCESSES_END = {"fsync": "off"}
"""The machine does not lose power: what a process wrote is there when it was killed."""


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

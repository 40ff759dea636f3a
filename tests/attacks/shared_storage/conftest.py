"""Two servers on PostgreSQL and an S3 server, which redirect pulls of large blobs to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.shared_servers import SharedServers, shared_servers
from tests.storage_servers import ObjectServer, Postgres


@pytest.fixture(scope="package")
def servers(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: Postgres, object_server: ObjectServer
) -> Iterator[SharedServers]:
    """The two servers, for all tests of this folder."""
    name = postgres_server.create_database()
    with shared_servers(
        tmp_path_factory.mktemp("shared"), postgres_server.url(name), object_server, redirect=True
    ) as running:
        yield running
    postgres_server.drop_database(name)

"""Registries for several servers, each on a database and a prefix of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.replicas import GRANTS, Replicas, replicas
from tests.server.replicas.racing import CONFIG, SERVERS, Racing, RunningServers, racing
from tests.storage_servers import ObjectServer, Postgres


@pytest.fixture
def registry(tmp_path: Path, new_database: Callable[[], str], object_server: ObjectServer) -> Iterator[Replicas]:
    """A registry on which no server runs yet."""
    with replicas(tmp_path, new_database(), object_server) as prepared:
        yield prepared


@pytest.fixture(scope="module")
def shared_registry(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: Postgres,
    schema_template: str,
    object_server: ObjectServer,
) -> Iterator[Replicas]:
    """A registry that the tests of one file share, in which clients log in."""
    name = postgres_server.create_database(schema_template)
    folder = tmp_path_factory.mktemp("replicas")
    with replicas(folder, postgres_server.url(name), object_server, GRANTS) as prepared:
        yield prepared
    postgres_server.drop_database(name)


@pytest.fixture(scope="module")
def running_servers(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: Postgres,
    schema_template: str,
    object_server: ObjectServer,
) -> Iterator[RunningServers]:
    """Three servers of a registry, which the tests of one file share."""
    name = postgres_server.create_database(schema_template)
    folder = tmp_path_factory.mktemp("racing")
    with (
        replicas(folder, postgres_server.url(name), object_server, CONFIG) as registry,
        registry.serving(SERVERS) as servers,
    ):
        running = RunningServers(registry, servers)
        running.add_user("boss")
        yield running
    postgres_server.drop_database(name)


@pytest.fixture
async def racers(running_servers: RunningServers, request: pytest.FixtureRequest) -> AsyncIterator[Racing]:
    """Sixteen clients of three servers, whose user is an administrator."""
    async with racing(running_servers, request.node.name) as clients:
        yield clients

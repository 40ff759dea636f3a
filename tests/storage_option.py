"""The option `--storage`, and the PostgreSQL and S3 servers of a test run.

    --storage=sqlite         SQLite and files in the data folder (the default)
    --storage=postgres       a database in PostgreSQL, files
    --storage=s3             SQLite, blobs and the ledger's tiles and mark on an S3 server
    --storage=postgres+s3    both on servers; the mark too

`tests.storage_choice` gives each data folder its part of the servers: in registries inside the tests' process (`tests.serving`,
`tests.bare_registry`), in servers (`tests.servers.boltseal`) and in commands (`tests.cli.program`) with `--data`.

    --s3-server=radosgw      Ceph's S3 server instead of SeaweedFS, also without --storage

With `--storage` all workers of a run share the servers, which the process that began the run starts and ends. Without it a worker
starts those that its tests ask for. They do not wait for the disk: tests that kill a server start one of their own.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Final

import pytest

from boltseal.server.storage.metadata.postgres_schema import prepare_database
from boltseal.server.storage_settings import DatabaseUrl
from tests.storage_choice import STORAGE, chosen_servers, drop_database
from tests.storage_servers import ACCESS_KEY, SECRET_KEY, ObjectServer, Postgres, postgres, radosgw, seaweedfs

MEMORY: Final = Path("/dev/shm")
S3_SERVERS: Final = {"seaweedfs": seaweedfs, "radosgw": radosgw}
CHOSEN_BY_TEST: Final = frozenset({"postgres_server", "schema_template", "new_database", "object_server"})
"""Fixtures of tests that are the same with every `--storage`, so `make test` or `make test-storage` runs them."""
_ENDS: Final = pytest.StashKey[ExitStack]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--storage",
        choices=["sqlite", "postgres", "s3", "postgres+s3"],
        default="sqlite",
        help="storage of registries in tests",
    )
    parser.addoption(
        "--s3-server",
        choices=[*S3_SERVERS],
        default="seaweedfs",
        help="S3 server of tests; radosgw: for objects of at most 5 MiB",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "files_only(reason): about SQLite or files in the data folder; left out with another --storage"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With another storage leave out tests about SQLite or files, with their reason, and those that choose theirs themselves."""
    if config.getoption("--storage") == "sqlite":
        return
    chosen = [item for item in items if CHOSEN_BY_TEST.isdisjoint(getattr(item, "fixturenames", ()))]
    config.hook.pytest_deselected(items=[item for item in items if item not in {*chosen}])
    items[:] = chosen
    for item in items:
        marker = item.get_closest_marker("files_only")
        if marker is not None:
            item.add_marker(pytest.mark.skip(reason=f"with SQLite and files only: {marker.args[0]}"))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Start the servers that `--storage` says, in the process that starts the workers, which inherit the variables."""
    config = session.config
    chosen = config.getoption("--storage").split("+")
    if hasattr(config, "workerinput") or chosen == ["sqlite"] or config.option.collectonly:
        return
    ends = config.stash[_ENDS] = ExitStack()
    servers: dict[str, str] = {}
    if "postgres" in chosen:
        database = ends.enter_context(_shared_postgres())
        servers |= {"postgres": database.url("").rstrip("/"), "template": _with_schema(database)}
    if "s3" in chosen:
        objects = ends.enter_context(_s3_server(config))
        key = objects.folder / "mark.key"
        key.write_text(f"{ACCESS_KEY}\n{SECRET_KEY}\n")
        servers |= {
            "endpoint": objects.endpoint,
            "access_key_file": str(key),
            "key_id": ACCESS_KEY,
            "secret": SECRET_KEY,
        }
    patch = ends.enter_context(pytest.MonkeyPatch.context())
    patch.setenv(STORAGE, json.dumps(servers))
    patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Drop the databases of the data folders that a test made below its own folder."""
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if folder is not None and "postgres" in chosen_servers():
        for pattern in ("*.database", "*/*.database"):
            for file in folder.glob(pattern):
                drop_database(file.with_suffix(""))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End the servers of the run."""
    config.stash.get(_ENDS, ExitStack()).close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """The PostgreSQL of the run or of this process; each test makes a database of its own in it, and none ends it."""
    servers = chosen_servers()
    if "postgres" in servers:
        yield Postgres((), int(servers["postgres"].rpartition(":")[2]), Path(), signal.SIGINT)
        return
    with _shared_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def schema_template(postgres_server: Postgres) -> str:
    """A database with boltseal's schema, of which copies are made, since that takes less time than creating the tables."""
    return _with_schema(postgres_server)


@pytest.fixture
def new_database(postgres_server: Postgres, schema_template: str) -> Iterator[Callable[[], str]]:
    """Return the address of a new database with boltseal's schema at each call; they are dropped at the end of the test."""
    names: list[str] = []

    def create() -> str:
        names.append(postgres_server.create_database(schema_template))
        return postgres_server.url(names[-1])

    yield create
    for name in names:
        postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def object_server(request: pytest.FixtureRequest) -> Iterator[ObjectServer]:
    """The S3 server of the run or of this process; each test uses a prefix of its own in its bucket, and none ends it."""
    servers = chosen_servers()
    if "endpoint" in servers:
        yield ObjectServer((), int(servers["endpoint"].rpartition(":")[2]), Path(), signal.SIGTERM)
        return
    with _s3_server(request.config) as server:
        yield server


def _s3_server(config: pytest.Config) -> AbstractContextManager[ObjectServer]:
    return S3_SERVERS[config.getoption("--s3-server")](inside=_memory())


def _shared_postgres() -> AbstractContextManager[Postgres]:
    return postgres(settings={"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}, inside=_memory())


def _with_schema(server: Postgres) -> str:
    name = server.create_database()
    prepare_database(DatabaseUrl(server.url(name)))
    return name


def _memory() -> Path | None:
    """Return a folder in memory, where the machine has a file system for that."""
    return MEMORY if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) else None

"""A registry while its PostgreSQL is killed, restarted, replaced by its standby, or reached through a pooler."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx2
import psycopg
import pytest

from boltseal.server.storage.blobs.local_store import LocalBlobs
from boltseal.server.storage.fsck import examine
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata_factory import open_snapshot
from boltseal.server.storage_settings import DatabaseUrl, MarkSettings, StorageSettings
from boltseal.server.store_factory import prepare
from tests.images import image, push
from tests.polling import until_answer, wait_until
from tests.ports import free_port
from tests.programs import program
from tests.serving import Serving, serving_as, settings_of
from tests.storage_servers import Postgres, StorageServer, postgres, postgres_programs, unprivileged

pytestmark = [pytest.mark.real, pytest.mark.slow]

SETTINGS = {"fsync": "off"}  # the machine does not lose power, only processes end


@dataclass
class Pushes:
    """Sealed tags whose pushes were acknowledged, with their digests."""

    acknowledged: dict[str, str] = field(default_factory=dict)

    async def push(self, client: httpx2.AsyncClient, tag: str) -> None:
        """Push an image of one's own to a sealed tag, once."""
        document = image(tag)
        try:
            answer = await push(client, "shop/app", tag, document)
        except AssertionError:  # a blob was refused
            return
        if answer.status_code == 201:
            self.acknowledged[tag] = document.digest

    async def push_many(self, client: httpx2.AsyncClient, name: str, count: int) -> None:
        """Push many tags, four at a time."""
        for start in range(0, count, 4):
            tags = [f"1.{name}.{number}" for number in range(start, min(start + 4, count))]
            await asyncio.gather(*(self.push(client, tag) for tag in tags))


def storage_on(url: str, direct: str | None = None) -> StorageSettings:
    """Return the settings of a database. `direct`: its address past a pooler."""
    return StorageSettings(
        database=DatabaseUrl(url),
        database_direct=None if direct is None else DatabaseUrl(direct),
        mark=MarkSettings(single_replica=True),
    )


async def is_ready(registry: Serving) -> bool:
    return (await registry.client.get("/readyz")).status_code == 200


async def check(registry: Serving, pushes: Pushes, storage: StorageSettings) -> None:
    """Check that every acknowledged tag resolves to its digest, and that rows, bytes and ledger are consistent."""
    await until_answer(lambda: is_ready(registry), "the registry is ready")
    for tag, digest in pushes.acknowledged.items():
        answer = await registry.client.head(f"/v2/shop/app/manifests/{tag}")
        assert answer.headers["docker-content-digest"] == digest
        moved = await push(registry.client, "shop/app", tag, image(f"other {tag}"))
        assert moved.status_code == 409
        again = await registry.client.head(f"/v2/shop/app/manifests/{tag}")
        assert again.headers["docker-content-digest"] == digest
    with contextlib.closing(LocalBlobs(registry.data)) as blobs:
        assert not examine(open_snapshot(registry.data, storage), blobs.maintenance).findings
    with open_snapshot(registry.data, storage) as snapshot:
        lines = [tuple(each) for each in ledger_store.lines(snapshot)]
    assert [index for index, _ in lines] == list(range(len(lines)))


@contextlib.asynccontextmanager
async def registry_on(data: Path, storage: StorageSettings) -> AsyncIterator[Serving]:
    """Run a registry whose metadata is in a database."""
    settings = settings_of(data).model_copy(update={"storage": storage})
    prepare(settings)
    async with serving_as(settings) as registry:
        yield registry


async def test_a_killed_server_is_used_again_when_it_runs(tmp_path: Path) -> None:
    """PostgreSQL is killed amid pushes: meanwhile the registry is not ready, later every 201 is true and pushes succeed."""
    pushes = Pushes()
    with postgres(settings=SETTINGS) as server:
        storage = storage_on(server.url(server.create_database()))
        async with registry_on(tmp_path / "data", storage) as registry:
            for round_ in range(2):
                pushing = asyncio.create_task(pushes.push_many(registry.client, str(round_), 12))
                before = len(pushes.acknowledged)
                await until_answer(partial(some_more, pushes, before), "a push is acknowledged")
                server.kill()
                ready_without = await is_ready(registry)
                server.start()
                wait_until(server.answers, "PostgreSQL takes connections")
                await pushing
                assert not ready_without
            await pushes.push_many(registry.client, "last", 2)
            await check(registry, pushes, storage)

    assert {"1.last.0", "1.last.1"} <= pushes.acknowledged.keys()


async def some_more(pushes: Pushes, before: int) -> bool:
    return len(pushes.acknowledged) > before


@contextlib.contextmanager
def pooler(server: Postgres, folder: Path) -> Iterator[StorageServer]:
    """Run pgbouncer in transaction mode before a PostgreSQL, with fewer connections than the registry opens."""
    port = free_port()
    folder.mkdir()
    folder.chmod(0o777)
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port} user=boltseal\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 2\n"
        "server_login_retry = 1\n"
    )
    running = StorageServer([*unprivileged(), program("pgbouncer"), str(config)], port, folder, signal.SIGINT)
    running.start()
    try:
        yield running
    finally:
        running.stop()


async def test_a_pooler_in_transaction_mode_may_stand_between(server_folder: Path, tmp_path: Path) -> None:
    """Through pgbouncer pushes and pulls succeed, also after PostgreSQL was killed, and every 201 is true."""
    pushes = Pushes()
    with postgres(settings=SETTINGS) as server, pooler(server, server_folder / "pool") as between:
        name = server.create_database()
        storage = storage_on(f"postgresql://boltseal@127.0.0.1:{between.port}/{name}", server.url(name))
        async with registry_on(tmp_path / "data", storage) as registry:
            await pushes.push_many(registry.client, "one", 8)
            assert len(pushes.acknowledged) == 8
            pushing = asyncio.create_task(pushes.push_many(registry.client, "two", 12))
            await until_answer(lambda: some_more(pushes, 8), "a push is acknowledged")
            server.kill()
            server.start()
            wait_until(server.answers, "PostgreSQL takes connections")
            await pushing
            await until_answer(lambda: is_ready(registry), "the registry is ready")
            await pushes.push_many(registry.client, "last", 1)
            await check(registry, pushes, storage)

    assert "1.last.0" in pushes.acknowledged


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """A folder that an unprivileged server can read."""
    folder = Path(tempfile.mkdtemp(prefix="boltseal-pool-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def standby(server: Postgres) -> Iterator[Postgres]:
    """Run a synchronous standby of a PostgreSQL."""
    folder, port = server.folder / "standby", free_port()
    conninfo = f"host=127.0.0.1 port={server.port} user=boltseal application_name=s1"
    subprocess.run(
        [*unprivileged(), str(postgres_programs() / "pg_basebackup"), "-D", str(folder), "-d", conninfo, "-R", "-X", "stream",
         "-C", "-S", "s1"],
        check=True, capture_output=True,
    )  # fmt: skip
    argv = [*server.argv[: server.argv.index("-D") + 1], str(folder), *server.argv[server.argv.index("-D") + 2 :]]
    argv = [f"--port={port}" if each.startswith("--port=") else each for each in argv]
    running = Postgres(argv, port, server.folder, signal.SIGINT)
    running.start()
    try:
        wait_until(running.answers, "the standby takes connections")
        server.execute("ALTER SYSTEM SET synchronous_standby_names = 's1'")
        server.execute("SELECT pg_reload_conf()")
        wait_until(lambda: is_synchronous(server), "the standby is synchronous")
        yield running
    finally:
        running.stop()


def is_synchronous(server: Postgres) -> bool:
    with psycopg.connect(server.url("postgres")) as connection:
        return connection.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'").fetchone() is not None


async def test_a_failover_to_a_synchronous_standby_loses_no_acknowledged_push(tmp_path: Path) -> None:
    """PostgreSQL is killed amid pushes and its standby promoted: the registry uses it, and every 201 is true there."""
    pushes = Pushes()
    with postgres(settings=SETTINGS) as server, standby(server) as second:
        name = server.create_database()
        storage = storage_on(f"postgresql://boltseal@127.0.0.1:{server.port},127.0.0.1:{second.port}/{name}")
        async with registry_on(tmp_path / "data", storage) as registry:
            pushing = asyncio.create_task(pushes.push_many(registry.client, "one", 16))
            await until_answer(lambda: some_more(pushes, 2), "pushes are acknowledged")
            server.kill()
            ready_without = await is_ready(registry)
            second.execute("SELECT pg_promote()")
            second.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
            second.execute("SELECT pg_reload_conf()")
            await pushing
            await until_answer(lambda: is_ready(registry), "the registry is ready")
            await pushes.push_many(registry.client, "last", 1)
            await check(registry, pushes, storage)

    assert not ready_without
    assert "1.last.0" in pushes.acknowledged

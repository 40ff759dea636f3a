"""Another PostgreSQL than before: a promoted standby, and one behind a pooler that was started again."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.pgbouncer import pgbouncer
from tests.polling import wait_until
from tests.ports import free_port
from tests.server.faults.checker import Checker
from tests.server.faults.conftest import PROCESSES_END
from tests.server.faults.installation import installation
from tests.storage_servers import ObjectServer, Postgres, postgres, postgres_programs, unprivileged

pytestmark = [pytest.mark.real, pytest.mark.slow]


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
    running = Postgres(argv, port, server.folder, server.ends_with)
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


def promote(second: Postgres) -> None:
    """Let a standby take writes without a standby of its own."""
    second.execute("SELECT pg_promote()")
    second.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
    second.execute("SELECT pg_reload_conf()")


async def test_a_failover_to_a_synchronous_standby(
    tmp_path: Path, objects: ObjectServer, object_server: ObjectServer
) -> None:
    """PostgreSQL is killed amid pushes and its standby promoted, which the registry uses from then on."""
    with postgres(settings=PROCESSES_END) as server, standby(server) as second:
        url = f"postgresql://boltseal@127.0.0.1:{server.port},127.0.0.1:{second.port}/{server.create_database()}"
        with installation(tmp_path, url, objects, object_server) as installed, installed.serve():
            checker = Checker(installed)
            async with checker.pushing() as client:
                await checker.some_acknowledged()
                server.kill()
                ready_without = await checker.is_ready(client)
                await asyncio.to_thread(promote, second)
                await checker.until_ready(client)
                await checker.some_acknowledged()
            await checker.check()

    assert not ready_without


async def test_a_pooler_in_transaction_mode(
    tmp_path: Path, database: Postgres, objects: ObjectServer, object_server: ObjectServer
) -> None:
    """Behind pgbouncer, with two connections for all, PostgreSQL is killed and started again amid pushes."""
    name = database.create_database()
    with (
        pgbouncer(database, name, connections=2) as url,
        installation(tmp_path, url, objects, object_server, direct=database.url(name)) as installed,
        installed.serve(),
    ):
        checker = Checker(installed)
        async with checker.pushing() as client:
            await checker.some_acknowledged()
            database.kill()
            ready_without = await checker.is_ready(client)
            database.start()
            await asyncio.to_thread(wait_until, database.answers, "PostgreSQL takes connections")
            await checker.until_ready(client)
            await checker.some_acknowledged()
        await checker.check()

    assert not ready_without

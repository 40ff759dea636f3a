"""Another PostgreSQL than before: a promoted standby, one behind a pooler, and an older copy of the database."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.cli import program
from tests.pgbouncer import pgbouncer
from tests.polling import until_answer, until_signed, wait_until
from tests.server.faults.checker import COMMAND_S, Checker
from tests.server.faults.conftest import PROCESSES_END
from tests.server.faults.installation import LOGIN, Installation, installation
from tests.soak.traffic import OCI_MANIFEST, client_of
from tests.standby import promote, standby
from tests.storage_servers import ObjectServer, Postgres, postgres

pytestmark = [pytest.mark.real, pytest.mark.slow]


async def test_a_failover_to_a_synchronous_standby(
    tmp_path: Path, objects: ObjectServer, object_server: ObjectServer
) -> None:
    """PostgreSQL is killed amid pushes and its standby promoted, which the registry uses from then on."""
    with postgres(settings=PROCESSES_END) as server, standby(server, settings=PROCESSES_END) as second:
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


@contextlib.contextmanager
def stopped(server: Postgres) -> Iterator[Path]:
    """End a PostgreSQL in order, yield its folder, and start it again."""
    server.stop()
    yield server.folder / "data"
    server.start()
    wait_until(server.answers, "PostgreSQL takes connections")


async def test_a_database_that_is_set_back(tmp_path: Path, objects: ObjectServer, object_server: ObjectServer) -> None:
    """PostgreSQL comes back as of yesterday under a running registry: pulls go on, nothing is written, deleted or forgotten.

    The sealed tags that are missing can't get another image. When today's database is back, everything is as before.
    """
    with postgres(settings=PROCESSES_END) as server:
        url, kept = server.url(server.create_database()), server.folder / "kept"
        with installation(tmp_path, url, objects, object_server) as installed, installed.serve():
            checker = Checker(installed)
            async with checker.pushing():
                await checker.some_acknowledged()
            await checker.check()
            yesterday = dict(checker.acknowledged.tags)
            with stopped(server) as data:
                kept.mkdir()
                copy_owned(data, kept / "yesterday")
            async with client_of(installed.url) as client:
                await checker.until_ready(client)
                async with checker.pushing():
                    await checker.some_acknowledged()
                await until_signed(client, await size_of_ledger(server, url))
                with stopped(server) as data:
                    data.rename(kept / "today")
                    copy_owned(kept / "yesterday", data)

                async def is_known() -> bool:
                    return "it is an old copy" in (await client.get("/readyz")).text

                await until_answer(is_known, "readiness states that the database is an old copy")
                await look_at_old_copy(checker, installed, yesterday)
                with stopped(server) as data:
                    shutil.rmtree(data)
                    (kept / "today").rename(data)
                await checker.until_ready(client)
            await checker.check()


async def size_of_ledger(server: Postgres, url: str) -> int:
    """Return how many entries the database has."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT size FROM ledger_head").fetchone()
    assert row is not None
    return int(row[0])


def copy_owned(source: Path, target: Path) -> None:
    """Copy a folder of PostgreSQL with its owner."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


async def look_at_old_copy(checker: Checker, installed: Installation, yesterday: dict[tuple[str, str], bytes]) -> None:
    """Pull yesterday's tags, and push today's with another image, which is refused; garbage collection deletes nothing."""
    async with client_of(installed.url) as client:
        for (repository, tag), manifest in yesterday.items():
            answer = await client.get(f"/v2/{repository}/manifests/{tag}", headers={"accept": OCI_MANIFEST})
            assert answer.content == manifest
        for (repository, tag), manifest in list(checker.acknowledged.tags.items()):
            other = manifest + b"\n"  # another digest
            answer = await client.put(
                f"/v2/{repository}/manifests/{tag}", content=other, headers={"content-type": OCI_MANIFEST}
            )
            assert answer.status_code in (409, 503), f"{repository}:{tag}: {answer.status_code} {answer.text}"
        assert not await checker.is_ready(client)
    asked = ("admin", "gc", "--yes", "--config", installed.config_file, "--data", installed.data)
    done = await asyncio.to_thread(program.run, *asked, environment=LOGIN, timeout_s=COMMAND_S)
    assert done.code == 3, done.out + done.err
    checker.refused.clear()
    checker.refusals.clear()

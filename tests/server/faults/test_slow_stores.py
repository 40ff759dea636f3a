"""Two seconds of latency to PostgreSQL or to the S3 server: the five statements of `checker` hold during it and afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.object_faults import Fault, no_fault
from tests.server.faults.checker import Checker
from tests.server.faults.delaying_proxy import DelayingProxy, delaying_proxy
from tests.server.faults.installation import Installation, installation
from tests.soak.scale import IS_FULL
from tests.storage_servers import ObjectServer, Postgres

pytestmark = [pytest.mark.real, pytest.mark.slow]

LATENCY_S = 2.0
SLOW_FOR_S = 120.0 if IS_FULL else 12.0


@pytest.fixture
def proxy(database: Postgres) -> Iterator[DelayingProxy]:
    """A proxy in front of PostgreSQL."""
    with delaying_proxy(database.port) as running:
        yield running


async def test_each_request_to_the_s3_server_takes_two_seconds(installed: Installation) -> None:
    """Pushes succeed, and the registry stays ready."""
    checker = Checker(installed)
    with installed.serve():
        async with checker.pushing() as client:
            await checker.some_acknowledged()
            installed.proxy.plan = lambda _method, _path: Fault.LATE
            ready = await checker.is_ready(client)
            await checker.some_acknowledged(20 if IS_FULL else 2)
            installed.proxy.plan = no_fault
        refusals = list(checker.refusals)
        await checker.check()

    assert ready
    assert not refusals


async def test_each_round_trip_to_postgresql_takes_two_seconds(
    tmp_path: Path, database: Postgres, proxy: DelayingProxy, objects: ObjectServer, object_server: ObjectServer
) -> None:
    """What takes too long is refused with 503 and not done; a round trip later the registry is as it was."""
    name = database.create_database()
    through = f"postgresql://boltseal@127.0.0.1:{proxy.port}/{name}"
    with installation(tmp_path, through, objects, object_server) as installed, installed.serve():
        checker = Checker(installed)
        async with checker.pushing() as client:
            await checker.some_acknowledged()
            proxy.delay_s = LATENCY_S
            ready = [await checker.is_ready(client)]
            await asyncio.sleep(SLOW_FOR_S)  # how long the database is slow
            ready.append(await checker.is_ready(client))
            proxy.delay_s = 0.0
            await checker.until_ready(client)
            await checker.some_acknowledged()
        await checker.check()

    assert len(set(ready)) == 1

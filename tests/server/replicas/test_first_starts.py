"""Servers of one registry that start at the same time on an empty database, an empty bucket and an empty folder of keys."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from tests.images import image, meaning, push
from tests.polling import until_signed
from tests.replicas import replicas
from tests.soak.scale import IS_FULL
from tests.storage_servers import ObjectServer

pytestmark = [pytest.mark.real, pytest.mark.slow]

SERVERS = 3
ROUNDS = 20 if IS_FULL else 3
APP = "shop/app"


async def test_servers_that_start_at_once_are_one_registry(
    tmp_path: Path, new_database: Callable[[], str], object_server: ObjectServer
) -> None:
    """Each server becomes ready, and a push to any of them is signed and found at all."""
    for number in range(ROUNDS):
        with (
            replicas(tmp_path / str(number), new_database(), object_server) as registry,
            ExitStack() as stack,
            ThreadPoolExecutor(SERVERS) as pool,
        ):
            made = [registry.serve(f"replica{each}") for each in range(SERVERS)]
            started = list(pool.map(stack.enter_context, made))
            for each, server in enumerate(started):
                async with httpx2.AsyncClient(base_url=server.url, timeout=60.0) as client:
                    answer = await push(client, APP, f"1.0.{each}", image(f"{each}"))
                    assert answer.status_code == 201, answer.text
            for server in started:
                async with httpx2.AsyncClient(base_url=server.url, timeout=60.0) as client:
                    found = [await meaning(client, APP, f"1.0.{each}") for each in range(SERVERS)]
                    await until_signed(client, SERVERS + 1)
                    assert found == [image(f"{each}").digest for each in range(SERVERS)]

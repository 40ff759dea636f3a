"""SIGKILL at random moments under concurrent pushes, repeatedly: acknowledged images are complete."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import httpx2
import pytest

from tests import servers
from tests.soak.processes import fsck, kill_tree
from tests.soak.scale import KILLS
from tests.soak.traffic import Acknowledged, Body, client_of, pull_all, push_image

pytestmark = pytest.mark.slow

PUSHERS = 8


@pytest.mark.parametrize("workers", [1, 2])
async def test_every_acknowledged_push_survives_every_kill(tmp_path: Path, workers: int) -> None:
    """After each kill `admin fsck` has no findings, and at the end every acknowledged image can be pulled."""
    data = tmp_path / "data"
    acknowledged = Acknowledged()
    dice = random.Random(workers)  # noqa: S311 - not for secrets
    for number in range(KILLS):
        before = len(acknowledged.tags)
        with servers.boltseal(data, workers=workers) as server:
            await push_until_killed(server, number, dice.uniform(0.3, 2.0), acknowledged)
        report = await asyncio.to_thread(fsck, data)
        assert report["outcome"] == "holds", report
        assert len(acknowledged.tags) > before, "nothing was acknowledged before this kill"
    with servers.boltseal(data, workers=workers) as server:
        async with client_of(server.url) as client:
            await pull_all(client, acknowledged)


async def push_until_killed(server: servers.Server, number: int, after_s: float, into: Acknowledged) -> None:
    """Push concurrently to a server and kill it meanwhile, later if the machine is too slow for one push."""
    first = asyncio.Event()
    async with client_of(server.url) as client:
        pushes = [
            asyncio.create_task(push_on(client, f"shop/app{each}", number, into, first)) for each in range(PUSHERS)
        ]
        await asyncio.sleep(after_s)  # the moment of the kill, at random
        async with asyncio.timeout(60):
            await first.wait()
        await asyncio.to_thread(kill_tree, server.pid)
        await asyncio.gather(*pushes)


async def push_on(
    client: httpx2.AsyncClient, repository: str, number: int, into: Acknowledged, first: asyncio.Event
) -> None:
    """Push image after image with a shared blob until the server is gone; `first` is called at the first one."""
    dice = random.Random(f"{repository} {number}")  # noqa: S311 - not for secrets
    for image in range(10_000):
        sizes = [dice.choice([0, 100, 4096, 300_000, 2_500_000]) for _ in range(dice.randrange(1, 4))]
        bodies = [Body(f"{repository} {number} {image} {each}", size) for each, size in enumerate(sizes)]
        bodies.append(Body(f"shared by all {number} {image}", 50_000))
        try:
            await push_image(client, repository, f"{number}.{image}.0", bodies, into)
        except httpx2.TransportError:
            return
        first.set()

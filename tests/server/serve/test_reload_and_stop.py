"""A server that stops while it reloads its configuration."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from boltseal.server.app import Application
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from tests.serving import FLOATING, serving, settings_of


async def test_a_stopping_server_waits_for_every_reload(tmp_path: Path) -> None:
    """A stopping server waits for every reload, also for an earlier one that can't write the new rules yet."""
    data = tmp_path / "data"
    newer = settings_of(data, FLOATING)
    before = asyncio.all_tasks()
    async with serving(data) as registry:
        assert isinstance(registry.app, Application)
        with closing(sqlite3.connect(data / DATABASE_NAME, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(2):
                registry.app._begin_reload(lambda: newer)
                await asyncio.sleep(0.05)
            asyncio.get_running_loop().call_later(0.5, other.rollback)
            ended = asyncio.get_running_loop().create_task(asyncio.sleep(0.6))
            reloads = {task for task in asyncio.all_tasks() - before if "_reload_after" in repr(task.get_coro())}
            await asyncio.sleep(0)
            stopping = registry.app._reloading
            assert stopping is not None
            stopping.cancel()
            await asyncio.wait([stopping])
            left = {task for task in reloads if not task.done()}
            await ended

    assert len(reloads) == 2
    assert left == set()

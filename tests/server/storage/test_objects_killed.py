"""Kills of the server's process and of the object store in the middle of pushes: every acknowledged blob is whole afterwards."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest

from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs.object_upkeep import ObjectUpkeep
from boltseal.server.storage.metadata.migrate import prepare_data
from tests.object_stores import ObjectStore, now_us, object_store
from tests.polling import wait_until
from tests.server.storage import object_pusher
from tests.storage_servers import ObjectServer, seaweedfs

pytestmark = pytest.mark.slow

DAY_US = 24 * 3600 * 1_000_000
KILLS = 25 if os.environ.get("TEST_SCALE") == "full" else 3
PREFIX = "killed"


@pytest.fixture(scope="module")
def own_server() -> Iterator[ObjectServer]:
    """An S3 server of this module, which it may kill."""
    with seaweedfs() as server:
        yield server


def start_pusher(data: Path, server: ObjectServer, prefix: str, seed: int) -> subprocess.Popen[str]:
    """Start a process that pushes until it is killed, from this process's sources."""
    return subprocess.Popen(
        [sys.executable, object_pusher.__file__, str(data), server.endpoint, prefix, str(seed)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def acknowledged_by(process: subprocess.Popen[str], first: str) -> dict[str, int]:
    """Kill a process, and return the blobs that it had printed."""
    process.kill()
    lines = (first + process.communicate()[0]).splitlines(keepends=True)
    return {line.split()[0]: int(line.split()[1]) for line in lines if line.startswith("sha") and line.endswith("\n")}


def check(store: ObjectStore, acknowledged: dict[str, int]) -> None:
    """Delete, as two days later, what no row names; then assert that blobs are whole, and that nothing else is left."""
    assert isinstance(store.blobs.upkeep, ObjectUpkeep)
    for upload in store.blobs.upload_cleanup.abandoned(2**62):
        assert store.blobs.upload_cleanup.discard(upload, 2**62)
    store.blobs.upkeep.join_objects()
    store.blobs.upkeep.delete_dead(now_us() + 2 * DAY_US)
    found = {str(blob.digest): blob.size for blob in store.blobs.maintenance.walk()}
    broken = [
        blob.digest
        for blob in store.blobs.maintenance.walk()
        if Digest.of(b"".join(store.blobs.maintenance.scan(blob.digest)), blob.digest.algorithm) != blob.digest
    ]
    objects = [each["path"] for page in obstore.list(store.bucket, "blobs/") for each in page]

    assert acknowledged.items() <= found.items()
    assert broken == []
    assert len(objects) == len(found)  # without a list of the store: every object had a row before it was written


def wait_for_writers(store: ObjectStore) -> None:
    """Wait until the time of the killed requests is over, so that their sessions are abandoned."""
    wait_until(
        lambda: all(
            store.blobs.upload_cleanup.discard(upload, 2**62) for upload in store.blobs.upload_cleanup.abandoned(2**62)
        ),
        "no killed request is the writer of its session any more",
        60,
    )


def test_a_killed_process_loses_nothing_that_it_acknowledged(own_server: ObjectServer, tmp_path: Path) -> None:
    """After a kill of the pushing process at any moment, acknowledged blobs are whole, also after the cleanup."""
    prefix, data = f"{PREFIX}-process", tmp_path / "data"
    prepare_data(data)
    acknowledged: dict[str, int] = {}
    dice = random.Random(0)  # noqa: S311 - not for secrets
    for seed in range(KILLS):
        process = start_pusher(data, own_server, prefix, seed)
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(dice.uniform(0.2, 1.5))  # the moment of the kill, at random
        acknowledged |= acknowledged_by(process, first)
    with object_store(own_server, data, prefix=prefix) as store:
        wait_for_writers(store)
        check(store, acknowledged)

    assert len(acknowledged) >= KILLS


async def test_a_killed_object_store_loses_nothing_that_was_acknowledged(
    own_server: ObjectServer, tmp_path: Path
) -> None:
    """While the S3 server is killed and started again, blobs that were acknowledged stay whole, and readiness is right."""
    prefix, data = f"{PREFIX}-server", tmp_path / "data"
    prepare_data(data)
    process = start_pusher(data, own_server, prefix, 7)
    assert process.stdout is not None
    first = process.stdout.readline()
    dice = random.Random(1)  # noqa: S311 - not for secrets
    troubles: list[bool] = []
    with object_store(own_server, data, prefix=prefix) as store:
        assert store.blobs.upkeep is not None
        for _ in range(KILLS):
            await asyncio.sleep(dice.uniform(0.2, 1.5))  # the moment of the kill, at random
            own_server.kill()
            troubles.append(await store.blobs.upkeep.trouble() is not None)
            own_server.start()
            wait_until(own_server.answers, "the S3 server stores objects again", 60)
            troubles.append(await store.blobs.upkeep.trouble() is None)
        acknowledged = acknowledged_by(process, first)
        wait_for_writers(store)
        check(store, acknowledged)

    assert len(acknowledged) >= KILLS
    assert all(troubles)

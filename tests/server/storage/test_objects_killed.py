"""Kills of the server's process and of the object store in the middle of pushes: every acknowledged blob is whole afterwards."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import obstore
import pytest

from boltseal.oci.digest import Digest
from boltseal.server.storage.blobs.object_upkeep import HEALTH_FOR_S, ObjectUpkeep
from boltseal.server.storage.blobs.protocol import StoreUpkeep
from boltseal.server.storage.metadata.migrate import prepare_data
from tests.object_stores import ObjectStore, now_us, object_store
from tests.polling import until_answer, wait_until
from tests.server.storage import object_pusher
from tests.soak.scale import IS_FULL
from tests.storage_servers import ObjectServer, seaweedfs

pytestmark = pytest.mark.slow

DAY_US = 24 * 3600 * 1_000_000
KILLS = 25 if IS_FULL else 3
PREFIX = "killed"


@pytest.fixture(scope="module")
def own_server() -> Iterator[ObjectServer]:
    """An S3 server of this module, which it may kill."""
    with seaweedfs() as server:
        yield server


@dataclass(frozen=True, slots=True)
class Pusher:
    """A process that pushes until it is killed, and the file to which it prints what was acknowledged."""

    process: subprocess.Popen[bytes]
    printed: Path

    def acknowledged(self) -> dict[str, int]:
        """Return the sizes of the acknowledged blobs, by digest."""
        lines = self.printed.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        return {
            line.split()[0]: int(line.split()[1]) for line in lines if line.startswith("sha") and line.endswith("\n")
        }

    def wait_for_more(self, than: int = 0) -> None:
        """Wait until more blobs than so many were acknowledged."""
        wait_until(lambda: len(self.acknowledged()) > than, f"more than {than} blobs are acknowledged", 60)

    def kill(self) -> dict[str, int]:
        """Kill the process, and return what was acknowledged."""
        self.process.kill()
        self.process.wait()
        return self.acknowledged()


def start_pusher(data: Path, server: ObjectServer, prefix: str, seed: int) -> Pusher:
    """Start a process that pushes, from this process's sources, and wait for its first line."""
    printed = data.with_name(f"acknowledged-{prefix}-{seed}")
    with printed.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, object_pusher.__file__, str(data), server.endpoint, prefix, str(seed)],
            stdout=file,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    wait_until(lambda: printed.stat().st_size > 0, "the process pushes", 60)
    return Pusher(process, printed)


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
        pusher = start_pusher(data, own_server, prefix, seed)
        pusher.wait_for_more()
        time.sleep(dice.uniform(0.2, 1.5))  # the moment of the kill, at random
        acknowledged |= pusher.kill()
    with object_store(own_server, data, prefix=prefix) as store:
        wait_for_writers(store)
        check(store, acknowledged)

    assert len(acknowledged) >= KILLS


async def is_troubled(upkeep: StoreUpkeep) -> bool:
    """Return whether nothing can be stored."""
    return await upkeep.trouble() is not None


async def test_a_killed_object_store_loses_nothing_that_was_acknowledged(
    own_server: ObjectServer, tmp_path: Path
) -> None:
    """While the S3 server is killed and started again, acknowledged blobs stay whole; readiness fails within seconds."""
    prefix, data = f"{PREFIX}-server", tmp_path / "data"
    prepare_data(data)
    pusher = start_pusher(data, own_server, prefix, 7)
    dice = random.Random(1)  # noqa: S311 - not for secrets
    troubles: list[str | None] = []
    with object_store(own_server, data, prefix=prefix) as store:
        assert store.blobs.upkeep is not None
        known = 0
        for _ in range(KILLS):
            pusher.wait_for_more(known)
            await asyncio.sleep(dice.uniform(0.2, 1.5))  # the moment of the kill, at random
            own_server.kill()
            known = len(pusher.acknowledged())
            await until_answer(partial(is_troubled, store.blobs.upkeep), "readiness fails", 2 * HEALTH_FOR_S)
            own_server.start()
            wait_until(own_server.answers, "the S3 server stores objects again", 60)
            troubles.append(await store.blobs.upkeep.trouble())
        acknowledged = pusher.kill()
        wait_for_writers(store)
        check(store, acknowledged)

    assert len(acknowledged) >= KILLS
    assert troubles == [None] * KILLS

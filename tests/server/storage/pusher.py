"""A process that pushes blobs into a store as fast as it can and prints the acknowledged ones, until a test kills it.

`python pusher.py DATA SEED` prints one line `digest size` per acknowledged blob, flushed before the next begins.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.storage.blobs.local_store import LocalBlobs
from boltseal.server.storage.blobs.protocol import UploadId, UploadKey


async def push_for_ever(store: LocalBlobs, dice: random.Random) -> None:
    """Push blobs of many sizes, in one request or several."""
    while True:
        chunks = [dice.randbytes(dice.choice([10, 4096, 100_000, 700_000])) for _ in range(dice.randrange(1, 6))]
        digest = Digest.of(b"".join(chunks), dice.choice(["sha256", "sha512"]))
        key = UploadKey(Repository("shop/app"), UploadId.new())
        await store.uploads.start_upload(key)
        if dice.random() < 0.5:
            async with store.uploads.open_upload(key) as writer:
                await writer.write(chunks.pop(0))
                await writer.flush()
        async with store.uploads.open_upload(key) as writer:
            for chunk in chunks:
                await writer.write(chunk)
            size = await writer.commit(digest)
        sys.stdout.write(f"{digest} {size}\n")
        sys.stdout.flush()


async def main(data: str, seed: str) -> None:
    """Push eight blobs at a time."""
    store = LocalBlobs(Path(data))
    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(push_for_ever(store, random.Random(f"{seed}.{number}")))  # noqa: S311 - not for secrets


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

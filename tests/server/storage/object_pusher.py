"""A process that pushes blobs into an object store as fast as it can and prints the acknowledged ones, until a test kills it.

`python object_pusher.py DATA ENDPOINT PREFIX SEED` prints one line `digest size` per acknowledged blob, flushed before the next
begins. A push that fails, because the object store is being killed, is not printed.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from obstore.store import S3Store

from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.storage.blobs.object_failures import BLOBS
from boltseal.server.storage.blobs.object_store import ObjectBlobs
from boltseal.server.storage.blobs.protocol import BlobStore, UploadId, UploadKey
from boltseal.server.storage.metadata.migrate import DATABASE_NAME, GENERATION_NAME
from boltseal.server.storage.metadata.sqlite import open_database
from boltseal.server.storage.object_client import ObjectClient
from tests.object_stores import now_us
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY


async def push(store: BlobStore, dice: random.Random) -> tuple[Digest, int]:
    """Push a blob of some size, in one request or several."""
    sizes = [10, 4096, 100_000, 700_000, 6_000_000]
    chunks = [dice.randbytes(dice.choice(sizes)) for _ in range(dice.randrange(1, 4))]
    digest = Digest.of(b"".join(chunks), dice.choice(["sha256", "sha512"]))
    key = UploadKey(Repository("shop/app"), UploadId.new())
    await store.uploads.start_upload(key)
    while len(chunks) > 1 and dice.random() < 0.5:
        async with store.uploads.open_upload(key) as writer:
            await writer.write(chunks.pop(0))
            await writer.flush()
    async with store.uploads.open_upload(key) as writer:
        for chunk in chunks:
            await writer.write(chunk)
        return digest, await writer.commit(digest)


async def push_for_ever(store: BlobStore, dice: random.Random) -> None:
    """Push one blob after the other."""
    while True:
        try:
            digest, size = await push(store, dice)
        except BoltsealError:
            await asyncio.sleep(0.05)  # the object store is being started again
            continue
        sys.stdout.write(f"{digest} {size}\n")
        sys.stdout.flush()


async def main(data: str, endpoint: str, prefix: str, seed: str) -> None:
    """Push four blobs at a time."""
    client = S3Store(
        BUCKET,
        prefix=prefix,
        config={
            "endpoint": endpoint,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "region": "us-east-1",
        },
        client_options={"allow_http": True, "timeout": "10s"},
        retry_config={"max_retries": 0},
    )
    folder = Path(data)
    database = open_database(folder / DATABASE_NAME, folder / GENERATION_NAME, now_us)
    store = ObjectBlobs(database, ObjectClient(client, BLOBS), folder)
    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(push_for_ever(store, random.Random(f"{seed}.{number}")))  # noqa: S311 - not for secrets


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

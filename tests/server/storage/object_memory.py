"""A process that receives many uploads at the same time for an object store, and prints by how much it grew.

`python object_memory.py DATA ENDPOINT PREFIX UPLOADS BYTES` prints the growth of its resident memory at its highest, in bytes.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import sys
from pathlib import Path

from obstore.store import S3Store

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

CHUNK_BYTES = 64 * 1024


def memory(name: str) -> int:
    """Return a figure of this process's memory in bytes: VmRSS now, VmHWM the highest so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def reset_highest() -> None:
    """Let VmHWM begin at the memory of now."""
    Path("/proc/self/clear_refs").write_text("5")


async def push(store: BlobStore, number: int, size: int) -> None:
    """Push a blob of random content that differs from the others."""
    key = UploadKey(Repository("shop/app"), UploadId.new())
    await store.uploads.start_upload(key)
    hasher = hashlib.sha256()
    async with store.uploads.open_upload(key) as writer:
        for position in range(0, size, CHUNK_BYTES):
            chunk = (b"%d %d " % (number, position)) * (CHUNK_BYTES // 16)
            hasher.update(chunk)
            await writer.write(chunk)
            await asyncio.sleep(0)
        await writer.commit(Digest("sha256", hasher.hexdigest()))


async def main(data: str, endpoint: str, prefix: str, uploads: str, size: str) -> None:
    """Push once to load everything, then all uploads at the same time."""
    config = {"endpoint": endpoint, "access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY, "region": "us-east-1"}
    client = S3Store(BUCKET, prefix=prefix, config=config, client_options={"allow_http": True, "timeout": "120s"})  # type: ignore[arg-type]  # str keys
    folder = Path(data)
    database = open_database(folder / DATABASE_NAME, folder / GENERATION_NAME, now_us)
    store = ObjectBlobs(database, ObjectClient(client, BLOBS), folder)
    await push(store, -1, 16 * 1024 * 1024)
    gc.collect()
    reset_highest()
    before = memory("VmRSS")
    async with asyncio.TaskGroup() as group:
        for number in range(int(uploads)):
            group.create_task(push(store, number, int(size)))
    sys.stdout.write(f"{memory('VmHWM') - before}\n")
    sys.stdout.flush()
    store.close()
    database.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""Blob stores on a real S3 server, each with a database and a prefix of its own."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from obstore.store import S3Store

from boltseal.server.storage.blobs.object_failures import BLOBS
from boltseal.server.storage.blobs.object_store import SPOOL_BYTES, ObjectBlobs
from boltseal.server.storage.bucket_owner import BucketOwner, BucketUnfit
from boltseal.server.storage.metadata.migrate import DATABASE_NAME, GENERATION_NAME, prepare_data
from boltseal.server.storage.metadata.protocol import Metadata
from boltseal.server.storage.metadata.sqlite import open_database
from boltseal.server.storage.object_client import ObjectClient
from tests.storage_servers import ObjectServer


def now_us() -> int:
    """Return the time in microseconds since the epoch."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A blob store, its database, and a client of its prefix that sees what is really there."""

    blobs: ObjectBlobs
    database: Metadata
    bucket: S3Store
    prefix: str


@contextlib.contextmanager
def object_store(
    server: ObjectServer,
    data: Path,
    *,
    prefix: str | None = None,
    client: S3Store | None = None,
    clock: Callable[[], int] = now_us,
    lock_wait_s: float = 2.0,
    spool_bytes: int = SPOOL_BYTES,
    redirect: bool = False,
) -> Iterator[ObjectStore]:
    """Open a blob store on a server. `prefix` None: an unused one. `client`: reaches the server in another way."""
    prefix = prefix or f"t{uuid.uuid4().hex}"
    prepare_data(data)
    database = open_database(data / DATABASE_NAME, data / GENERATION_NAME, clock)
    bucket = server.store(prefix)
    blobs = ObjectBlobs(
        database,
        ObjectClient(client or bucket, BLOBS),
        data,
        lock_wait_s=lock_wait_s,
        spool_bytes=spool_bytes,
        redirect=redirect,
    )
    with contextlib.suppress(BucketUnfit):  # radosgw, which no server starts on, keeps the contract nevertheless
        BucketOwner(database, ObjectClient(bucket, BLOBS), "the bucket").claim()
    try:
        yield ObjectStore(blobs, database, bucket, prefix)
    finally:
        blobs.close()
        database.close()

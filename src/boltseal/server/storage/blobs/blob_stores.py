"""Opens the blob store that the settings name: files in the data folder, or an object store."""

from __future__ import annotations

from functools import partial

from boltseal.errors import Invalid
from boltseal.server.settings import Settings
from boltseal.server.storage.blobs.local_store import LocalBlobs
from boltseal.server.storage.blobs.object_failures import BLOBS
from boltseal.server.storage.blobs.object_store import ObjectBlobs
from boltseal.server.storage.blobs.protocol import BlobStore
from boltseal.server.storage.bucket_owner import OWNER, BucketOwner
from boltseal.server.storage.metadata import blob_keys, queries
from boltseal.server.storage.metadata.protocol import Log, Metadata, Snapshot
from boltseal.server.storage.object_client import Bucket, ObjectClient
from boltseal.server.storage.object_tiles import TILES, ObjectTiles
from boltseal.server.storage_settings import BucketUrl


def open_blob_store(settings: Settings, database: Metadata) -> BlobStore:
    """Open the blob store of a data folder."""
    data, memory_bytes = settings.server.data, int(settings.server.upload_buffer_bytes)
    where, s3 = settings.storage.blobs, settings.storage.s3
    if where is None:
        return LocalBlobs(data, memory_bytes=memory_bytes)
    return ObjectBlobs(
        database,
        open_client(settings, where),
        data,
        redirect=s3.redirect,
        memory_bytes=memory_bytes,
        spool_bytes=int(s3.spool_bytes),
    )


def open_tiles(settings: Settings, log: Log) -> ObjectTiles | None:
    """Return the objects of a log; None if they are only in the database."""
    where = settings.storage.blobs
    return None if where is None else ObjectTiles(_bucket(settings, where).connect(TILES), log.name)


def open_client(settings: Settings, where: BucketUrl) -> ObjectClient:
    """Return a client of the bucket. Nothing is requested yet."""
    return _bucket(settings, where).connect(BLOBS)


def open_bucket(settings: Settings) -> ObjectClient:
    """Return a client of the bucket that the settings name. Raises: Invalid: they name none."""
    where = settings.storage.blobs
    if where is None:
        raise Invalid("[storage] blobs is not set; name a bucket, such as s3://bucket/prefix")
    return open_client(settings, where)


def open_to_examine(settings: Settings, database: Metadata | None) -> BlobStore:
    """Open the blob store of a data folder to read it. `database`: for an object store, whose rows name its objects."""
    if settings.storage.blobs is None or database is None:
        return LocalBlobs(settings.server.data, create=False)
    return open_blob_store(settings, database)


def open_owner(settings: Settings, database: Metadata) -> BucketOwner | None:
    """Return the owner object of the bucket; None: the blobs are files."""
    where = settings.storage.blobs
    if where is None:
        return None
    return BucketOwner(database, _bucket(settings, where).connect(OWNER), "the bucket of [storage] blobs")


def check_place(settings: Settings, database: Metadata, *, claim: bool) -> None:
    """Refuse to start with `[storage] blobs` changed, since all stored blobs would be missing, or on another registry's bucket.

    `claim`: compare the owner of the bucket, and become it where there is none; once in a start.

    Raises: Invalid; Unavailable: the owner can't be compared, and never was.
    """
    where = settings.storage.blobs
    if database.read_and_wait(partial(_are_elsewhere, in_objects=where is not None)):
        before, now = ("files in the data folder", "an object store")[:: -1 if where is None else 1]
        raise Invalid(f"the stored blobs are {before}, but [storage] blobs says {now}: change it back")
    if claim and where is not None:
        BucketOwner(database, open_client(settings, where), str(where)).claim()


def _bucket(settings: Settings, where: BucketUrl) -> Bucket:
    return Bucket(where.bucket, where.prefix, settings.storage.s3.endpoint, settings.storage.s3.region)


def _are_elsewhere(snapshot: Snapshot, *, in_objects: bool) -> bool:
    has_objects = bool(blob_keys.blobs_after(snapshot, "", 1))
    return not has_objects and queries.has_blobs(snapshot) if in_objects else has_objects

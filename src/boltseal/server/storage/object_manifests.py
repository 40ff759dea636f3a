"""Manifests as objects, so that a registry can be rebuilt from its bucket after the loss of its database.

    PREFIX/manifests/<32 hex>     one line of JSON, then the bytes of the manifest
    {"format":1,"repository":"shop/app","digest":"sha256:...","media_type":"...","pushed_us":1796112000000000,"pushed_by":"ci"}

The object is written before the transaction that adds the manifest's row, which names its key. The key is random and is never used
again, as that of a blob: a late deletion can't hit a manifest that was pushed again. Each repository has an object of its own
for the same bytes, so a rebuild keeps repositories isolated.

A push that is refused deletes its object at once. What a killed process leaves is deleted after a day, as with blobs. Until then a
rebuild would take it for a manifest without a tag, of a repository to which its client may push.

A manifest without an object (it was pushed before there were such objects, or got its row in another way) gets one from
`write_missing`, in the background.
"""

from __future__ import annotations

import json
import time
import uuid
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from boltseal.errors import BoltsealError, Invalid
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.storage.metadata import blob_keys, bucket_rows
from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork
from boltseal.server.storage.object_client import ObjectClient

MANIFESTS: Final = "manifests/"
FORMAT: Final = 1
MOST_BYTES: Final = 65 * 1024 * 1024
"""More than any manifest can have."""
NAMED_WITHIN_S: Final = 3600.0
"""How long after its object a row may name it. Unnamed objects are deleted after a day."""
AT_ONCE: Final = 100


class ManifestObjectInvalid(Invalid):
    """An object is not what `encode` returns, or its bytes do not have the digest that it states."""


class ManifestCopy(NamedTuple):
    """A manifest as its object has it. `raw`: its bytes."""

    repository: str
    digest: Digest
    media_type: str
    pushed_us: int
    pushed_by: str
    raw: bytes


class WrittenObject(NamedTuple):
    """An object that no row names yet. `until_s`: of the monotonic clock; later no row may name it."""

    key: str
    until_s: float


def encode(copy: ManifestCopy) -> bytes:
    """Return the content of an object."""
    header = {"format": FORMAT, **copy._asdict(), "digest": str(copy.digest)}
    del header["raw"]
    return json.dumps(header, separators=(",", ":")).encode() + b"\n" + copy.raw


def decode(content: bytes) -> ManifestCopy:
    """Parse an object, and compare its bytes with its digest. Raises: ManifestObjectInvalid."""
    line, _, raw = content.partition(b"\n")
    try:
        header = json.loads(line)
        if header.pop("format") != FORMAT:
            raise ManifestObjectInvalid(f"it has another format than {FORMAT}")
        copy = ManifestCopy(**header | {"digest": Digest.parse(header["digest"]), "raw": raw})
        Repository(copy.repository)
        texts = all(isinstance(text, str) for text in (copy.media_type, copy.pushed_by))
        if not texts or type(copy.pushed_us) is not int or copy.pushed_us < 0:
            raise ManifestObjectInvalid("its first line has values of wrong types")
    except (ValueError, TypeError, KeyError, AttributeError, Invalid) as error:
        reason = error.message if isinstance(error, BoltsealError) else f"its first line is invalid ({error})"
        raise ManifestObjectInvalid(reason) from error
    found = Digest.of(raw, copy.digest.algorithm)
    if found != copy.digest:
        raise ManifestObjectInvalid(f"its bytes have the digest {found}, expected {copy.digest}")
    return copy


class ObjectManifests:
    """The objects of the manifests of one registry."""

    def __init__(self, database: Metadata, client: ObjectClient) -> None:
        self._database = database
        self._client = client

    async def write(self, copy: ManifestCopy) -> WrittenObject:
        """Write an object under a key of its own; durable when this returns. Raises: StoreBroken."""
        written = WrittenObject(new_key(), time.monotonic() + NAMED_WITHIN_S)
        await self._client.put(written.key, encode(copy))
        return written

    async def drop(self, written: WrittenObject) -> None:
        """Delete an object that no row names. What can't be deleted is deleted after a day."""
        with suppress(BoltsealError):
            await self._client.delete([written.key])

    @staticmethod
    def name(tx: UnitOfWork, repository_id: int, digest: str, written: WrittenObject) -> None:
        """Let the row of a manifest name its object. An object that is not needed, or too old, is dead."""
        in_time = time.monotonic() < written.until_s
        if not (in_time and bucket_rows.put_manifest(tx, repository_id, digest, written.key)):
            blob_keys.mark_dead(tx, [written.key], tx.now_us)

    def write_missing(self) -> int:
        """Write the objects of all manifests that have none. Returns how many. Blocks. Raises: StoreBroken, Unavailable."""
        after, count = (-1, ""), 0
        while rows := self._database.read_and_wait(partial(bucket_rows.without_object, after=after, limit=AT_ONCE)):
            for row in rows:
                copy = ManifestCopy(
                    row.repository, Digest.parse(row.digest), row.media_type, row.pushed_us, row.pushed_by, row.raw
                )
                written = WrittenObject(new_key(), time.monotonic() + NAMED_WITHIN_S)
                self._client.put_and_wait(written.key, encode(copy))
                self._database.write_and_wait(
                    partial(self.name, repository_id=row.repository_id, digest=row.digest, written=written)
                )
            count += len(rows)
            after = (rows[-1].repository_id, rows[-1].digest)
        return count


def new_key() -> str:
    """Return a key for a manifest's object, which is unused and never used again."""
    return f"{MANIFESTS}{uuid.uuid4().hex}"

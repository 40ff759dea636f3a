"""Manifests as objects, so that a registry can be rebuilt from its bucket after the loss of its database.

    PREFIX/manifests/<32 hex>     one line of JSON, then the bytes of the manifest
    {"format":2,"repository":"shop/app","digest":"sha256:...","media_type":"...","pushed_us":1796112000000000,"pushed_by":"ci",
     "parts":["sha256:..."]}

`parts`: which of the digests that the manifest refers to are blobs of its repository. A rebuild gives the repository these, and no other
blob that the manifest names: a client can push a manifest that names another repository's. Format 1 has no `parts`.

The object is written before the transaction that adds the manifest's row, which names its key, if its parts are still those of the
repository. The key is random and is never used again, as that of a blob: a late deletion can't hit a manifest that was pushed again.
Each repository has an object of its own for the same bytes, so a rebuild keeps repositories isolated.

The key is announced before the object is written (`blob_keys.announce`), many keys in one transaction. So the object of a
killed process is deleted a day later, and so is that of a refused push which could not be deleted at once. Until then a rebuild
takes it for a manifest without a tag, of a repository to which its client was allowed to push.

A manifest without an object (a part of it came or went, it was pushed before there were such objects, or got its row in another
way) gets one from `write_missing`, in the background.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from boltseal.errors import BoltsealError, Invalid
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.oci.reference import Repository
from boltseal.server.storage.metadata import blob_keys, bucket_rows, queries
from boltseal.server.storage.metadata.object_names import MANIFESTS
from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork
from boltseal.server.storage.object_client import ObjectClient

FORMAT: Final = 2
WITHOUT_PARTS: Final = 1
"""The format that does not state the parts. No released version wrote it."""
MOST_BYTES: Final = 65 * 1024 * 1024
"""More than any manifest can have."""
KEYS_AT_ONCE: Final = 64
"""How many keys of pushes are announced in one transaction, so that hardly any push waits for one."""
KEYS_FOR_S: Final = 6 * 3600.0
"""How long announced keys are used: a row may name them for twice as long (`blob_keys.take_announced`)."""
AT_ONCE: Final = 50
"""How many missing objects are written before one transaction names them, for which all other writes wait."""
WRITTEN_AT_ONCE: Final = 4
"""Each has its manifest in memory."""
_END_OF_TIME_US: Final = 2**63


class ManifestObjectInvalid(Invalid):
    """An object is not what `encode` returns, or its bytes do not have the digest that it states."""


class ManifestCopy(NamedTuple):
    """A manifest as its object has it. `parts`: None if the object does not state them. `raw`: its bytes."""

    repository: str
    digest: Digest
    media_type: str
    pushed_us: int
    pushed_by: str
    parts: frozenset[Digest] | None
    raw: bytes


class WrittenObject(NamedTuple):
    """An object that no row names yet, and the parts that it states."""

    key: str
    parts: frozenset[Digest]


class _Unnamed(NamedTuple):
    """A manifest, and the object that its row does not name yet."""

    repository: str
    repository_id: int
    digest: str
    object: WrittenObject


def encode(copy: ManifestCopy) -> bytes:
    """Return the content of an object, in format 2."""
    header = {"format": FORMAT, **copy._asdict(), "digest": str(copy.digest)}
    header["parts"] = sorted(map(str, copy.parts or ()))
    del header["raw"]
    return json.dumps(header, separators=(",", ":")).encode() + b"\n" + copy.raw


def decode(content: bytes) -> ManifestCopy:
    """Parse an object, and compare its bytes with its digest. Raises: ManifestObjectInvalid."""
    line, _, raw = content.partition(b"\n")
    try:
        header = json.loads(line)
        number = header.pop("format")
        if number not in (WITHOUT_PARTS, FORMAT):
            raise ManifestObjectInvalid(f"it has format {number!r}, expected {FORMAT}; use a newer boltseal")
        parts = _parts(header.pop("parts")) if number == FORMAT else None
        copy = ManifestCopy(**header, parts=parts, raw=raw)
        copy = copy._replace(digest=Digest.parse(header["digest"]))
        Repository(copy.repository)
        texts = all(isinstance(text, str) for text in (copy.media_type, copy.pushed_by))
        if not texts or type(copy.pushed_us) is not int or not 0 <= copy.pushed_us < _END_OF_TIME_US:
            raise ManifestObjectInvalid("its first line has values of wrong types")
        if "\0" in copy.pushed_by + copy.media_type:
            raise ManifestObjectInvalid("its first line has a NUL character (U+0000), which can't be stored")
        copy.pushed_by.encode()  # ValueError: half of a surrogate pair, which can't be stored
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, Invalid) as error:
        reason = error.message if isinstance(error, BoltsealError) else f"its first line is invalid ({error})"
        raise ManifestObjectInvalid(reason) from error
    found = Digest.of(raw, copy.digest.algorithm)
    if found != copy.digest:
        raise ManifestObjectInvalid(f"its bytes have the digest {found}, expected {copy.digest}")
    return copy


def _parts(stated: object) -> frozenset[Digest]:
    """Parse the parts that an object states. Raises: TypeError, DigestInvalid."""
    if not isinstance(stated, list) or not all(isinstance(each, str) for each in stated):
        raise TypeError("its parts are no list of texts")
    return frozenset(map(Digest.parse, stated))


class ObjectManifests:
    """The objects of the manifests of one registry."""

    def __init__(self, database: Metadata, client: ObjectClient) -> None:
        self._database = database
        self._client = client
        self._keys = list[str]()
        self._keys_until_s = -math.inf
        self._announcing = asyncio.Lock()

    async def write(
        self, repository: Repository, digest: Digest, manifest: Manifest, pushed_by: str
    ) -> WrittenObject | None:
        """Write the object of a manifest, under a key of its own; durable when this returns. None: the repository has the manifest.

        Raises: StoreBroken, Unavailable.
        """
        references = {link.descriptor.digest for link in manifest.references()}
        parts = await self._database.read(
            lambda snapshot: bucket_rows.parts_held(snapshot, repository, digest, references)
        )
        if parts is None:
            return None
        now_us = time.time_ns() // 1000
        copy = ManifestCopy(str(repository), digest, manifest.media_type, now_us, pushed_by, parts, manifest.raw)
        written = WrittenObject(await self._announced(), parts)
        await self._client.put(written.key, encode(copy))
        return written

    async def _announced(self) -> str:
        """Return a key that a transaction has announced."""
        async with self._announcing:
            if not self._keys or time.monotonic() > self._keys_until_s:
                until_s = time.monotonic() + KEYS_FOR_S
                keys = [new_key() for _ in range(KEYS_AT_ONCE)]
                await self._database.write(partial(blob_keys.announce, keys=keys))
                self._keys, self._keys_until_s = keys, until_s
            return self._keys.pop()

    async def drop(self, written: WrittenObject) -> None:
        """Delete an object that no row names. What can't be deleted now is deleted a day after its announcement."""
        with suppress(BoltsealError):
            await self._client.delete([written.key])

    @staticmethod
    def name(tx: UnitOfWork, repository_id: int, digest: str, written: WrittenObject) -> None:
        """Let the row of a manifest name its object. An object that is not needed, too old, or states other parts, is dead."""
        in_time = blob_keys.take_announced(tx, written.key)
        if not (in_time and bucket_rows.put_manifest(tx, repository_id, digest, written.key, written.parts)):
            blob_keys.mark_dead(tx, [written.key], tx.now_us)

    def write_missing(self) -> int:
        """Write the objects of all manifests that have none, or one that states other parts than they have now. Returns how many.

        Blocks. Raises: StoreBroken, Unavailable.
        """
        while self._database.write_and_wait(partial(bucket_rows.forget_outdated, limit=AT_ONCE)):
            pass
        after, count = (-1, ""), 0
        with ThreadPoolExecutor(WRITTEN_AT_ONCE, thread_name_prefix="boltseal-manifests") as pool:
            while found := self._database.read_and_wait(
                partial(bucket_rows.without_object, after=after, limit=AT_ONCE)
            ):
                keys = [new_key() for _ in found]
                self._database.write_and_wait(partial(blob_keys.announce, keys=keys))
                written = [pool.submit(self._write_missing, key, *each) for key, each in zip(keys, found, strict=True)]
                count += self._name_written(written)
                after = found[-1]
        return count

    def _write_missing(self, key: str, repository_id: int, digest: str) -> _Unnamed | None:
        """Write the object of a manifest, which no row names yet. None: the manifest was removed meanwhile."""
        row = self._database.read_and_wait(
            partial(bucket_rows.stored_manifest, repository_id=repository_id, digest=digest)
        )
        if row is None:
            return None
        copy = ManifestCopy(
            row.repository, Digest.parse(digest), row.media_type, row.pushed_us, row.pushed_by, row.parts, row.raw
        )
        self._client.put_and_wait(key, encode(copy))
        return _Unnamed(row.repository, repository_id, digest, WrittenObject(key, row.parts))

    def _name_written(self, writing: Sequence[Future[_Unnamed | None]]) -> int:
        """Let the rows of manifests name their objects. Returns how many. Raises what the writes raised, after naming the others."""
        wait(writing, return_when=FIRST_EXCEPTION)
        for each in writing:
            each.cancel()
        wait(writing)
        ended = [each for each in writing if not each.cancelled()]
        written = [found for each in ended if each.exception() is None and (found := each.result()) is not None]

        def job(tx: UnitOfWork) -> None:
            for repository in sorted({each.repository for each in written}):
                queries.lock_repository(tx, repository)  # its blobs do not change until the COMMIT
            for each in written:
                self.name(tx, each.repository_id, each.digest, each.object)

        if written:
            self._database.write_and_wait(job)
        for each in ended:
            each.result()
        return len(written)


def new_key() -> str:
    """Return a key for a manifest's object, which is unused and never used again."""
    return f"{MANIFESTS}{uuid.uuid4().hex}"

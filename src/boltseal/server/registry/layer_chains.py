"""The layer chains of all images that were ever pushed, so that a deleted image is still found as the base of others.

    pushed                the chain is computed from the config, and stored with the manifest in one transaction
    config missing then   the chain stays pending, as with most mirrored images: their config comes after their manifest
    older than the table  pending too, by the migration

`run` finds out pending chains in small jobs, in one process of a store. Each job is a transaction, so a server that is
killed continues where it was. Nothing is fetched from an upstream for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import msgspec
import structlog

from boltseal.errors import BoltsealError, NotFound
from boltseal.oci.digest import Digest
from boltseal.oci.layer_chain import ChainDocument, IndexedImage, encode_chain, parse_chain
from boltseal.oci.manifest import Manifest, ManifestInvalid, parse_manifest
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Repository
from boltseal.project.bases.image_facts import MAX_CONFIG_BYTES, NotAnImage, NotRead, config_of, read_facts
from boltseal.project.bases.index_children import images_of_index
from boltseal.project.bases.layer_chains import chain_of
from boltseal.server.registry.pulls import Pulls
from boltseal.server.storage.blobs.protocol import StoreBroken
from boltseal.server.storage.coordination.protocol import Leases
from boltseal.server.storage.metadata import layer_chain_table
from boltseal.server.storage.metadata.fenced_writes import fenced
from boltseal.server.storage.metadata.layer_chain_table import FoundChain, PendingChain
from boltseal.server.storage.metadata.protocol import Metadata

BATCH: Final = 50
PAUSE_S: Final = 0.02
LEASE: Final = "layer-chains"
EVERY_S: Final = 300.0
SMALL_BYTES: Final = 64 * 1024
"""Larger configs are parsed in a thread."""

_log = structlog.get_logger(__name__)


class LayerChains:
    """Computes, stores and lists layer chains."""

    def __init__(self, database: Metadata, pulls: Pulls) -> None:
        self._database = database
        self._pulls = pulls

    async def of(self, repository: Repository, digests: Iterable[Digest]) -> dict[str, str]:
        """Return the documents of manifests and of the images of those that are indexes, as JSON by digest.

        Only what this repository has or had. A pending one is found out, if its config is stored by now.
        """
        found = await self._documents(repository, [str(digest) for digest in digests])
        images = {image.digest for text in found.values() for image in parse_chain(text).images or ()}
        return found | await self._documents(repository, sorted(images - found.keys()))

    async def _documents(self, repository: Repository, digests: list[str]) -> dict[str, str]:
        if not digests:
            return {}
        found = await self._database.read(
            partial(layer_chain_table.documents, repository_name=repository, digests=digests)
        )
        rest = [digest for digest in digests if digest not in found][:BATCH]
        waiting = partial(layer_chain_table.pending_of, repository_name=repository, digests=rest, limit=BATCH)
        for row in await self._database.read(waiting) if rest else ():
            if (text := await self._read(row)) is not None:
                found[row.digest] = text
        return found

    async def document(self, repository: Repository, manifest: Manifest, digest: Digest) -> str | None:
        """Return the document of a manifest as JSON; None if its config is not stored in this repository."""
        try:
            if manifest.is_index:
                images = tuple(_indexed(each.digest, each.platform) for each in images_of_index(manifest))
                return encode_chain(ChainDocument(images=images))
            config, _ = config_of(manifest, digest)
            raw = await self._blob(repository, config)
            if len(raw) <= SMALL_BYTES:
                facts = read_facts(manifest, digest, raw)
            else:
                facts = await asyncio.to_thread(read_facts, manifest, digest, raw)
            return encode_chain(ChainDocument(image=chain_of(facts)))
        except NotAnImage:
            return encode_chain(ChainDocument())
        except NotRead as error:
            return encode_chain(ChainDocument(unreadable=error.message))
        except (NotFound, StoreBroken):
            return None

    async def find_pending(self, pause_s: float = PAUSE_S) -> int:
        """Find out the chains that are pending, and return how many were stored."""
        after, stored = (0, ""), 0
        while True:
            rows = await self._database.read(partial(layer_chain_table.pending, after=after, limit=BATCH))
            if not rows:
                return stored
            found = [FoundChain(row.repository_id, row.digest, text) for row in rows if (text := await self._read(row))]
            if found:
                await self._database.write(partial(layer_chain_table.put_found, found=found), durable=False)
            stored += len(found)
            after = rows[-1].repository_id, rows[-1].digest
            await asyncio.sleep(pause_s)

    async def run(self, leases: Leases, may_write: Callable[[], bool], every_s: float = EVERY_S) -> None:
        """Find out pending chains now and then, in the process that gets the lease, until this task is cancelled."""
        while True:
            lease = await asyncio.to_thread(leases.acquire, LEASE) if may_write() else None
            if lease is not None:
                try:
                    with fenced(self._database, lease):
                        stored = await self.find_pending()
                    if stored:
                        _log.info("layer chains found out", images=stored)
                except BoltsealError as error:
                    _log.warning("layer chains were not found out", reason=error.message)
                finally:
                    lease.release()
            await asyncio.sleep(every_s)

    async def _read(self, row: PendingChain) -> str | None:
        try:
            manifest = parse_manifest(row.raw, row.media_type)
        except ManifestInvalid as error:
            return encode_chain(ChainDocument(unreadable=error.message))
        return await self.document(Repository(row.repository), manifest, Digest.parse(row.digest))

    async def _blob(self, repository: Repository, digest: Digest) -> bytes:
        stored = await self._pulls.blob(repository, digest, hidden=True)
        return b"".join([piece async for piece in self._pulls.read_blob(digest, 0, min(stored.size, MAX_CONFIG_BYTES))])


def joined(documents: dict[str, str]) -> bytes:
    """Return the body of an answer with these documents."""
    return msgspec.json.encode({"chains": {digest: msgspec.Raw(text.encode()) for digest, text in documents.items()}})


def _indexed(digest: Digest, platform: Platform | None) -> IndexedImage:
    if platform is None:
        return IndexedImage(str(digest), has_platform=False)
    return IndexedImage(str(digest), platform.os, platform.architecture, platform.variant)

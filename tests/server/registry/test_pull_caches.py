"""The caches of pulls under changes that other requests and processes make meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Tag
from boltseal.server.auth.actor import ANONYMOUS
from boltseal.server.registry.models import UNCONDITIONAL
from boltseal.server.registry.pulls import ManifestUnknown
from boltseal.server.storage.metadata.protocol import BlobFound, ContentLookups, ManifestFound, TagFound
from tests.bare_registry import SHOP, Opener, open_shop
from tests.polling import until

__all__ = ["open_shop"]


class LateAnswers:
    """Look-ups whose answers about manifests arrive only when `arrive` is set, as over a slow network."""

    def __init__(self, inner: ContentLookups) -> None:
        self._inner = inner
        self.read = asyncio.Event()
        self.arrive = asyncio.Event()

    async def repository(self, name: str) -> bool:
        return await self._inner.repository(name)

    async def tag(self, repository: str, name: str) -> TagFound | None:
        return await self._inner.tag(repository, name)

    async def bound(self, repository: str, name: str) -> str | None:
        return await self._inner.bound(repository, name)

    async def blob(self, repository: str, digest: str) -> BlobFound | None:
        return await self._inner.blob(repository, digest)

    async def manifest(self, repository: str, digest: str) -> ManifestFound | None:
        found = await self._inner.manifest(repository, digest)
        self.read.set()
        await self.arrive.wait()
        return found


async def test_an_answer_from_before_a_deletion_is_not_cached_after_it(open_shop: Opener) -> None:
    """A manifest that was read before its deletion, and arrives after another request has cleared the caches, is not served again."""
    shop = open_shop({"repository": "**", "tag": "*", "mode": "floating"})
    kept, deleted = await shop.image("kept"), await shop.image("deleted")
    await shop.push(kept, "kept")
    await shop.push(deleted, "latest")
    digest, pulls, inner = Digest.of(deleted), shop.registry.pulls, shop.database.lookups
    late = LateAnswers(inner.content)
    await until(lambda: pulls.generation() is not None, "the generation is known")
    shop.database.lookups = replace(inner, content=late)
    before = asyncio.create_task(pulls.manifest(SHOP, digest))
    await late.read.wait()
    shop.database.lookups = inner
    await shop.registry.deletes.manifest(SHOP, digest, UNCONDITIONAL, ANONYMOUS)
    await until(lambda: pulls.generation() is not None, "the generation is known")
    await pulls.manifest(SHOP, Tag("kept"))
    late.arrive.set()
    answered = await before

    assert answered.raw == deleted
    with pytest.raises(ManifestUnknown):
        await pulls.manifest(SHOP, digest)

"""Read manifests and configs by digest, each at most once: from the cache, from a mirror, or from the registry.

Everything is verified by its digest, so the source does not matter. No manifest is requested by a tag.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from copy import copy
from typing import Final, NamedTuple

from boltseal.client.document_cache import MAX_BODY_BYTES, DocumentCache
from boltseal.client.errors import RemoteUnavailable
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.errors import BoltsealError, NotFound
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest, parse_manifest
from boltseal.oci.mediatype import MANIFEST_TYPES
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Repository
from boltseal.project.bases.base_claims import MAX_STATEMENT_BYTES
from boltseal.project.bases.image_facts import ImageFacts, config_of, read_facts
from boltseal.project.bases.index_children import ATTESTED, images_of_index, same_platform
from boltseal.project.settings import Mirror

AT_ONCE: Final = 8
READ_S: Final = 300.0
MAX_STATEMENTS: Final = 4
SMALL_BYTES: Final = 64 * 1024
MAX_SMALL: Final = 1000
PREDICATE: Final = "in-toto.io/predicate-type"
BLOB: Final = ""
"""The media type under which blobs are cached."""


class RemoteRepository(NamedTuple):
    """A repository at a registry."""

    registry: str
    repository: Repository


class ImageDocuments:
    """Reads documents. `mirrors`: by registry, where to ask first.

    `max_kept_bytes`: larger documents are not cached, because compressing them would delay a server's other requests.
    `read_s`: time limit for reading a blob.
    """

    def __init__(
        self,
        transport: Transport,
        cache: DocumentCache,
        mirrors: Mapping[str, Mirror] | None = None,
        *,
        max_kept_bytes: int = MAX_BODY_BYTES,
        read_s: float = READ_S,
    ) -> None:
        self._transport = transport
        self._cache = cache
        self._mirrors = mirrors or {}
        self._max_kept_bytes = max_kept_bytes
        self._read_s = read_s
        self._may_ask = True
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._manifests: dict[tuple[RemoteRepository, Digest], asyncio.Task[Manifest]] = {}
        self._blobs: dict[tuple[RemoteRepository, Digest], asyncio.Task[bytes]] = {}
        self._small: OrderedDict[Digest, Manifest] = OrderedDict()
        self._facts: dict[Digest, ImageFacts] = {}

    def cached_only(self) -> ImageDocuments:
        """Return a reader of cached documents only: no registry is contacted, and a missing document is NotFound."""
        cached = copy(self)
        cached._may_ask = False
        cached._manifests, cached._blobs = {}, {}
        return cached

    def is_cached(self, digest: Digest) -> bool:
        """Return whether a manifest or index is read without a request."""
        return digest in self._small or self._cache.document(digest) is not None

    async def manifest(self, remote: RemoteRepository, digest: Digest) -> Manifest:
        """Read a manifest or index. Raises: RemoteNotFound, RemoteMismatch and other remote errors."""
        if digest in self._small:
            return self._small[digest]
        task = self._manifests.get((remote, digest))
        if task is None:
            task = self._manifests[remote, digest] = asyncio.create_task(self._manifest(remote, digest))
            task.add_done_callback(lambda _: self._manifests.pop((remote, digest), None))
        found = await asyncio.shield(task)
        if len(found.raw) <= SMALL_BYTES:
            self._small[digest] = found
            while len(self._small) > MAX_SMALL:
                self._small.popitem(last=False)
        return found

    async def blob(self, remote: RemoteRepository, digest: Digest, size: int) -> bytes:
        """Read a small blob, such as a config. `size`: in bytes. Raises: RemoteNotFound and other remote errors."""
        task = self._blobs.get((remote, digest))
        if task is None:
            task = self._blobs[remote, digest] = asyncio.create_task(self._blob(remote, digest, size))
            task.add_done_callback(lambda _: self._blobs.pop((remote, digest), None))
        return await asyncio.shield(task)

    async def facts(self, remote: RemoteRepository, digest: Digest) -> ImageFacts:
        """Read the facts of an image. Raises: NotAnImage, NotRead, RemoteNotFound and other remote errors."""
        if digest not in self._facts:
            manifest = await self.manifest(remote, digest)
            config, size = config_of(manifest, digest)
            raw = await self.blob(remote, config, size)
            if len(raw) <= SMALL_BYTES:
                self._facts[digest] = read_facts(manifest, digest, raw)
            else:
                self._facts[digest] = await asyncio.to_thread(read_facts, manifest, digest, raw)
        return self._facts[digest]

    async def facts_for(self, remote: RemoteRepository, digest: Digest, platform: Platform) -> ImageFacts | None:
        """Read the facts of an image, or of an index's image for the platform; None if there is none for it."""
        manifest = await self.manifest(remote, digest)
        if not manifest.is_index:
            found = await self.facts(remote, digest)
            return found if same_platform(found.platform, platform) else None
        for child in images_of_index(manifest):
            if child.platform is not None and same_platform(child.platform, platform):
                return await self.facts(remote, child.digest)
        return None

    async def statements(self, remote: RemoteRepository, index: Manifest, of: Digest) -> list[bytes]:
        """Read the provenance statements in an index about one of its images, as raw bytes; skip unreadable ones."""
        found: list[bytes] = []
        statements = [descriptor for descriptor in index.manifests if descriptor.annotations.get(ATTESTED) == str(of)]
        for entry in statements[:MAX_STATEMENTS]:
            if entry.media_type not in MANIFEST_TYPES:
                continue
            try:
                layers = (await self.manifest(remote, entry.digest)).layers
                provenance = [
                    descriptor
                    for descriptor in layers
                    if "slsa.dev/provenance" in descriptor.annotations.get(PREDICATE, "")
                ]
                provenance = [descriptor for descriptor in provenance if descriptor.size <= MAX_STATEMENT_BYTES][
                    :MAX_STATEMENTS
                ]
                found += [await self.blob(remote, descriptor.digest, descriptor.size) for descriptor in provenance]
            except BoltsealError:  # other sources remain
                continue
        return found

    async def _manifest(self, remote: RemoteRepository, digest: Digest) -> Manifest:
        cached = self._cache.document(digest)
        if cached is not None and cached[0] != BLOB:
            return parse_manifest(cached[1], cached[0])
        if not self._may_ask:
            raise NotFound(f"{digest.short} was not cached while {remote.registry} had it")
        async with self._at_once:
            for source in self.sources(remote):
                try:
                    found = await RegistryClient(self._transport, source.registry).manifest(source.repository, digest)
                    break
                except BoltsealError:
                    if source == remote:
                        raise
        self._keep(digest, found.media_type, found.raw)
        return found

    async def _blob(self, remote: RemoteRepository, digest: Digest, size: int) -> bytes:
        cached = self._cache.document(digest)
        if cached is not None:
            return cached[1]
        if not self._may_ask:
            raise NotFound(f"{digest.short} was not cached while {remote.registry} had it")
        async with self._at_once:
            for source in self.sources(remote):
                try:
                    raw = await self._read_blob(source, digest, size)
                    break
                except BoltsealError:
                    if source == remote:
                        raise
        self._keep(digest, BLOB, raw)
        return raw

    async def _read_blob(self, source: RemoteRepository, digest: Digest, size: int) -> bytes:
        client = RegistryClient(self._transport, source.registry)
        try:
            async with asyncio.timeout(self._read_s):
                return b"".join([piece async for piece in client.blob(source.repository, digest, size)])
        except TimeoutError as error:
            raise RemoteUnavailable(
                f"{source.registry} did not send {size} bytes of {digest.short} within {self._read_s:g} s"
            ) from error

    def _keep(self, digest: Digest, media_type: str, raw: bytes) -> None:
        if len(raw) <= self._max_kept_bytes:
            self._cache.keep(digest, media_type, raw)

    def sources(self, remote: RemoteRepository) -> list[RemoteRepository]:
        """Return where to read: the mirror if there is one, then the registry, whose error is final."""
        return read_from(self._mirrors, remote)


def read_from(mirrors: Mapping[str, Mirror], remote: RemoteRepository) -> list[RemoteRepository]:
    """Return where a repository's documents are read by digest: a configured mirror, then the registry itself."""
    mirror = mirrors.get(remote.registry)
    if mirror is None:
        return [remote]
    host, prefix = mirror
    return [
        RemoteRepository(host, Repository(f"{prefix}/{remote.repository}" if prefix else remote.repository)),
        remote,
    ]

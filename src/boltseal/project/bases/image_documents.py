"""Manifests and configs by digest, each asked for once in a lifetime: what is known, from the mirror, from the registry.

What is read has the digest that it was asked by, so it does not matter who gave it. A tag is never asked for a manifest.
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
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest, parse_manifest
from boltseal.oci.mediatype import MANIFEST_TYPES
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Repository
from boltseal.project.bases.base_claims import MAX_STATEMENT_BYTES
from boltseal.project.bases.image_facts import ImageFacts, NotRead, config_of, read_facts

AT_ONCE: Final = 8
READ_S: Final = 300.0
MAX_CHILDREN: Final = 100
MAX_STATEMENTS: Final = 4
SMALL_BYTES: Final = 64 * 1024
MAX_SMALL: Final = 1000
ATTESTED: Final = "vnd.docker.reference.digest"
PREDICATE: Final = "in-toto.io/predicate-type"
_UNKNOWN: Final = "unknown/unknown"
_BLOB: Final = ""
"""The media type under which the bytes of a blob are remembered."""


class NotHeld(NotFound):
    """A document that was not read before, where nobody is asked for it."""


class RemoteRepository(NamedTuple):
    """A repository at a registry."""

    registry: str
    repository: Repository


class IndexChild(NamedTuple):
    """One image of an index: its manifest's digest, its platform, and what the index says of it."""

    digest: Digest
    platform: Platform | None
    annotations: Mapping[str, str]


class ImageDocuments:
    """Reads. `mirrors`: for a registry, where its images can be had too, and are asked for first: a host, and what its names
    begin with.

    `max_kept_bytes`: what is larger is not remembered. Whoever has others to answer meanwhile has no time to pack much.
    `read_s`: how long reading a blob may take.
    """

    def __init__(
        self,
        transport: Transport,
        learned: DocumentCache,
        mirrors: Mapping[str, tuple[str, str]] | None = None,
        *,
        max_kept_bytes: int = MAX_BODY_BYTES,
        read_s: float = READ_S,
    ) -> None:
        self._transport = transport
        self._learned = learned
        self._mirrors = mirrors or {}
        self._max_kept_bytes = max_kept_bytes
        self._read_s = read_s
        self._asks = True
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._asked: dict[tuple[RemoteRepository, Digest], asyncio.Task[Manifest]] = {}
        self._blobs: dict[tuple[RemoteRepository, Digest], asyncio.Task[bytes]] = {}
        self._small: OrderedDict[Digest, Manifest] = OrderedDict()
        self._facts: dict[Digest, ImageFacts] = {}

    def held(self) -> ImageDocuments:
        """These documents as far as they were read before: no registry is asked, and what is not there is NotHeld."""
        held = copy(self)
        held._asks = False
        held._asked, held._blobs = {}, {}
        return held

    async def manifest(self, place: RemoteRepository, digest: Digest) -> Manifest:
        """A manifest or index. RemoteNotFound, RemoteMismatch, ..."""
        if digest in self._small:
            return self._small[digest]
        task = self._asked.get((place, digest))
        if task is None:
            task = self._asked[place, digest] = asyncio.create_task(self._manifest(place, digest))
            task.add_done_callback(lambda _: self._asked.pop((place, digest), None))
        found = await asyncio.shield(task)
        if len(found.raw) <= SMALL_BYTES:
            self._small[digest] = found
            while len(self._small) > MAX_SMALL:
                self._small.popitem(last=False)
        return found

    async def blob(self, place: RemoteRepository, digest: Digest, size: int) -> bytes:
        """A small blob, such as a config, of so many bytes. RemoteNotFound, RemoteMismatch, ..."""
        task = self._blobs.get((place, digest))
        if task is None:
            task = self._blobs[place, digest] = asyncio.create_task(self._blob(place, digest, size))
            task.add_done_callback(lambda _: self._blobs.pop((place, digest), None))
        return await asyncio.shield(task)

    async def facts(self, place: RemoteRepository, digest: Digest) -> ImageFacts:
        """What an image is made of. NotAnImage, NotRead, RemoteNotFound, ..."""
        if digest not in self._facts:
            manifest = await self.manifest(place, digest)
            config, size = config_of(manifest, digest)
            raw = await self.blob(place, config, size)
            if len(raw) <= SMALL_BYTES:
                self._facts[digest] = read_facts(manifest, digest, raw)
            else:
                self._facts[digest] = await asyncio.to_thread(read_facts, manifest, digest, raw)
        return self._facts[digest]

    async def facts_for(self, place: RemoteRepository, digest: Digest, platform: Platform) -> ImageFacts | None:
        """The same, of an index or an image, for one platform; None where there is nothing for it."""
        manifest = await self.manifest(place, digest)
        if not manifest.is_index:
            found = await self.facts(place, digest)
            return found if same_platform(found.platform, platform) else None
        for child in images_of_index(manifest):
            if child.platform is not None and same_platform(child.platform, platform):
                return await self.facts(place, child.digest)
        return None

    async def statements(self, place: RemoteRepository, index: Manifest, of: Digest) -> list[bytes]:
        """The provenance that an index carries for one of its images, as it stands; nothing where it can't be read."""
        found: list[bytes] = []
        about = [one for one in index.manifests if one.annotations.get(ATTESTED) == str(of)]
        for entry in about[:MAX_STATEMENTS]:
            if entry.media_type not in MANIFEST_TYPES:
                continue
            try:
                layers = (await self.manifest(place, entry.digest)).layers
                told = [one for one in layers if "slsa.dev/provenance" in one.annotations.get(PREDICATE, "")]
                told = [one for one in told if one.size <= MAX_STATEMENT_BYTES][:MAX_STATEMENTS]
                found += [await self.blob(place, one.digest, one.size) for one in told]
            except BoltsealError:  # it is one source of several
                continue
        return found

    async def _manifest(self, place: RemoteRepository, digest: Digest) -> Manifest:
        held = self._learned.document(digest)
        if held is not None and held[0] != _BLOB:
            return parse_manifest(held[1], held[0])
        if not self._asks:
            raise NotHeld(f"nothing was read of {digest.short} here while {place.registry} had it")
        async with self._at_once:
            for where in self._places(place):
                try:
                    found = await RegistryClient(self._transport, where.registry).manifest(where.repository, digest)
                    break
                except BoltsealError:
                    if where == place:
                        raise
        self._keep(digest, found.media_type, found.raw)
        return found

    async def _blob(self, place: RemoteRepository, digest: Digest, size: int) -> bytes:
        held = self._learned.document(digest)
        if held is not None:
            return held[1]
        if not self._asks:
            raise NotHeld(f"nothing was read of {digest.short} here while {place.registry} had it")
        async with self._at_once:
            for where in self._places(place):
                try:
                    raw = await self._read_blob(where, digest, size)
                    break
                except BoltsealError:
                    if where == place:
                        raise
        self._keep(digest, _BLOB, raw)
        return raw

    async def _read_blob(self, where: RemoteRepository, digest: Digest, size: int) -> bytes:
        client = RegistryClient(self._transport, where.registry)
        try:
            async with asyncio.timeout(self._read_s):
                return b"".join([piece async for piece in client.blob(where.repository, digest, size)])
        except TimeoutError as error:
            raise RemoteUnavailable(
                f"{where.registry} did not send {size} bytes of {digest.short} within {self._read_s:g} s"
            ) from error

    def _keep(self, digest: Digest, media_type: str, raw: bytes) -> None:
        if len(raw) <= self._max_kept_bytes:
            self._learned.keep(digest, media_type, raw)

    def _places(self, place: RemoteRepository) -> list[RemoteRepository]:
        """The mirror, if there is one, then the registry itself, which has the last word on what is not there."""
        mirror = self._mirrors.get(place.registry)
        if mirror is None:
            return [place]
        host, prefix = mirror
        return [
            RemoteRepository(host, Repository(f"{prefix}/{place.repository}" if prefix else place.repository)),
            place,
        ]


def images_of_index(index: Manifest) -> list[IndexChild]:
    """The images of an index, without attestations. NotRead where they are more than anybody's platforms."""
    found = [
        IndexChild(entry.digest, entry.platform, entry.annotations)
        for entry in index.manifests
        if entry.media_type in MANIFEST_TYPES and not _attestation(entry)
    ]
    if len(found) > MAX_CHILDREN:
        raise NotRead(f"an index of {len(found)} images; at most {MAX_CHILDREN} are looked at")
    return found


def same_platform(one: Platform, other: Platform) -> bool:
    """Whether two platforms are the same machine; arm64 is arm64/v8, and a variant that only one names is no other."""
    if (one.os, one.architecture) != (other.os, other.architecture):
        return not (one.os or one.architecture) or not (other.os or other.architecture)
    default = "v8" if one.architecture == "arm64" else ""
    return (one.variant or default) == (other.variant or default) or not (one.variant and other.variant)


def _attestation(entry: Descriptor) -> bool:
    return ATTESTED in entry.annotations or str(entry.platform) == _UNKNOWN

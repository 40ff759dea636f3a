"""A source of a transfer with a few documents in memory, named 0, 1, ... in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest, parse_manifest
from boltseal.transfer.protocols import LocationNotFound
from tests.images import Document


class MemorySource:
    """An in-memory source, as `transfer.protocols.Source` defines it."""

    title = "memory"

    def __init__(self, *documents: Document) -> None:
        self._top = documents
        self._manifests = {each.digest: each for document in documents for each in _all(document)}
        self._blobs = {blob.digest: blob.data for each in self._manifests.values() for blob in each.blobs}

    async def resolve(self, name: str | None) -> Digest:
        if name is None or not name.isdecimal():
            raise LocationNotFound(f"memory has no {name}")
        return Digest.parse(self._top[int(name)].digest)

    async def manifest(self, digest: Digest) -> Manifest:
        document = self._manifests[str(digest)]
        return parse_manifest(document.raw, document.media_type)

    async def blob(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        yield self._blobs[str(descriptor.digest)]

    async def names(self) -> list[str]:
        return [str(number) for number in range(len(self._top))]

    async def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        return ()


def _all(document: Document) -> Iterator[Document]:
    yield document
    for child in document.children:
        yield from _all(child)

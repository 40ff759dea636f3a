"""Read the layer chains that registries with a ledger keep of their former images, also of deleted ones.

A chain is the registry's statement: unlike a document, it has no digest that proves it. So it only stands in for documents
that are gone, and saves reading those of images that no image of the scan begins with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from boltseal.client.document_cache import DocumentCache
from boltseal.client.ledger_client import LedgerClient
from boltseal.client.transport import Transport
from boltseal.errors import NotFound
from boltseal.oci.digest import Digest
from boltseal.oci.layer_chain import VERSION, ChainDocument, ImageChain, parse_chain
from boltseal.oci.platform import Platform
from boltseal.project.bases.image_documents import RemoteRepository
from boltseal.project.bases.image_facts import NotAnImage
from boltseal.project.bases.index_children import same_platform
from boltseal.project.bases.layer_chains import KnownImage


class KeptChains:
    """Asks for each chain once. `has_ledger`: whether a registry is known to keep a ledger; others are not asked."""

    def __init__(self, transport: Transport, cache: DocumentCache, has_ledger: Callable[[str], bool]) -> None:
        self._transport = transport
        self._cache = cache
        self._has_ledger = has_ledger
        self._asked: set[tuple[RemoteRepository, Digest]] = set()
        self._found: dict[tuple[RemoteRepository, Digest], ChainDocument] = {}

    async def read(self, remote: RemoteRepository, digests: Iterable[Digest]) -> None:
        """Read the chains of manifests, and of the images of those that are indexes. Raises: remote errors."""
        wanted = {digest for digest in digests if (remote, digest) not in self._asked}
        if not wanted or not self._has_ledger(remote.registry):
            return
        self._asked |= {(remote, digest) for digest in wanted}
        name = f"{remote.registry}/{remote.repository}"
        known = self._take(remote, self._cache.chains(name, wanted))
        images = {Digest.parse(image.digest) for each in known.values() for image in each.images or ()}
        known |= self._take(remote, self._cache.chains(name, images))
        missing = sorted((wanted | images) - known.keys(), key=str)
        if missing:
            chains = await LedgerClient(self._transport, remote.registry).chains(remote.repository, missing)
            self._take(remote, chains)
            self._cache.keep_chains(name, chains)

    def _take(self, remote: RemoteRepository, chains: Mapping[Digest, bytes]) -> dict[Digest, ChainDocument]:
        """Return those chains that can be parsed and compared, and remember them."""
        found: dict[Digest, ChainDocument] = {}
        for digest, raw in chains.items():
            with suppress(ValueError):
                document = parse_chain(raw)
                if document.version == VERSION:
                    found[digest] = document
        self._found |= {(remote, digest): document for digest, document in found.items()}
        return found

    def known(self, remote: RemoteRepository, digest: Digest, platform: Platform) -> KnownImage | None:
        """Return an image for a platform, or an index's; None if there is none for it. `read` must have been called.

        Raises: NotFound: nothing is known of it; NotAnImage.
        """
        document = self._document(remote, digest)
        if document.image is not None:
            return KnownImage(digest, document.image) if same_platform(_platform(document.image), platform) else None
        if document.images is None:
            raise NotAnImage(f"{digest.short} is not a container image")
        for each in document.images:
            if each.has_platform and same_platform(Platform(each.os, each.architecture, each.variant), platform):
                child = Digest.parse(each.digest)
                found = self._document(remote, child).image
                if found is None:
                    raise NotAnImage(f"{child.short} is not a container image")
                return KnownImage(child, found)
        return None

    def _document(self, remote: RemoteRepository, digest: Digest) -> ChainDocument:
        document = self._found.get((remote, digest))
        if document is None or document.unreadable:
            reason = "" if document is None else f": {document.unreadable}"
            raise NotFound(f"{remote.registry} keeps no layers of {digest.short}{reason}")
        return document


def _platform(chain: ImageChain) -> Platform:
    return Platform(chain.os, chain.architecture, chain.variant)

"""What the push proxy sends upstream before a manifest: the blobs and child manifests that upstream lacks.

Blobs were forwarded as they arrived, or are mounted from another repository of the same upstream. Child manifests are put
before the index that contains them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import ClassVar, Final

import structlog

from boltseal.client.errors import RemoteNotFound
from boltseal.errors import BoltsealError, ErrorCode, Invalid, Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import LinkKind, Manifest, parse_manifest
from boltseal.oci.reference import Repository
from boltseal.server.mirror.single_flight import SingleFlight
from boltseal.server.mirror.upstream_limits import UpstreamLimits
from boltseal.server.mirror.upstreams import Upstream
from boltseal.server.registry import Registry
from boltseal.server.registry.pulls import BlobUnknown
from boltseal.server.storage.blobs.protocol import BlobStore
from boltseal.server.storage.coordination.protocol import InterprocessLock

BLOB_LOCK_WAIT_S: Final = 600.0
MAX_CONCURRENT_BLOBS: Final = 4
PASSED_ON: Final = "push_proxy_blobs_uploaded"
MOUNTED: Final = "push_proxy_blobs_mounted"
REMEMBERED: Final = 10_000
MAX_DEPTH: Final = 5

_log = structlog.get_logger(__name__)


class PartMissing(Invalid):
    """Neither this registry nor upstream has a part of the manifest."""

    code: ClassVar[ErrorCode | None] = ErrorCode.MANIFEST_BLOB_UNKNOWN


class PartForwarding:
    """Forwards the parts of manifests. One per push proxy; ended with `aclose`."""

    def __init__(
        self,
        registry: Registry,
        store: BlobStore,
        limits: UpstreamLimits,
        locks: InterprocessLock,
        *,
        count: Callable[[str], None],
    ) -> None:
        self._pulls = registry.pulls
        self._reserved_pushes = registry.reserved_pushes
        self._store = store
        self._limits = limits
        self._locks = locks
        self._count = count
        self._known_upstream: OrderedDict[tuple[str, Digest], None] = OrderedDict()
        """Blobs and child manifests that upstream is known to have, by local repository."""
        self._forwarding: SingleFlight[tuple[Repository, Digest], None] = SingleFlight()
        self._blob_slots = asyncio.Semaphore(MAX_CONCURRENT_BLOBS)

    async def aclose(self) -> None:
        """Cancel what is in progress."""
        await self._forwarding.aclose()

    def forget(self) -> None:
        """Forget what upstream has: it may have deleted content."""
        self._known_upstream.clear()

    def begin_blob(self, upstream: Upstream, repository: Repository, digest: Digest) -> None:
        """Forward a stored blob in the background. If that fails, the push of the manifest retries it."""
        key = repository, digest
        self._forwarding.begin(key, lambda: self._forward_in_background(upstream, repository, digest))

    async def forward(self, upstream: Upstream, repository: Repository, manifest: Manifest, depth: int = 0) -> None:
        """Make sure that upstream has everything that the manifest references. Raises: PartMissing, Unavailable."""
        if depth > MAX_DEPTH:
            raise PartMissing(f"indexes are nested deeper than {MAX_DEPTH}")
        blobs, children = [], []
        for link in manifest.references():
            if link.kind is LinkKind.CHILD:
                children.append(link.descriptor.digest)
            elif link.kind in (LinkKind.CONFIG, LinkKind.LAYER):
                blobs.append(link.descriptor.digest)
        forwards = (self._forward_part(upstream, repository, digest) for digest in dict.fromkeys(blobs))
        for failure in await asyncio.gather(*forwards, return_exceptions=True):
            if failure is not None:
                raise failure
        for digest in children:
            await self._forward_child(upstream, repository, digest, depth)

    async def _forward_part(self, upstream: Upstream, repository: Repository, digest: Digest) -> None:
        for _ in range(3):  # the first may join a background transfer that fails
            await self._forwarding.once(
                (repository, digest), lambda: self._forward_stored_blob(upstream, repository, digest)
            )
            if (repository, digest) in self._known_upstream:
                return
        raise Unavailable(f"{digest.short} could not be forwarded to {upstream.terms.name}; push again")

    async def _forward_child(self, upstream: Upstream, repository: Repository, digest: Digest, depth: int) -> None:
        if (repository, digest) in self._known_upstream:
            return
        remote = upstream.remote(repository)
        try:
            await upstream.pushing.resolve(remote, digest)
        except RemoteNotFound:
            manifest = await self.stored_manifest(repository, digest)
            if manifest is None:
                raise _missing(upstream, digest) from None
            await self.forward(upstream, repository, manifest, depth + 1)
            await upstream.pushing.put_manifest(remote, digest, manifest)
        self.remember(repository, digest)

    async def stored_manifest(self, repository: Repository, digest: Digest) -> Manifest | None:
        """Return a manifest that is stored here, or None."""
        stored = await self._pulls.stored_manifest(repository, digest)
        return None if stored is None else parse_manifest(stored.raw, stored.media_type)

    async def _forward_in_background(self, upstream: Upstream, repository: Repository, digest: Digest) -> None:
        try:
            async with self._limits.asking(upstream, stream=True):
                await self._forward_stored_blob(upstream, repository, digest)
        except BoltsealError as error:
            _log.info("blob not forwarded yet", repository=repository, reason=error.message)

    async def _forward_stored_blob(self, upstream: Upstream, repository: Repository, digest: Digest) -> None:
        """Make sure that upstream has a blob: it does, or it can mount it, or its bytes are sent."""
        if (repository, digest) in self._known_upstream:
            return
        remote = upstream.remote(repository)
        async with self._blob_slots, self._locks.taken(f"blob {repository} {digest}", BLOB_LOCK_WAIT_S):
            if await upstream.pushing.has_blob(remote, digest) is None:
                try:
                    size = (await self._pulls.blob(repository, digest, hidden=True)).size
                except BlobUnknown as error:
                    raise _missing(upstream, digest) from error
                others = await self._reserved_pushes.repositories_with_blob(digest, f"{upstream.terms.name}/")
                source = next((upstream.remote(other) for other in others if other != repository), None)

                def body() -> AsyncIterator[bytes]:
                    return self._store.read(digest, 0, size)

                mounted = await upstream.pushing.put_blob(remote, digest, size, body, source)
                self._count(MOUNTED if mounted else PASSED_ON)
        self.remember(repository, digest)

    def remember(self, repository: Repository, digest: Digest) -> None:
        """Record that upstream has a blob or a manifest."""
        self._known_upstream[repository, digest] = None
        while len(self._known_upstream) > REMEMBERED:
            self._known_upstream.popitem(last=False)


def _missing(upstream: Upstream, digest: Digest) -> PartMissing:
    return PartMissing(f"neither this registry nor {upstream.terms.name} has {digest}: push it first")

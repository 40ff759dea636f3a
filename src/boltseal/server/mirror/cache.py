"""The pull-through cache: serves upstreams' images from the store, and fetches each missing one once.

`upstream_tags` resolves a tag upstream. The manifest is fetched only if the store lacks that digest, so it is always
fetched by digest, and once for all workers. Rows belong to the local repository (`docker.io/library/node`), like those of
pushed images, and repositories are isolated from each other. `blobs` fetches blobs.

If upstream fails, stored content is served with a warning that upstream may have something newer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from boltseal.errors import BoltsealError, Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.upstreams import UpstreamTerms
from boltseal.server.mirror.blob_fetch import Fetch
from boltseal.server.mirror.blobs import MirroredBlobs
from boltseal.server.mirror.errors import client_error
from boltseal.server.mirror.last_pull import LastPulls
from boltseal.server.mirror.single_flight import SingleFlight
from boltseal.server.mirror.upstream_limits import UpstreamLimits
from boltseal.server.mirror.upstream_lists import UpstreamLists
from boltseal.server.mirror.upstream_tags import UpstreamTag, UpstreamTags
from boltseal.server.mirror.upstreams import Upstream, Upstreams
from boltseal.server.registry import Registry
from boltseal.server.registry.models import ManifestAnswer, ManifestPush, PushedManifest
from boltseal.server.registry.pulls import ManifestUnknown, TagDeleted
from boltseal.server.storage.blobs.protocol import BlobStore
from boltseal.server.storage.coordination.protocol import InterprocessLock

MANIFESTS_FETCHED: Final = "mirror_manifests_fetched"
SERVED_WITH_WARNING: Final = "mirror_served_with_warning"
CACHED_US: Final = 1_000_000
CACHE_LIMIT: Final = 1000
"""How many answers for tags are cached within one generation of the store, and for how long at most. A popular tag is
requested thousands of times a second, and applying its rules each time would take half of the time."""

LOCK_WAIT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class MirroredManifest:
    """A manifest to serve. `warning`: why upstream may have another one by now, None where it cannot."""

    answer: ManifestAnswer
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class _CachedAnswer:
    """The answer for a tag at `at_us`, valid for `for_us` in this generation of the store."""

    served: MirroredManifest
    generation: int
    at_us: int
    for_us: int


class MirrorCache:
    """Every read of a mirrored repository. One per process; ended with `aclose`.

    `check_disk`: raises ReserveReached when that many more bytes do not fit. `read_only`: returns why nothing may be
    stored, or None. `count`: counts an event by name. `cache_limit`: how many answers for tags are cached.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        tags: UpstreamTags,
        limits: UpstreamLimits,
        registry: Registry,
        store: BlobStore,
        lists: UpstreamLists,
        locks: InterprocessLock,
        last_pulls: LastPulls,
        *,
        clock: Callable[[], int],
        check_disk: Callable[[int], None],
        read_only: Callable[[], str | None],
        count: Callable[[str], None],
        cache_limit: int = CACHE_LIMIT,
    ) -> None:
        self._upstreams = upstreams
        self._tags = tags
        self._limits = limits
        self.lists = lists
        self._pulls = registry.pulls
        self._observations = registry.observations
        self._manifests = registry.manifests
        self._read_only = read_only
        self._count = count
        self._locks = locks
        self._last_pulls = last_pulls
        self._blobs = MirroredBlobs(
            registry.pulls, registry.uploads, store, limits, locks, check_disk=check_disk, count=count
        )
        self._requests: SingleFlight[tuple[Repository, Digest], ManifestAnswer] = SingleFlight()
        self._clock = clock
        self._cached: OrderedDict[tuple[Repository, Tag], _CachedAnswer] = OrderedDict()
        self._cache_limit = cache_limit

    def use_registry(self, registry: Registry) -> None:
        """Store what is fetched from now on through the registry that a reload has built. Its `pulls` must be the same."""
        self._manifests = registry.manifests
        self._blobs.uploads = registry.uploads

    def upstream(self, terms: UpstreamTerms) -> Upstream:
        """Return the upstream with these terms."""
        return self._upstreams.by_name[terms.name]

    async def aclose(self) -> None:
        """Cancel running fetches and write the times of the last pulls."""
        await self._tags.aclose()
        await self._requests.aclose()
        await self._blobs.aclose()
        await self.lists.aclose()
        await self._last_pulls.write()

    async def run(self) -> None:
        """Run the background work of the mirror, until cancelled."""
        await self._last_pulls.run()

    def count_warning(self) -> None:
        """Count an answer that was sent with a warning."""
        self._count(SERVED_WITH_WARNING)

    async def by_tag(self, upstream: Upstream, repository: Repository, tag: Tag) -> MirroredManifest:
        """Return the manifest that a tag resolves to.

        Raises:
            ManifestUnknown: upstream has no such tag.
            TagDeleted: the tag was sealed here and deleted, and upstream has another digest.
            BoltsealError: upstream failed, and nothing is stored to serve.
        """
        generation, now_us = self._pulls.generation(), self._clock()
        cached = self._cached.get((repository, tag))
        if cached is not None and cached.generation == generation and 0 <= now_us - cached.at_us < cached.for_us:
            return cached.served  # its pull was noted when it was cached, and counts for an hour
        served = await self._by_tag(upstream, repository, tag)
        for_us = min(CACHED_US, upstream.terms.fresh_us)
        if served.warning is None and for_us and generation is not None:
            self._cached[repository, tag] = _CachedAnswer(served, generation, now_us, for_us)
            self._cached.move_to_end((repository, tag))
            while len(self._cached) > self._cache_limit:
                self._cached.popitem(last=False)
        return served

    async def _by_tag(self, upstream: Upstream, repository: Repository, tag: Tag) -> MirroredManifest:
        local = await self._local_tag(repository, tag)
        if isinstance(local, ManifestAnswer):
            return MirroredManifest(local)
        resolved = await self._resolve(upstream, repository, tag, local)
        warning = resolved.warning
        try:
            found = await self.by_digest(upstream, repository, resolved.digest)
        except BoltsealError as error:
            found = await self._earlier(repository, tag, resolved.digest, error)
            warning = error.message
        return MirroredManifest(replace(found, sealed=False, by_digest=False), warning)

    async def resolve(self, upstream: Upstream, repository: Repository, tag: Tag) -> UpstreamTag | None:
        """Resolve a tag without fetching its manifest; None: a local seal decides, use `by_tag`. Raises as `by_tag`."""
        local = await self._local_tag(repository, tag)
        if isinstance(local, ManifestAnswer):
            return None
        resolved = await self._resolve(upstream, repository, tag, local)
        self._last_pulls.note(repository, resolved.digest)
        return resolved

    async def by_digest(self, upstream: Upstream, repository: Repository, digest: Digest) -> ManifestAnswer:
        """Return a manifest by digest, from the store or from upstream.

        Raises:
            ManifestUnknown: neither has it.
            BoltsealError: upstream failed.
        """
        found = await self._pulls.stored_manifest(repository, digest)
        if found is None:
            found = await self._requests.once((repository, digest), lambda: self._fetch(upstream, repository, digest))
        self._last_pulls.note(repository, digest)  # only after success, or invented digests would displace real ones
        return found

    async def blob(self, upstream: Upstream, repository: Repository, digest: Digest) -> Fetch | None:
        """Return the fetch of a blob; None: it is stored."""
        if await self._blobs.stored(repository, digest):
            return None
        self._check_writable(upstream)
        return await self._blobs.fetch(upstream, repository, digest)

    async def _local_tag(self, repository: Repository, tag: Tag) -> ManifestAnswer | TagDeleted | None:
        """Return the local sealed manifest of a tag, its tombstone, or None where the tag was never sealed (guarantee 1)."""
        try:
            found = await self._pulls.manifest(repository, tag)
        except TagDeleted as tombstone:
            return tombstone
        except ManifestUnknown:
            return None
        return found if found.sealed else None

    async def _resolve(
        self, upstream: Upstream, repository: Repository, tag: Tag, tombstone: TagDeleted | None
    ) -> UpstreamTag:
        try:
            resolved = await self._tags.resolve(upstream, repository, tag)
        except BoltsealError as error:
            raise client_error(error, ManifestUnknown) from error
        if tombstone is not None and tombstone.bound != str(resolved.digest):
            raise tombstone
        return resolved

    async def _earlier(self, repository: Repository, tag: Tag, now: Digest, error: BoltsealError) -> ManifestAnswer:
        """Return the newest stored manifest that the tag resolved to before, or raise `error` where none is stored."""
        for digest in await self._observations.earlier_digests(repository, tag, now):
            found = await self._pulls.stored_manifest(repository, digest)
            if found is not None:
                return found
        raise error

    async def _fetch(self, upstream: Upstream, repository: Repository, digest: Digest) -> ManifestAnswer:
        self._check_writable(upstream)
        try:
            async with self._locks.taken(f"manifest {repository} {digest}", LOCK_WAIT_S):
                found = await self._pulls.stored_manifest(repository, digest)
                if found is not None:  # another worker has fetched it meanwhile
                    return found
                manifest = self._tags.take_fetched(repository, digest)
                if manifest is None:
                    async with self._limits.asking(upstream, pull=True):
                        manifest = await upstream.client.manifest(upstream.remote(repository), digest)
                self._count(MANIFESTS_FETCHED)
                pushed = PushedManifest.of(manifest, digest)
                await self._manifests.put_parsed(ManifestPush(repository, pushed, (), upstream.actor))
                return await self._pulls.manifest(repository, digest)
        except BoltsealError as error:
            raise client_error(error, ManifestUnknown) from error

    def _check_writable(self, upstream: Upstream) -> None:
        reason = self._read_only()
        if reason is not None:
            raise Unavailable(
                f"this content is not stored yet, and cannot be fetched from {upstream.terms.name}: {reason}"
            )

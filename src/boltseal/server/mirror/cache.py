"""Upstream's images from our store: what is here is served from here, what is not is brought once and stored.

What a tag means is asked of upstream (`tags`); its bytes only when that is a digest that is not here yet. So a manifest is
fetched by digest alone, and once for all workers of the store. Rows belong to the repository as it is called here
(`docker.io/library/node`), like those of pushed images, and walls stand between them too. Blobs: `blobs`.

Whatever upstream does, what is here is served: with a warning where upstream might say something else by now.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from boltseal.errors import BoltsealError, Unavailable
from boltseal.oci.digest import Digest
from boltseal.server.mirror.blobs import MirroredBlobs
from boltseal.server.mirror.errors import told
from boltseal.server.mirror.single_flight import SingleFlight
from boltseal.server.registry.models import UNCONDITIONAL, ManifestAnswer
from boltseal.server.registry.pulls import ManifestUnknown, TagDeleted

if TYPE_CHECKING:
    from boltseal.oci.reference import Repository, Tag
    from boltseal.policy.upstreams import UpstreamTerms
    from boltseal.server.mirror.blob_fetch import Fetch
    from boltseal.server.mirror.last_pull import LastPulls
    from boltseal.server.mirror.upstream_limits import UpstreamLimits
    from boltseal.server.mirror.upstream_lists import UpstreamLists
    from boltseal.server.mirror.upstream_tags import UpstreamTag, UpstreamTags
    from boltseal.server.mirror.upstreams import Upstream, Upstreams
    from boltseal.server.registry import Registry
    from boltseal.server.storage.blobs.protocol import BlobStore
    from boltseal.server.storage.coordination.protocol import InterprocessLock

MANIFESTS_FETCHED: Final = "mirror_manifests_fetched"
SERVED_WITH_WARNING: Final = "mirror_served_with_warning"
WARM_US: Final = 1_000_000
WARM_MOST: Final = 1000
"""How many answers are at hand while nothing was taken away from what the store says, and for how long at most: what is
popular is asked for thousands of times a second, and making out each time what holds for it would take half of the time."""

OTHERS_WAIT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class MirroredManifest:
    """A manifest to answer with. `warning`: why upstream might say otherwise by now, None where it can't."""

    answer: ManifestAnswer
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class _Warm:
    """What a tag was answered with at `at_us`, in this generation of the store; and how long that counts."""

    served: MirroredManifest
    generation: int
    at_us: int
    for_us: int


class Mirror:
    """Every read of a mirrored repository. One per process; ended with `aclose`.

    `check_room`: refuses so many bytes more than are there (ReserveReached). `read_only`: why nothing may be stored now, or
    None. `count`: takes the name of what has happened once more. `warm_most`: how many answers are at hand.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        tags: UpstreamTags,
        limits: UpstreamLimits,
        registry: Registry,
        store: BlobStore,
        relay: UpstreamLists,
        turns: InterprocessLock,
        uses: LastPulls,
        *,
        clock: Callable[[], int],
        check_room: Callable[[int], None],
        read_only: Callable[[], str | None],
        count: Callable[[str], None],
        warm_most: int = WARM_MOST,
    ) -> None:
        self._upstreams = upstreams
        self._tags = tags
        self._limits = limits
        self.relay = relay
        self._pulls = registry.pulls
        self._manifests = registry.manifests
        self._read_only = read_only
        self._count = count
        self._turns = turns
        self._uses = uses
        self._blobs = MirroredBlobs(
            registry.pulls, registry.uploads, store, limits, turns, check_room=check_room, count=count
        )
        self._flights: SingleFlight[tuple[Repository, Digest], ManifestAnswer] = SingleFlight()
        self._clock = clock
        self._warm: OrderedDict[tuple[Repository, Tag], _Warm] = OrderedDict()
        self._warm_most = warm_most

    def upstream(self, terms: UpstreamTerms) -> Upstream:
        """The upstream that a name led to."""
        return self._upstreams.by_name[terms.name]

    async def aclose(self) -> None:
        """End what is under way."""
        await self._tags.aclose()
        await self._flights.aclose()
        await self._blobs.aclose()
        await self.relay.aclose()
        await self._uses.write()

    async def run(self) -> None:
        """What is to be done beside answering, for ever."""
        await self._uses.run()

    def warned(self) -> None:
        """An answer left with a warning."""
        self._count(SERVED_WITH_WARNING)

    async def by_tag(self, upstream: Upstream, repository: Repository, tag: Tag) -> MirroredManifest:
        """What a tag means, whole. ManifestUnknown, TagDeleted, and what upstream failed with where nothing is here."""
        generation, now_us = self._pulls.generation(), self._clock()
        warm = self._warm.get((repository, tag))
        if warm is not None and warm.generation == generation and 0 <= now_us - warm.at_us < warm.for_us:
            return warm.served  # its use is noted: that counts for an hour
        served = await self._by_tag(upstream, repository, tag)
        for_us = min(WARM_US, upstream.terms.fresh_us)
        if served.warning is None and for_us and generation is not None:
            self._warm[repository, tag] = _Warm(served, generation, now_us, for_us)
            self._warm.move_to_end((repository, tag))
            while len(self._warm) > self._warm_most:
                self._warm.popitem(last=False)
        return served

    async def _by_tag(self, upstream: Upstream, repository: Repository, tag: Tag) -> MirroredManifest:
        ours = await self._ours(repository, tag)
        if isinstance(ours, ManifestAnswer):
            return MirroredManifest(ours)
        meaning = await self._ask(upstream, repository, tag, ours)
        warning = meaning.warning
        try:
            found = await self.by_digest(upstream, repository, meaning.digest)
        except BoltsealError as error:
            found = await self._before(repository, tag, meaning.digest, error)
            warning = error.message
        return MirroredManifest(replace(found, sealed=False, by_digest=False), warning)

    async def meaning(self, upstream: Upstream, repository: Repository, tag: Tag) -> UpstreamTag | None:
        """What a tag means, without its bytes; None: our own seal says, and `by_tag` knows. Raises as `by_tag`."""
        ours = await self._ours(repository, tag)
        if isinstance(ours, ManifestAnswer):
            return None
        meaning = await self._ask(upstream, repository, tag, ours)
        self._uses.note(repository, meaning.digest)
        return meaning

    async def by_digest(self, upstream: Upstream, repository: Repository, digest: Digest) -> ManifestAnswer:
        """A manifest by its digest, from here or from upstream. ManifestUnknown, RemoteMismatch, ..."""
        try:
            found = await self._pulls.manifest(repository, digest)
        except ManifestUnknown:
            found = await self._flights.once((repository, digest), lambda: self._fetch(upstream, repository, digest))
        self._uses.note(
            repository, digest
        )  # not before: digests that somebody made up would take the place of real ones
        return found

    async def blob(self, upstream: Upstream, repository: Repository, digest: Digest) -> Fetch | None:
        """A blob on its way here; None: it is here."""
        if await self._blobs.held(repository, digest):
            return None
        self._check_writable(upstream)
        return await self._blobs.fetch(upstream, repository, digest)

    async def _ours(self, repository: Repository, tag: Tag) -> ManifestAnswer | TagDeleted | None:
        """What we promised of this name ourselves: a seal, the tombstone of one, or nothing (promise 1)."""
        try:
            found = await self._pulls.manifest(repository, tag)
        except TagDeleted as tombstone:
            return tombstone
        except ManifestUnknown:
            return None
        return found if found.sealed else None

    async def _ask(self, upstream: Upstream, repository: Repository, tag: Tag, bound: TagDeleted | None) -> UpstreamTag:
        try:
            meaning = await self._tags.meaning(upstream, repository, tag)
        except BoltsealError as error:
            raise told(error, ManifestUnknown) from error
        if bound is not None and bound.bound != str(meaning.digest):
            raise bound
        return meaning

    async def _before(self, repository: Repository, tag: Tag, now: Digest, error: BoltsealError) -> ManifestAnswer:
        """The newest of what the tag meant before that is here, by the log of observations; `error` where nothing is."""
        for digest in await self._tags.meant_before(repository, tag, now):
            with contextlib.suppress(ManifestUnknown):
                return await self._pulls.manifest(repository, digest)
        raise error

    async def _fetch(self, upstream: Upstream, repository: Repository, digest: Digest) -> ManifestAnswer:
        self._check_writable(upstream)
        try:
            async with self._turns.taken(f"manifest {repository} {digest}", OTHERS_WAIT_S):
                with contextlib.suppress(ManifestUnknown):  # another worker was quicker
                    return await self._pulls.manifest(repository, digest)
                async with self._limits.asking(upstream, pull=True):
                    manifest = await upstream.client.manifest(upstream.remote(repository), digest)
                self._count(MANIFESTS_FETCHED)
                await self._manifests.put(
                    repository, digest, (), manifest.raw, manifest.media_type, UNCONDITIONAL, upstream.actor
                )
                return await self._pulls.manifest(repository, digest)
        except BoltsealError as error:
            raise told(error, ManifestUnknown) from error

    def _check_writable(self, upstream: Upstream) -> None:
        reason = self._read_only()
        if reason is not None:
            raise Unavailable(f"this is not here yet, and nothing can be fetched from {upstream.terms.name}: {reason}")

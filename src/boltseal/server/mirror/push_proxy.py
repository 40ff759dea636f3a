"""The gate: a push to an upstream's name, judged by our rules, passed on, and ours only when upstream has it.

The steps of a push to a tag, alone of all processes (`server.storage.coordination.interprocess_lock`):

1. What another push left behind when its process died is settled: upstream is asked what became of it (HEAD).
2. The door judges, and the name is reserved (`server.registry.reserved_push`).
3. Upstream is asked (HEAD) what the name means there, where that matters: a sealed name must be absent or mean this very
   manifest, one that only grows must be absent or mean what it means here, and conditions hold for what upstream says.
4. Everything under the manifest is there by now, or is brought: blobs were passed on as they arrived, mounted where the
   same upstream has them in another repository; children go before what names them.
5. The manifest is put upstream.
6. Tag and ledger entry, in one transaction, through the door. Then the client's 201.

A refusal before step 5 leaves nothing. What happened to step 5 when its answer is lost is found out by HEAD, at once or, if
this process dies, by whoever comes next: the next push to the name, or `settle_all` at a start and once a minute.

An upstream that does not answer refuses the push: nothing is taken in on credit. Pushes past the gate can't be stopped;
`boltseal watch` reports them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, ClassVar, Final

import structlog

from boltseal.client.errors import (
    RemoteDenied,
    RemoteNotFound,
    RemoteRefused,
    RemoteUnauthenticated,
    RemoteUnavailable,
)
from boltseal.errors import BoltsealError, Denied, ErrorCode, Invalid, SealedPut, Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import LinkKind, Manifest, parse_manifest
from boltseal.oci.reference import Tag
from boltseal.policy.rules import Mode
from boltseal.server.mirror.single_flight import SingleFlight
from boltseal.server.registry.manifests import prepare
from boltseal.server.registry.models import UNCONDITIONAL
from boltseal.server.registry.preconditions import check_conditions
from boltseal.server.registry.pulls import BlobUnknown, ManifestUnknown
from boltseal.server.registry.reserved_push import PushInProgress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from boltseal.oci.reference import Repository
    from boltseal.server.auth.actor import Actor
    from boltseal.server.mirror.upstream_limits import UpstreamLimits
    from boltseal.server.mirror.upstreams import Upstream, Upstreams
    from boltseal.server.registry import Registry
    from boltseal.server.registry.models import Conditions, Published, PushedManifest
    from boltseal.server.registry.pulls import Pulls
    from boltseal.server.registry.reserved_push import ApprovedPush, Reservation, ReservedPushes
    from boltseal.server.storage.blobs.protocol import BlobStore
    from boltseal.server.storage.coordination.protocol import InterprocessLock

TURN_S: Final = 60.0
BLOB_TURN_S: Final = 600.0
AT_ONCE: Final = 4
PASSED_ON: Final = "gate_blobs_passed_on"
MOUNTED: Final = "gate_blobs_mounted"
REMEMBERED: Final = 10_000
SETTLE_EVERY_S: Final = 60.0
MAX_DEPTH: Final = 5

_log = structlog.get_logger(__name__)


class TakenUpstream(SealedPut):
    """The name is sealed by our rules, and upstream it means something else already."""


class SeveralTags(Invalid):
    """A push with more than one tag: upstream could take the one and refuse the other."""

    code: ClassVar[ErrorCode | None] = ErrorCode.UNSUPPORTED


class UpstreamDenies(Denied):
    """Upstream does not let this registry push."""


class UpstreamUnsettled(Unavailable):
    """It is not known yet whether upstream has taken a push."""


class PartMissing(Invalid):
    """Something under the manifest is neither here nor upstream."""

    code: ClassVar[ErrorCode | None] = ErrorCode.MANIFEST_BLOB_UNKNOWN


class PushProxy:
    """Every push to upstreams' names. One per process; ended with `aclose`. `registry`: whose rules hold; may be replaced."""

    def __init__(
        self,
        registry: Registry,
        store: BlobStore,
        upstreams: Upstreams,
        limits: UpstreamLimits,
        turns: InterprocessLock,
        *,
        count: Callable[[str], None],
    ) -> None:
        self.registry = registry
        self._store = store
        self._upstreams = upstreams
        self._limits = limits
        self._turns = turns
        self._count = count
        self._there: OrderedDict[tuple[str, Digest], None] = OrderedDict()
        self._passing: SingleFlight[tuple[Repository, Digest], None] = SingleFlight()
        self._pushing: set[asyncio.Task[Published]] = set()
        self._at_once = asyncio.Semaphore(AT_ONCE)

    @property
    def _gated(self) -> ReservedPushes:
        return self.registry.gated

    @property
    def _pulls(self) -> Pulls:
        return self.registry.pulls

    async def aclose(self) -> None:
        """End what is under way; what upstream has taken of it is settled by the next process."""
        for task in list(self._pushing):
            task.cancel()
        await asyncio.gather(*self._pushing, return_exceptions=True)
        await self._passing.aclose()

    async def begin(self, upstream: Upstream, repository: Repository) -> None:
        """Before anything is taken in for a repository."""
        await self._gated.begin(repository, upstream.actor)

    def arrived(self, upstream: Upstream, repository: Repository, digest: Digest) -> None:
        """A blob is here: pass it on, beside whatever the client sends next. What fails is done again before the manifest."""
        key = repository, digest
        self._passing.begin(key, lambda: self._pass_on_quietly(upstream, repository, digest))

    async def put(
        self,
        upstream: Upstream,
        repository: Repository,
        reference: Tag | Digest,
        extra_tags: tuple[Tag, ...],
        body: bytes,
        content_type: str | None,
        conditions: Conditions,
        actor: Actor,
    ) -> Published:
        """Pass a manifest on, and hold it when upstream has it. A client that leaves in the middle ends nothing."""
        pushed, tags = prepare(reference, extra_tags, body, content_type)
        if len(tags) > 1:
            raise SeveralTags(
                f"a push to {upstream.terms.name} may name one tag; push {tags[0]} first, then the others"
            )
        await self.begin(upstream, repository)

        async def work() -> Published:
            async with self._limits.asking(upstream):
                if tags:
                    return await self._put_tag(upstream, repository, tags[0], pushed, conditions, actor)
                return await self._put_digest(upstream, repository, pushed, conditions, actor)

        task = asyncio.create_task(work())
        self._pushing.add(task)
        task.add_done_callback(self._pushed)
        try:
            return await asyncio.shield(task)
        except (RemoteUnauthenticated, RemoteDenied, RemoteNotFound) as error:
            raise UpstreamDenies(f"{upstream.terms.name} does not let this registry push: {error.message}") from error

    async def settle_all(self) -> None:
        """Find out what became of pushes whose process died. Never raises."""
        try:
            left = await self._gated.every()
        except BoltsealError as error:
            _log.warning("reservations could not be looked at", reason=error.message)
            return
        for one in left:
            upstream = self._upstreams.by_name.get(one.repository.partition("/")[0])
            if upstream is None or not self._limits.may_spend(upstream):
                continue
            try:
                async with self._turns.taken(_turn(one.repository, one.tag), 0.0):
                    await self._settle(upstream, one.repository, one.tag)
            except BoltsealError as error:
                _log.info("a push could not be settled yet", name=f"{one.repository}:{one.tag}", reason=error.message)

    async def run(self) -> None:
        """Settle what is left over, now and once a minute, until cancelled."""
        while True:
            await self.settle_all()
            await asyncio.sleep(SETTLE_EVERY_S)

    async def _put_tag(
        self,
        upstream: Upstream,
        repository: Repository,
        tag: Tag,
        pushed: PushedManifest,
        conditions: Conditions,
        actor: Actor,
    ) -> Published:
        async with self._turns.taken(_turn(repository, tag), TURN_S):
            # 1
            await self._settle(upstream, repository, tag)
            # 2
            allowed = await self._gated.reserve(repository, tag, pushed, actor)
            with self.registry.refusals.told("push", repository, (tag,), pushed.digest, actor):
                await self._pass_manifest_on(upstream, repository, tag, pushed, conditions, allowed)
            # 6
            return await self._gated.publish(repository, tag, pushed, actor)

    async def _pass_manifest_on(
        self,
        upstream: Upstream,
        repository: Repository,
        tag: Tag,
        pushed: PushedManifest,
        conditions: Conditions,
        allowed: ApprovedPush,
    ) -> None:
        try:
            # 3
            there = await self._means(upstream, repository, tag, allowed.mode, conditions)
            check_conditions(conditions, f"tag {tag} of {repository}", None if there is None else str(there))
            self._judge(upstream, repository, tag, pushed, allowed.mode, allowed.ours, there)
            # 4
            await self._bring_parts(upstream, repository, pushed.manifest)
        except BaseException:
            await self._gated.drop(repository, tag)
            raise
        # 5
        if there is None or there != pushed.identity.canonical:
            await self._put_upstream(upstream, repository, tag, pushed, only_new=allowed.mode is Mode.SEALED)

    async def _put_digest(
        self, upstream: Upstream, repository: Repository, pushed: PushedManifest, conditions: Conditions, actor: Actor
    ) -> Published:
        if conditions != UNCONDITIONAL:
            held = await self._held_manifest(repository, pushed.digest)
            check_conditions(
                conditions, f"manifest {pushed.digest.short}", None if held is None else str(pushed.digest)
            )
        await self._gated.check(repository, pushed, actor)
        await self._bring_parts(upstream, repository, pushed.manifest)
        await upstream.pushing.put_manifest(upstream.remote(repository), pushed.digest, pushed.manifest)
        self._remember(repository, pushed.digest)
        return await self._gated.put(repository, pushed, actor)

    async def _means(
        self, upstream: Upstream, repository: Repository, tag: Tag, mode: Mode, conditions: Conditions
    ) -> Digest | None:
        """What a name means upstream, by HEAD, where anything follows from that; None: nothing, or it does not matter."""
        if mode is Mode.FLOATING and conditions == UNCONDITIONAL:
            return None
        return await self._head(upstream, repository, tag)

    async def _head(self, upstream: Upstream, repository: Repository, tag: Tag) -> Digest | None:
        try:
            found = await upstream.client.resolve(upstream.remote(repository), tag)
        except RemoteNotFound:
            return None
        except RemoteUnauthenticated as error:
            # Docker Hub says so of a repository that is not there yet; whoever may push there will see.
            if upstream.terms.username is not None:
                return None
            raise UpstreamDenies(f"{upstream.terms.name} wants a login: {error.message}") from error
        return found.digest

    def _judge(
        self,
        upstream: Upstream,
        repository: Repository,
        tag: Tag,
        pushed: PushedManifest,
        mode: Mode,
        ours: Digest | None,
        there: Digest | None,
    ) -> None:
        if there is None or there == pushed.identity.canonical or mode is Mode.FLOATING:
            return
        name = f"{upstream.remote(repository)}:{tag}"
        if mode is Mode.SEALED:
            raise TakenUpstream(
                f"{repository}:{tag} is sealed by our rules, and {upstream.terms.name} has {name} already: there it means "
                f"{there}, this push is {pushed.identity.canonical}; publish it under another tag"
            )
        if there != ours:
            here = "nothing" if ours is None else str(ours)
            raise TakenUpstream(
                f"{repository}:{tag} only grows, and was changed past this registry: {upstream.terms.name} says {there}, "
                f"here it means {here}, this push is {pushed.identity.canonical}"
            )

    async def _put_upstream(
        self, upstream: Upstream, repository: Repository, tag: Tag, pushed: PushedManifest, *, only_new: bool
    ) -> None:
        """Step 5. What was decided by upstream drops the reservation; what is not known keeps it."""
        remote = upstream.remote(repository)
        try:
            await upstream.pushing.put_manifest(remote, tag, pushed.manifest, only_new=only_new)
        except RemoteUnavailable as error:
            try:
                there = await self._head(upstream, repository, tag)
            except BoltsealError:
                raise UpstreamUnsettled(
                    f"{upstream.terms.name} did not say whether it took {remote}:{tag}, and can't be asked now: push it "
                    f"again in a moment; {error.message}"
                ) from error
            if there != pushed.identity.canonical:
                await self._gated.drop(repository, tag)
                raise
        except BoltsealError as error:
            await self._gated.drop(repository, tag)
            self._there.clear()  # it may lack what it had
            if isinstance(error, RemoteRefused):
                raise TakenUpstream(f"{upstream.terms.name} refuses {remote}:{tag}: {error.message}") from error
            raise

    async def _settle(self, upstream: Upstream, repository: Repository, tag: Tag) -> None:
        """Step 1. PushInProgress where it can't be told yet."""
        left = await self._gated.reserved(repository, tag)
        if left is None:
            return
        try:
            there = await self._head(upstream, repository, tag)
        except BoltsealError as error:
            if await self._gated.drop_if_over(repository, tag):
                return
            raise PushInProgress(
                f"a push of {left.pushed.digest.short} to {repository}:{tag} was on its way when its process died, and "
                f"{upstream.terms.name} can't be asked what became of it: {error.message}"
            ) from error
        await self._conclude(left, there)

    async def _conclude(self, left: Reservation, there: Digest | None) -> None:
        name = f"{left.repository}:{left.tag}"
        if there != left.pushed.identity.canonical:
            await self._gated.drop(left.repository, left.tag)
            _log.warning("a push that was under way never came through", name=name, digest=str(left.pushed.digest))
            return
        try:
            await self._gated.publish(left.repository, left.tag, left.pushed, left.actor)
        except (SealedPut, Invalid) as error:  # the rules, or what is held, have changed since it was reserved
            await self._gated.drop(left.repository, left.tag)
            _log.error("upstream has what our rules refuse now", name=name, reason=error.message)
        else:
            _log.warning("a push whose process died is published", name=name, digest=str(left.pushed.digest))

    async def _bring_parts(
        self, upstream: Upstream, repository: Repository, manifest: Manifest, depth: int = 0
    ) -> None:
        """Step 4: what the manifest names is upstream."""
        if depth > MAX_DEPTH:
            raise PartMissing(f"indexes are nested deeper than {MAX_DEPTH} in each other")
        blobs, children = [], []
        for link in manifest.references():
            if link.kind is LinkKind.CHILD:
                children.append(link.descriptor.digest)
            elif link.kind in (LinkKind.CONFIG, LinkKind.LAYER):
                blobs.append(link.descriptor.digest)
        bringing = (self._bring_blob(upstream, repository, digest) for digest in dict.fromkeys(blobs))
        for failed in await asyncio.gather(*bringing, return_exceptions=True):
            if failed is not None:
                raise failed
        for digest in children:
            await self._bring_child(upstream, repository, digest, depth)

    async def _bring_blob(self, upstream: Upstream, repository: Repository, digest: Digest) -> None:
        for _ in range(3):  # the first may be one that began when the blob arrived, and failed
            await self._passing.once((repository, digest), lambda: self._pass_on(upstream, repository, digest))
            if (repository, digest) in self._there:
                return
        raise UpstreamUnsettled(f"{digest.short} could not be passed on to {upstream.terms.name}; push again")

    async def _bring_child(self, upstream: Upstream, repository: Repository, digest: Digest, depth: int) -> None:
        if (repository, digest) in self._there:
            return
        remote = upstream.remote(repository)
        try:
            await upstream.pushing.resolve(remote, digest)
        except RemoteNotFound:
            manifest = await self._held_manifest(repository, digest)
            if manifest is None:
                raise PartMissing(f"{digest} is neither here nor at {upstream.terms.name}: push it first") from None
            await self._bring_parts(upstream, repository, manifest, depth + 1)
            await upstream.pushing.put_manifest(remote, digest, manifest)
        self._remember(repository, digest)

    async def _held_manifest(self, repository: Repository, digest: Digest) -> Manifest | None:
        try:
            held = await self._pulls.manifest(repository, digest)
        except ManifestUnknown:
            return None
        return parse_manifest(held.raw, held.media_type)

    async def _pass_on_quietly(self, upstream: Upstream, repository: Repository, digest: Digest) -> None:
        try:
            async with self._limits.asking(upstream):
                await self._pass_on(upstream, repository, digest)
        except BoltsealError as error:
            _log.info("a blob could not be passed on yet", repository=repository, reason=error.message)

    async def _pass_on(self, upstream: Upstream, repository: Repository, digest: Digest) -> None:
        """A blob is upstream: it was, or it is mounted, or its bytes are sent."""
        if (repository, digest) in self._there:
            return
        remote = upstream.remote(repository)
        async with self._at_once, self._turns.taken(f"blob {repository} {digest}", BLOB_TURN_S):
            if await upstream.pushing.has_blob(remote, digest) is None:
                try:
                    size = (await self._pulls.blob(repository, digest)).size
                except BlobUnknown as error:
                    raise PartMissing(
                        f"{digest} is neither here nor at {upstream.terms.name}: push it first"
                    ) from error
                others = await self._gated.holders(digest, f"{upstream.terms.name}/")
                source = next((upstream.remote(other) for other in others if other != repository), None)

                def body() -> AsyncIterator[bytes]:
                    return self._store.read(digest, 0, size)

                mounted = await upstream.pushing.put_blob(remote, digest, size, body, source)
                self._count(MOUNTED if mounted else PASSED_ON)
        self._remember(repository, digest)

    def _remember(self, repository: Repository, digest: Digest) -> None:
        self._there[repository, digest] = None
        while len(self._there) > REMEMBERED:
            self._there.popitem(last=False)

    def _pushed(self, task: asyncio.Task[Published]) -> None:
        self._pushing.discard(task)
        if not task.cancelled():
            task.exception()  # looked at: the client may have left


def _turn(repository: Repository, tag: Tag) -> str:
    return f"gate {repository}:{tag}"

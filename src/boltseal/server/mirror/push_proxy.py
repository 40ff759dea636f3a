"""The push proxy: forwards a push to an upstream, checked by the local rules before and published here afterwards.

The steps of a push to a tag, under a lock that all processes share (`server.storage.coordination.interprocess_lock`):

1. Settle what a push whose process died left behind: ask upstream for the outcome (HEAD).
2. Check the push against the local rules and reserve the tag (`server.registry.reserved_push`).
3. Check that upstream has the evidence which an `[[upstream.rule]]` requires of tags that are served, as this one will be. Ask
   upstream (HEAD) what the tag resolves to there, where that matters. A sealed tag must be absent or resolve to this
   manifest. An append-only tag must be absent or resolve to the same digest as here. Preconditions apply to upstream's
   state.
4. Forward what upstream lacks under the manifest. Blobs were forwarded as they arrived, or are mounted from another
   repository of the same upstream. Child manifests are put before the index that contains them.
5. Put the manifest upstream. For a sealed tag, ask upstream (HEAD) just before and just after: another proxy may push it too.
6. Write tag and ledger entry in one transaction, through the tag writer. Then the client gets its 201.

A refusal before step 5 leaves nothing behind. If the answer to step 5 is lost, a HEAD finds the outcome: at once, or, if
this process dies, in the next push to the tag, or in `settle_all`, which runs at the start and once a minute.

An upstream that does not answer refuses the push: nothing is stored to be forwarded later. Pushes that bypass this
registry cannot be prevented; `boltseal watch` reports them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

import structlog

from boltseal.client.errors import (
    RemoteDenied,
    RemoteNotFound,
    RemoteRefused,
    RemoteUnauthenticated,
    RemoteUnavailable,
)
from boltseal.errors import BoltsealError, Denied, ErrorCode, Invalid, SealedPut, Unavailable
from boltseal.keyless.verifier import KeylessVerifier
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.refusals import RefusalDetail, RefusalReason, Refused
from boltseal.policy.rules import Mode
from boltseal.server.mirror.push_parts import PartForwarding
from boltseal.server.mirror.upstream_evidence import missing_evidence
from boltseal.server.mirror.upstream_limits import UpstreamLimits
from boltseal.server.mirror.upstreams import Upstream, Upstreams
from boltseal.server.registry import Registry
from boltseal.server.registry.manifests import parse_upload
from boltseal.server.registry.models import UNCONDITIONAL, ManifestPush, ManifestUpload, Published
from boltseal.server.registry.reserved_push import ApprovedPush, Reservation
from boltseal.server.registry.tag_refusals import NotExtended, TagSealed, unsigned_for_upstream
from boltseal.server.storage.blobs.protocol import BlobStore
from boltseal.server.storage.coordination.protocol import InterprocessLock
from boltseal.signatures.signed_image import SignedImage

TAG_LOCK_WAIT_S: Final = 60.0
OVERTAKEN_WITHIN_S: Final = 0.2
"""How long another push, which found no tag upstream before ours arrived, may take until it arrives itself."""
SETTLE_EVERY_S: Final = 60.0

_log = structlog.get_logger(__name__)


class SeveralTags(Invalid):
    """A push with more than one tag: upstream could accept one and refuse another."""

    code: ClassVar[ErrorCode | None] = ErrorCode.UNSUPPORTED


class UpstreamRefused(Refused, SealedPut):
    """Upstream refused the manifest. The detail is upstream's if that is a boltseal too."""


@dataclass(frozen=True, slots=True)
class _Forward:
    """A push to one tag of an upstream."""

    upstream: Upstream
    push: ManifestPush
    tag: Tag

    @property
    def name(self) -> str:
        return f"{self.push.repository}:{self.tag}"

    @property
    def remote_name(self) -> str:
        return f"{self.upstream.remote(self.push.repository)}:{self.tag}"

    @property
    def canonical(self) -> Digest:
        return self.push.pushed.identity.canonical


class PushProxy:
    """Forwards every push to an upstream's repositories. One per process; ended with `aclose`.

    `registry`: replaced at a reload; its rules apply to pushes that begin afterwards.
    """

    def __init__(
        self,
        registry: Registry,
        store: BlobStore,
        upstreams: Upstreams,
        limits: UpstreamLimits,
        locks: InterprocessLock,
        *,
        count: Callable[[str], None],
    ) -> None:
        self.registry = registry
        self._upstreams = upstreams
        self._limits = limits
        self._locks = locks
        self._keyless = KeylessVerifier()
        self.parts = PartForwarding(registry, store, limits, locks, count=count)
        self._pushes: set[asyncio.Task[Published]] = set()

    async def aclose(self) -> None:
        """Cancel what is in progress; the next process settles pushes that upstream has taken."""
        for task in list(self._pushes):
            task.cancel()
        await asyncio.gather(*self._pushes, return_exceptions=True)
        await self.parts.aclose()

    async def begin(self, upstream: Upstream, repository: Repository) -> None:
        """Create the local repository before anything is stored for it."""
        await self.registry.reserved_pushes.ensure_repository(repository, upstream.actor)

    async def put(self, upstream: Upstream, upload: ManifestUpload) -> Published:
        """Forward a manifest and publish it once upstream has it. The push goes on when the client disconnects.

        Raises:
            SeveralTags: the push has more than one tag.
            PartMissing: neither side has a part of the manifest.
            Unavailable: another push to the tag is unfinished.
            SealedPut: the local rules or upstream refuse the push.
            Denied: upstream does not allow this registry to push.
            Unavailable: upstream does not answer.
        """
        push = parse_upload(upload)
        if len(push.tags) > 1:
            raise SeveralTags(
                f"a push to {upstream.terms.name} can have one tag; push {push.tags[0]} first, then the others"
            )
        await self.begin(upstream, push.repository)

        async def work() -> Published:
            async with self._limits.asking(upstream, stream=True):
                if push.tags:
                    return await self._put_tag(_Forward(upstream, push, push.tags[0]))
                return await self._put_digest(upstream, push)

        task = asyncio.create_task(work())
        self._pushes.add(task)
        task.add_done_callback(self._push_done)
        try:
            return await asyncio.shield(task)
        except (RemoteUnauthenticated, RemoteDenied, RemoteNotFound) as error:
            raise Denied(f"{upstream.terms.name} does not let this registry push: {error.message}") from error

    async def settle_all(self) -> None:
        """Find the outcome of pushes whose process died. Never raises."""
        try:
            reservations = await self.registry.reserved_pushes.every()
        except BoltsealError as error:
            _log.warning("reservations of pushes not readable", reason=error.message)
            return
        for reservation in reservations:
            repository, tag = reservation.push.repository, reservation.tag
            upstream = self._upstreams.by_name.get(repository.partition("/")[0])
            if upstream is None or not await self._limits.may_spend(upstream):
                continue
            try:
                async with self._locks.taken(_lock_name(repository, tag), 0.0):
                    await self._settle(upstream, repository, tag)
            except BoltsealError as error:
                _log.info("outcome of a push still unknown", name=f"{repository}:{tag}", reason=error.message)

    async def run(self) -> None:
        """Find the outcome of unfinished pushes now and once a minute, until cancelled."""
        while True:
            await self.settle_all()
            await asyncio.sleep(SETTLE_EVERY_S)

    async def _put_tag(self, forward: _Forward) -> Published:
        upstream, push, tag = forward.upstream, forward.push, forward.tag
        reserved_pushes, refusals = self.registry.reserved_pushes, self.registry.refusals
        async with self._locks.taken(_lock_name(push.repository, tag), TAG_LOCK_WAIT_S):
            # 1
            await self._settle(upstream, push.repository, tag)
            # 2
            approved = await reserved_pushes.reserve(push)
            with refusals.logged("push", push.repository, push.tags, push.pushed.digest, push.actor):
                await self._forward(forward, approved)
            # 6
            return await reserved_pushes.publish(push)

    async def _check_evidence(self, forward: _Forward) -> None:
        """Raise TagUnsigned if upstream lacks evidence that a rule of it requires, unless the tag is served at this digest already."""
        upstream, push, tag = forward.upstream, forward.push, forward.tag
        remote = upstream.remote(push.repository)
        requirements = upstream.terms.decide(remote, tag).require
        if not requirements:
            return
        observed = await self.registry.observations.find(push.repository, tag)
        current = None if observed is None or observed.known.serves is None else observed.known.serves.digest
        if current == forward.canonical:
            return
        image = SignedImage(remote, forward.canonical, push.pushed.manifest.media_type)
        missing = await missing_evidence(
            self._limits, upstream, image, requirements, self._keyless, also_named=push.repository
        )
        if missing:
            raise unsigned_for_upstream(tag, push.repository, current, forward.canonical, missing)

    async def _forward(self, forward: _Forward, approved: ApprovedPush) -> None:
        upstream, push, tag = forward.upstream, forward.push, forward.tag
        try:
            # 3
            await self._check_evidence(forward)
            remote = None
            if approved.mode is not Mode.FLOATING or push.conditions != UNCONDITIONAL:
                remote = await self._head(upstream, push.repository, tag)
            push.conditions.check(f"tag {tag} of {push.repository}", remote)
            _check_remote(forward, approved, remote)
            # 4
            await self.parts.forward(upstream, push.repository, push.pushed.manifest)
            if remote is None and approved.mode is Mode.SEALED:
                # Sending the parts takes time, in which another client or proxy may have pushed the tag.
                remote = await self._head(upstream, push.repository, tag)
                _check_remote(forward, approved, remote)
        except BaseException:
            await self.registry.reserved_pushes.drop(push.repository, tag)
            raise
        # 5
        if remote != forward.canonical:
            await self._put_upstream(forward, only_new=approved.mode is Mode.SEALED)
            if approved.mode is Mode.SEALED:
                await self._check_not_overtaken(forward)

    async def _check_not_overtaken(self, forward: _Forward) -> None:
        """Refuse a push that another client has replaced upstream by now: most registries ignore `If-None-Match`.

        Raises:
            SealedPut: upstream has another manifest under the tag than the one that it just took.
        """
        await asyncio.sleep(OVERTAKEN_WITHIN_S)
        upstream, push = forward.upstream, forward.push
        try:
            found = await self._head(upstream, push.repository, forward.tag)
        except BoltsealError:
            found = None  # upstream has taken the push, and says nothing else
        if found in (None, forward.canonical):
            return
        await self.registry.reserved_pushes.drop(push.repository, forward.tag)
        raise SealedPut(
            f"another client pushed {found} to {forward.remote_name} at the same time, and {upstream.terms.name} has that one: "
            f"this push ({push.pushed.digest.short}) is not recorded here; publish it under a new tag"
        )

    async def _put_digest(self, upstream: Upstream, push: ManifestPush) -> Published:
        repository, pushed = push.repository, push.pushed
        if push.conditions != UNCONDITIONAL:
            stored = await self.parts.stored_manifest(repository, pushed.digest)
            push.conditions.check(f"manifest {pushed.digest.short}", None if stored is None else pushed.digest)
        await self.registry.reserved_pushes.check(push)
        await self.parts.forward(upstream, repository, pushed.manifest)
        await upstream.pushing.put_manifest(upstream.remote(repository), pushed.digest, pushed.manifest)
        self.parts.remember(repository, pushed.digest)
        return await self.registry.reserved_pushes.put(push)

    async def _head(self, upstream: Upstream, repository: Repository, tag: Tag) -> Digest | None:
        """Return the digest that a tag resolves to upstream, or None."""
        try:
            resolved = await upstream.client.resolve(upstream.remote(repository), tag)
        except RemoteNotFound:
            return None
        except RemoteUnauthenticated as error:
            # Docker Hub answers 401 for a repository that does not exist yet. The push shows whether the login may push.
            if upstream.terms.username is not None:
                return None
            raise Denied(f"{upstream.terms.name} requires a login: {error.message}") from error
        return resolved.digest

    async def _put_upstream(self, forward: _Forward, *, only_new: bool) -> None:
        """Step 5. Drop the reservation if upstream refuses; keep it while the outcome is unknown."""
        upstream, push = forward.upstream, forward.push
        reserved_pushes, remote = self.registry.reserved_pushes, upstream.remote(push.repository)
        try:
            await upstream.pushing.put_manifest(remote, forward.tag, push.pushed.manifest, only_new=only_new)
        except RemoteUnavailable as error:
            try:
                found = await self._head(upstream, push.repository, forward.tag)
            except BoltsealError:
                raise Unavailable(
                    f"{upstream.terms.name} did not answer whether it took {forward.remote_name}, and cannot be asked "
                    f"now: push it again in a moment; {error.message}"
                ) from error
            if found != forward.canonical:
                await reserved_pushes.drop(push.repository, forward.tag)
                raise
        except BoltsealError as error:
            await reserved_pushes.drop(push.repository, forward.tag)
            self.parts.forget()
            if isinstance(error, RemoteRefused):
                message = f"{upstream.terms.name} refuses {forward.remote_name}: {error.message}"
                detail = RefusalDetail(RefusalReason.UPSTREAM, forward.tag, pushed=forward.canonical)
                raise UpstreamRefused(message, error.detail or detail) from error
            raise

    async def _settle(self, upstream: Upstream, repository: Repository, tag: Tag) -> None:
        """Resolve an earlier undecided push to the same tag: step 1.

        Raises:
            Unavailable: the outcome of an earlier push cannot be found yet.
        """
        reserved_pushes = self.registry.reserved_pushes
        reservation = await reserved_pushes.find(repository, tag)
        if reservation is None:
            return
        try:
            remote = await self._head(upstream, repository, tag)
        except BoltsealError as error:
            if await reserved_pushes.drop_if_expired(repository, tag):
                return
            raise Unavailable(
                f"the process of an earlier push of {reservation.push.pushed.digest.short} to {repository}:{tag} died, and "
                f"{upstream.terms.name} cannot be asked for the outcome: {error.message}"
            ) from error
        await self._conclude(upstream, reservation, remote)

    async def _conclude(self, upstream: Upstream, reservation: Reservation, remote: Digest | None) -> None:
        push, reserved_pushes = reservation.push, self.registry.reserved_pushes
        name, digest = f"{push.repository}:{reservation.tag}", str(push.pushed.digest)
        if remote != push.pushed.identity.canonical:
            await reserved_pushes.drop(push.repository, reservation.tag)
            _log.warning("unfinished push dropped", name=name, digest=digest)
            return
        try:
            await self._check_evidence(_Forward(upstream, push, reservation.tag))
            await reserved_pushes.publish(push)
        except (SealedPut, Invalid) as error:  # the rules or the stored content have changed since the reservation
            await reserved_pushes.drop(push.repository, reservation.tag)
            _log.error("local rules refuse a push that upstream has taken", name=name, reason=error.message)
        else:
            _log.warning("unfinished push published", name=name, digest=digest)

    def _push_done(self, task: asyncio.Task[Published]) -> None:
        self._pushes.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved here, because the client may have disconnected


def _check_remote(forward: _Forward, approved: ApprovedPush, remote: Digest | None) -> None:
    """Refuse a push where upstream's tag resolves to another manifest than the rules allow."""
    if remote is None or remote == forward.canonical or approved.mode is Mode.FLOATING:
        return
    upstream = forward.upstream.terms.name
    if approved.mode is Mode.SEALED:
        raise TagSealed(
            f"{forward.name} is sealed by the local rules, but {upstream} already has {forward.remote_name} at {remote}; "
            f"this push is {forward.canonical}; publish it under another tag",
            RefusalDetail(RefusalReason.SEALED, forward.tag, remote, forward.canonical),
        )
    if remote != approved.current:
        local = "absent" if approved.current is None else f"at {approved.current}"
        raise NotExtended(
            f"{forward.name} is append-only and was changed past this registry: {upstream} has it at {remote}, "
            f"here it is {local}, this push is {forward.canonical}",
            RefusalDetail(RefusalReason.NOT_EXTENDED, forward.tag, remote, forward.canonical),
        )


def _lock_name(repository: Repository, tag: Tag) -> str:
    return f"gate {repository}:{tag}"

"""Pulls images so that the working image is kept, and an interrupted pull leaves every tag valid.

The steps of one pull:

1. Resolve the tag by one HEAD; a given digest needs no request.
2. If the name already resolves to that digest on the host, stop without any further request to the registry.
3. If the registry has a ledger, check that it extends what was seen before; only then trust the answer of step 1.
4. Let the engine pull the digest without a tag: until step 7 every name resolves to what it did before.
5. Verify the image: its ID is the digest (containerd's store), or manifests that boltseal hashes refer from the digest to
   its ID, or a lock has its ID. If reading manifests would count as a pull, accept the engine's record. With `scrub`, also
   verify the bytes on disk. An image that is kept as evidence (`changed_images`) gets no name: its copy gets it.
6. Under `EngineHost.tagging_lock`, keep the image that the name resolves to now (`keeper`), even if another program tagged it,
   and the images of running containers that were started by this name.
7. Tag the pulled image.
8. Remove kept images that exceed the policy.

If it is interrupted anywhere, the name resolves to the former or the new image, and the next pull continues. An image that
a prune removes between steps 4 and 7, as it has no tag yet, is pulled again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from boltseal.client.credentials import LoginSource
from boltseal.client.errors import RemoteNotFound
from boltseal.client.hosts import is_loopback
from boltseal.client.registry_client import RegistryClient, Resolved
from boltseal.client.transport import Transport
from boltseal.engines.api import Login, NoSuchImage, ProgressCallback
from boltseal.engines.inventory import EngineImage, ImageStoreKind
from boltseal.errors import BoltsealError, Denied, Invalid, Mismatch, Unavailable
from boltseal.host.changed_images import ChangedImages
from boltseal.host.engine_images import EngineHost
from boltseal.host.keeper import ExpiryResult, Keeper, KeepPolicy
from boltseal.host.kept_images import KeptImage, Proof, PullRecord
from boltseal.loading import deferred
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.oci.mediatype import MANIFEST_TYPES
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Reference, Tag
from boltseal.project.resolve import COUNTS_PULLS, image_id

if TYPE_CHECKING:
    from boltseal.host import unchanged_copy as copies
else:  # it imports what no other pull needs
    copies = deferred("boltseal.host.unchanged_copy")

MAX_CHILDREN: Final = 200
ELSEWHERE_S: Final = 15.0
MAX_PULLS: Final = 3
"""How often an image is pulled that another process removes before it is tagged."""

CheckLedger = Callable[[str], Awaitable[object]]
"""Checks a registry's ledger; raises if it is broken or could not be checked."""
CopyImage = Callable[[Reference, Digest], Awaitable[Reference]]
"""Copies an image of the engine (by its name and registry digest) to another registry; returns the copy's reference."""
ScrubImage = Callable[[EngineImage], Awaitable[None]]
"""Verifies an image's bytes on disk; raises if they differ or can't be read."""


class PulledImageMismatch(Mismatch):
    """The engine's image is not the requested one."""


class PulledImageChanged(Mismatch):
    """The engine has the image only as evidence, because its files were changed on the disk, and no copy replaces it."""


class PulledImageRemoved(Unavailable):
    """A pulled image was removed repeatedly before it could be tagged."""


class LoginExposed(Denied):
    """A login would be sent without encryption."""


class PullOutcome(StrEnum):
    """The result of a pull."""

    HERE = "here"  # the name already resolved to it
    NAMED = "named"  # the engine had it, and it was tagged
    PULLED = "pulled"
    REPLACED = "replaced"  # a copy with layers of its own, beside an image whose files differ


@dataclass(frozen=True, slots=True)
class PullRequest:
    """An image to pull. `name`: with a tag, or without one to have it by its digest only.

    `digest`: the expected digest; None for what the tag resolves to now. `locked`: whether the digest is from a lock;
    `images`: its image IDs in the lock. `platform`: such as `linux/arm64`, "" for the engine's own.
    """

    name: Reference
    digest: Digest | None = None
    locked: bool = False
    images: tuple[Digest, ...] = ()
    platform: str = ""

    @classmethod
    def of(cls, reference: Reference) -> PullRequest:
        """Return the request for a reference as typed; without tag and digest it gets the tag `latest`, as Docker does."""
        tag = reference.tag or (None if reference.digest else Tag("latest"))
        return cls(Reference(reference.registry, reference.repository, tag), reference.digest)


@dataclass(frozen=True, slots=True)
class PulledImage:
    """A verified image on the engine that is not tagged yet."""

    wanted: PullRequest
    digest: Digest
    image: EngineImage
    outcome: PullOutcome
    proof: Proof


@dataclass(frozen=True, slots=True)
class PullResult:
    """The result of a completed pull.

    `kept`: the image that had the name before. `running`: other kept images, of running containers of this name. `let_go`:
    expired images. `trouble`: why expiry failed, "" if it did not; the image is pulled and tagged all the same.
    """

    name: Reference
    digest: Digest
    image: Digest
    outcome: PullOutcome
    proof: Proof | None = None
    kept: KeptImage | None = None
    running: tuple[KeptImage, ...] = ()
    let_go: tuple[ExpiryResult, ...] = ()
    trouble: str = ""


async def no_ledger_check(_registry: str) -> None:
    """Check no ledger."""


@dataclass(frozen=True, slots=True)
class Puller:
    """Pulls images to one engine.

    `watch`, `copy`, `scrub`: see their types. `policy`: for removing kept images afterwards. `locked`: digests in locks.
    `count_pulls`: whether to read manifests even where that counts as a pull.
    """

    host: EngineHost
    transport: Transport
    logins: LoginSource
    watch: CheckLedger = no_ledger_check
    copy: CopyImage | None = None
    scrub: ScrubImage | None = None
    policy: KeepPolicy = field(default_factory=KeepPolicy)
    locked: Collection[Digest] = ()
    count_pulls: bool = False
    progress: ProgressCallback = lambda step: None

    def announce(self, wanted: Iterable[PullRequest]) -> None:
        """Announce the tags to resolve, so that one token per registry covers all of them."""
        asked = [one.name for one in wanted if one.digest is None]
        for registry in {name.registry for name in asked}:
            scopes = {f"repository:{name.repository}:pull" for name in asked if name.registry == registry}
            self.transport.tokens.announce(registry, scopes)

    async def pull(self, wanted: PullRequest) -> PullResult:
        """Pull one image: all steps.

        Raises: RemoteNotFound, NoSuchImage, EngineFull, PulledImageMismatch, StateUnusable and other client errors.
        """
        return await self.apply_tag(await self.fetch(wanted))

    async def fetch(self, wanted: PullRequest) -> PulledImage:
        """Do steps 1 to 5, which change no tag."""
        resolved = await self._resolve(wanted)  # 1
        changed = ChangedImages(self.host)
        present = await self.host.image(_local_name(wanted.name, resolved.digest))
        matches = present is not None and self._matches(present, wanted, resolved.digest)
        if present is not None and matches and not await changed.has(present):  # 2
            return PulledImage(
                wanted, resolved.digest, present, PullOutcome.HERE, self._known_proof(present, resolved.digest)
            )
        if wanted.digest is None:
            await self.watch(wanted.name.registry)  # 3
        by_digest = Reference(wanted.name.registry, wanted.name.repository, digest=resolved.digest)
        image = await self.host.image(by_digest)
        if image is not None and not self._matches(image, wanted, resolved.digest):
            image = None
        outcome = PullOutcome.PULLED if image is None else PullOutcome.NAMED
        if image is None:
            login = await self._login(by_digest)
            image = await self.host.engine.pull(
                by_digest, platform=wanted.platform, login=login, progress=self.progress
            )  # 4
        if await changed.has(image):
            return await self._copy_of_changed(wanted, resolved, image, present)
        proof = await self._prove(image, wanted, resolved.digest)  # 5
        if self.scrub is not None:
            await self.scrub(image)
        media_type = resolved.media_type
        self.host.kept.record_pull(
            self.host.key,
            PullRecord(image.id, resolved.digest, wanted.name.name, media_type, proof, self.host.now_us()),
        )
        return PulledImage(wanted, resolved.digest, image, outcome, proof)

    async def _copy_of_changed(
        self, wanted: PullRequest, resolved: Resolved, image: EngineImage, present: EngineImage | None
    ) -> PulledImage:
        """Return the copy of an image that is kept as evidence. `present`: what the name resolves to now.

        Raises: PulledImageChanged: no copy is known.
        """
        name, digest = wanted.name, resolved.digest
        copy = await copies.unchanged_copy(self.host, self.transport, image, name, digest) if name.tag else None
        if copy is None:
            where = name.familiar() if name.tag else f"{name.familiar()}:TAG"
            raise PulledImageChanged(
                f"could not pull {name.familiar()}: image {image.id} was changed on this disk and is kept as evidence; the tag was "
                f"not changed: load the image again by `boltseal pull --replace {where}@{digest}`"
            )
        if self.scrub is not None:
            await self.scrub(copy)
        self.host.kept.record_pull(
            self.host.key,
            PullRecord(copy.id, digest, name.name, resolved.media_type, Proof.COPY, self.host.now_us()),
        )
        is_here = present is not None and present.id == copy.id
        return PulledImage(wanted, digest, copy, PullOutcome.HERE if is_here else PullOutcome.NAMED, Proof.COPY)

    async def apply_tag(self, pulled: PulledImage) -> PullResult:
        """Do steps 6 to 8: keep the image that has the name, and tag the pulled one.

        Raises: PulledImageRemoved, PulledImageMismatch.
        """
        for _ in range(MAX_PULLS):
            try:
                return await self._apply_tag(pulled)
            except NoSuchImage:
                pulled = await self.ensure_present(pulled)
        raise PulledImageRemoved(
            f"could not tag {pulled.wanted.name.familiar()}: {pulled.digest.short} was removed from the engine {MAX_PULLS} "
            "times before it was tagged; the tag was not changed: stop the process that prunes images and pull again"
        )

    async def ensure_present(self, pulled: PulledImage) -> PulledImage:
        """Return a pulled image, after pulling it again if a prune removed it."""
        if await self.host.image(pulled.image.id) is not None:
            return pulled
        return await self.fetch(replace(pulled.wanted, digest=pulled.digest))

    async def _apply_tag(self, pulled: PulledImage) -> PullResult:
        name, keeper = pulled.wanted.name, Keeper(self.host)
        done = PullResult(name, pulled.digest, pulled.image.id, pulled.outcome, pulled.proof)
        if name.tag is None:
            return done
        if pulled.outcome is PullOutcome.HERE:
            if not await keeper.exceeding(name, self.policy):
                return done
            async with self.host.tagging_lock():
                let_go, trouble = await self._expire(keeper, name)
            return replace(done, let_go=let_go, trouble=trouble)
        copy = await self._copied(name, pulled)
        async with self.host.tagging_lock():
            before = await self.host.image(name)
            has_it = {pulled.image.id, *(() if before is None else (before.id,))}
            running = [
                await keeper.keep(name, each, self.policy)
                for each in await self._running(name)
                if each.id not in has_it
            ]
            kept = None
            if before is not None and before.id != pulled.image.id:
                kept = await keeper.keep(name, before, self.policy, copy)  # 6
            await self.host.engine.tag(pulled.image.id, name)  # 7
            now = await self.host.engine.image(name)
            if now.id != pulled.image.id:
                raise PulledImageMismatch(
                    f"{name.familiar()} was changed by another program (got {now.id.short}, expected "
                    f"{pulled.image.id.short}); check which one tags images on this engine, and pull again"
                )
            let_go, trouble = await self._expire(keeper, name)  # 8
        return replace(done, kept=kept, running=tuple(running), let_go=let_go, trouble=trouble)

    async def _running(self, name: Reference) -> list[EngineImage]:
        """Return the images of running containers that were started by this name; the tag may have moved since."""
        ids = {
            each.image
            for each in await self.host.seen_containers()
            if each.running and _started_as(each.started_as, name)
        }
        found = [await self.host.image(each) for each in sorted(filter(None, ids))]
        return [each for each in found if each is not None]

    async def _expire(self, keeper: Keeper, name: Reference) -> tuple[tuple[ExpiryResult, ...], str]:
        try:
            return tuple(await keeper.expire([name], self.policy, self.locked, self._is_in_registry)), ""
        except BoltsealError as error:
            return (), error.message

    async def resolved(self, wanted: PullRequest) -> Resolved:
        """Return what a request resolves to now, after the registry's ledger was checked if a tag was resolved (steps 1, 3)."""
        found = await self._resolve(wanted)
        if wanted.digest is None:
            await self.watch(wanted.name.registry)
        return found

    async def _resolve(self, wanted: PullRequest) -> Resolved:
        if wanted.digest is not None:
            return Resolved(wanted.digest, "", -1)
        if wanted.name.tag is None:
            raise AssertionError(f"{wanted.name} has neither a tag nor a digest")
        client = RegistryClient(self.transport, wanted.name.registry)
        return await client.resolve_explained(wanted.name.repository, wanted.name.tag)

    def _matches(self, image: EngineImage, wanted: PullRequest, digest: Digest) -> bool:
        """Return whether an image has the digest and the platform, by the records of the engine and of boltseal."""
        fits_platform = not wanted.platform or f"{image.platform}/".startswith(f"{wanted.platform}/")
        return digest in self.host.registry_digests(image, wanted.name) and fits_platform

    def _known_proof(self, image: EngineImage, digest: Digest) -> Proof:
        known = [each.proof for each in self.host.kept.pulls(self.host.key, image.id) if each.digest == digest]
        if self.host.store is ImageStoreKind.CONTAINERD and Proof.COPY not in known:
            return Proof.IDENTICAL
        return known[0] if known else Proof.ENGINE

    async def _login(self, image: Reference) -> Login | None:
        found = await self.logins.find(image.registry, image.repository)
        if found is None:
            return None
        address = self.host.engine.address
        if address.scheme == "tcp" and address.certificates is None and not is_loopback(address.host):
            raise LoginExposed(
                f"refusing to send the login for {image.registry} unencrypted to the engine at {address}: use ssh://, or "
                "tcp:// with DOCKER_TLS_VERIFY; or pull without the login (--anonymous)"
            )
        return Login(identity_token=found.secret) if found.identity_token else Login(found.username, found.secret)

    async def _prove(self, image: EngineImage, wanted: PullRequest, digest: Digest) -> Proof:
        """Do step 5 and return the proof.

        Raises: PulledImageMismatch.
        """
        if self._known_proof(image, digest) in (Proof.MANIFEST, Proof.LOCK, Proof.COPY) and self._matches(
            image, wanted, digest
        ):
            return self._known_proof(image, digest)  # proven before, and an ID always refers to the same image
        if self.host.store is ImageStoreKind.CONTAINERD:
            if image.id != digest:
                raise PulledImageMismatch(_mismatch_message(wanted.name, digest, f"got {image.id}"))
            return Proof.IDENTICAL
        if digest not in {each.digest for each in image.pulled_as if each.name == wanted.name.name}:
            raise PulledImageMismatch(
                _mismatch_message(wanted.name, digest, f"the engine lists other digests for {image.id}")
            )
        if not self._matches(image, wanted, digest):
            raise PulledImageMismatch(
                _mismatch_message(wanted.name, digest, f"the engine has it only for {image.platform}")
            )
        if wanted.images:
            if image.id not in wanted.images:
                raise PulledImageMismatch(
                    _mismatch_message(wanted.name, digest, f"got image {image.id}, which is not in the lock")
                )
            return Proof.LOCK
        if wanted.name.registry in COUNTS_PULLS and not self.count_pulls:
            return Proof.ENGINE
        if not await self._refers_to(wanted.name, digest, image):
            raise PulledImageMismatch(
                _mismatch_message(wanted.name, digest, f"its manifests do not refer to image {image.id}")
            )
        return Proof.MANIFEST

    async def _refers_to(self, name: Reference, digest: Digest, image: EngineImage) -> bool:
        """Return whether manifests refer from a digest to an image's ID."""
        client = RegistryClient(self.transport, name.registry)
        manifest = await client.manifest(name.repository, digest)
        if not manifest.is_index:
            return image_id(manifest) == image.id
        for child in _likely_first(manifest, image.platform):
            try:
                if image_id(await client.manifest(name.repository, child)) == image.id:
                    return True
            except RemoteNotFound:  # an index may be sparse
                continue
        return False

    async def _copied(self, name: Reference, pulled: PulledImage) -> Reference | None:
        """Copy the working image elsewhere, if configured, before anything changes."""
        before = None if self.copy is None else await self.host.image(name)
        if self.copy is None or before is None or before.id == pulled.image.id:
            return None
        digests = self.host.registry_digests(before, name)
        return await self.copy(name, digests[0] if digests else before.id)

    async def _is_in_registry(self, place: Reference) -> bool:
        """Return whether a registry confirms now that it has an image; False in doubt."""
        if place.digest is None:
            return False
        try:
            async with asyncio.timeout(ELSEWHERE_S):  # other processes wait for the lock meanwhile
                await RegistryClient(self.transport, place.registry).resolve(place.repository, place.digest)
        except (BoltsealError, TimeoutError):
            return False
        return True


def _started_as(text: str, name: Reference) -> bool:
    """Return whether a container was started by this name."""
    try:
        return PullRequest.of(Reference.parse(text)).name == name
    except Invalid:  # by an ID, say
        return False


def _local_name(name: Reference, digest: Digest) -> Reference:
    """Return the name by which an image may already be on the host: its tag, or its digest without a tag."""
    return name if name.tag is not None else Reference(name.registry, name.repository, digest=digest)


def _likely_first(manifest: Manifest, platform: Platform) -> Sequence[Digest]:
    """Return the images of an index, those of the platform first."""
    images = [each for each in manifest.manifests if each.media_type in MANIFEST_TYPES]
    ordered = sorted(images, key=lambda each: str(each.platform) != str(platform))
    return [each.digest for each in ordered][:MAX_CHILDREN]


def _mismatch_message(name: Reference, digest: Digest, what: str) -> str:
    return f"could not pull {name.familiar()}: {what} (expected {digest.short}); the tag was not changed"

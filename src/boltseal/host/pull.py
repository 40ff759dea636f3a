"""Pulling an image so that the one that works is not lost, and nothing is half done.

The steps of one pull:

1. What the tag means, by one HEAD; a digest that is given is not asked about.
2. Is that what the name means here? Then it is done, and nothing else was asked of anybody.
3. The registry's ledger, where it has one, goes on from what was seen of it before; only now is its answer believed.
4. The engine pulls that digest, under no tag: until step 7 no name means anything else than before.
5. What arrived is what was asked for: its ID is the digest (containerd's store), or manifests whose bytes were hashed
   here lead from the digest to its ID, or a lock says so; where reading them would count as a pull, the engine's word.
   With `scrub`, what lies on the disk too.
6. Alone (`Host.alone`): the image that the name means now is kept (`keeper`), by whoever it was put there meanwhile;
   so are others on which running containers of this name stand.
7. The name is given to what arrived. 8. What is kept beyond what was asked is let go of.

Broken off anywhere, the name means what it meant or what it should; the next pull goes on from there. What a prune takes
between 4 and 7, since it has no name yet, is brought again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from boltseal.client.credentials import LoginSource
from boltseal.client.errors import RemoteNotFound
from boltseal.client.hosts import is_loopback
from boltseal.client.registry_client import RegistryClient, Resolved
from boltseal.client.transport import Transport
from boltseal.engines.api import Login, NoSuchImage, Tell
from boltseal.engines.inventory import EngineImage, ImageStoreKind
from boltseal.errors import BoltsealError, Denied, Invalid, Precondition, Unavailable
from boltseal.host.engine_images import EngineHost
from boltseal.host.keeper import ExpiryResult, Keeper, KeepPolicy
from boltseal.host.kept_images import KeptImage, Proof, PullRecord
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest
from boltseal.oci.mediatype import MANIFEST_TYPES
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Reference, Tag
from boltseal.project.resolve import COUNTS_PULLS, image_id

MAX_CHILDREN: Final = 200
ELSEWHERE_S: Final = 15.0
MAX_PULLS: Final = 3
"""How often an image is brought that somebody removes as soon as it is here."""

CheckLedger = Callable[[str], Awaitable[object]]
"""Looks at a registry's ledger; raises where it is broken, or could not be looked at."""
CopyImage = Callable[[Reference, Digest], Awaitable[Reference]]
"""Copies an image of the engine (which name it has, its registry digest) elsewhere, and says where it is then."""
ScrubImage = Callable[[EngineImage], Awaitable[None]]
"""Reads what lies on the disk of an image; raises where it differs, or can't be read."""


class PulledImageMismatch(Precondition):
    """What the engine has is not what was asked for."""


class PulledImageRemoved(Unavailable):
    """What arrived is removed from the engine again and again, before it has its name."""


class LoginExposed(Denied):
    """A login that would be sent where others can read it."""


class PullOutcome(StrEnum):
    """What a pull came to."""

    HERE = "here"  # the name meant it already
    NAMED = "named"  # the engine had it, and gave it the name
    PULLED = "pulled"


@dataclass(frozen=True, slots=True)
class PullRequest:
    """An image to be brought. `name`: with a tag, or none at all, and then it is to be here by its digest only.

    `digest`: what it must be; None for what the tag means now. `locked`: a lock says so; `images`: the IDs that the lock
    knows for it. `platform`: such as `linux/arm64`, "" for the engine's own.
    """

    name: Reference
    digest: Digest | None = None
    locked: bool = False
    images: tuple[Digest, ...] = ()
    platform: str = ""

    @classmethod
    def of(cls, reference: Reference) -> PullRequest:
        """What a person typed; `latest` where it has neither tag nor digest, as Docker adds it."""
        tag = reference.tag or (None if reference.digest else Tag("latest"))
        return cls(Reference(reference.registry, reference.repository, tag), reference.digest)


@dataclass(frozen=True, slots=True)
class PulledImage:
    """An image that the engine has, and that is the one that was wanted; no name was given to it yet."""

    wanted: PullRequest
    digest: Digest
    image: EngineImage
    outcome: PullOutcome
    proof: Proof


@dataclass(frozen=True, slots=True)
class PullResult:
    """How it ended. `kept`: the image that had the name before; `running`: others that containers of this name run on.

    `let_go`: what is kept no longer, or why it still is. `trouble`: why it could not be looked what may be let go of; the
    image is here and has its name all the same.
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
    """For registries whose ledger nobody asked to look at."""


@dataclass(frozen=True, slots=True)
class Puller:
    """Brings images to one engine.

    `watch`, `copy`, `scrub`: see their types. `policy`: what is let go of afterwards. `locked`: digests that a lock names.
    `count_pulls`: read manifests also where that counts as pulls.
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
    tell: Tell = lambda step: None

    def announce(self, wanted: Iterable[PullRequest]) -> None:
        """Say which tags will be asked about, so that one token of a registry serves for all of them."""
        asked = [one.name for one in wanted if one.digest is None]
        for registry in {name.registry for name in asked}:
            scopes = {f"repository:{name.repository}:pull" for name in asked if name.registry == registry}
            self.transport.tokens.announce(registry, scopes)

    async def bring(self, wanted: PullRequest) -> PullResult:
        """Bring one image, all steps. RemoteNotFound, NoSuchImage, EngineFull, PulledImageMismatch, StateUnusable, ..."""
        return await self.settle(await self.fetch(wanted))

    async def fetch(self, wanted: PullRequest) -> PulledImage:
        """Steps 1 to 5: nothing that anybody sees by a name has changed."""
        resolved = await self._resolve(wanted)  # 1
        there = await self.host.image(_named(wanted.name, resolved.digest))
        if there is not None and self._is(there, wanted, resolved.digest):  # 2
            return PulledImage(
                wanted, resolved.digest, there, PullOutcome.HERE, self._known_proof(there, resolved.digest)
            )
        if wanted.digest is None:
            await self.watch(wanted.name.registry)  # 3
        by_digest = Reference(wanted.name.registry, wanted.name.repository, digest=resolved.digest)
        image = await self.host.image(by_digest)
        if image is not None and not self._is(image, wanted, resolved.digest):
            image = None
        outcome = PullOutcome.PULLED if image is None else PullOutcome.NAMED
        if image is None:
            login = await self._login(by_digest)
            image = await self.host.engine.pull(by_digest, platform=wanted.platform, login=login, tell=self.tell)  # 4
        proof = await self._prove(image, wanted, resolved.digest)  # 5
        if self.scrub is not None:
            await self.scrub(image)
        media_type = resolved.media_type
        self.host.kept.remember(
            self.host.key,
            PullRecord(image.id, resolved.digest, wanted.name.name, media_type, proof, self.host.now_us()),
        )
        return PulledImage(wanted, resolved.digest, image, outcome, proof)

    async def settle(self, arrived: PulledImage) -> PullResult:
        """Steps 6 to 8: the name is given to what arrived, and what had it is kept. PulledImageRemoved."""
        for _ in range(MAX_PULLS):
            try:
                return await self._settle(arrived)
            except NoSuchImage:
                arrived = await self.still(arrived)
        raise PulledImageRemoved(
            f"{arrived.wanted.name.familiar()} is not taken: {arrived.digest.short} was removed from the engine {MAX_PULLS} times "
            "before it could get its name; the name means what it meant: end what prunes images there, and pull again"
        )

    async def still(self, arrived: PulledImage) -> PulledImage:
        """What arrived, brought again if it is not here any more: as long as it has no name, a prune may take it."""
        if await self.host.image(arrived.image.id) is not None:
            return arrived
        return await self.fetch(replace(arrived.wanted, digest=arrived.digest))

    async def _settle(self, arrived: PulledImage) -> PullResult:
        name, keeper = arrived.wanted.name, Keeper(self.host)
        done = PullResult(name, arrived.digest, arrived.image.id, arrived.outcome, arrived.proof)
        if name.tag is None:
            return done
        if arrived.outcome is PullOutcome.HERE:
            if not await keeper.beyond(name, self.policy):
                return done
            async with self.host.alone():
                let_go, trouble = await self._expire(keeper, name)
            return replace(done, let_go=let_go, trouble=trouble)
        copy = await self._copied(name, arrived)
        async with self.host.alone():
            before = await self.host.image(name)
            has_it = {arrived.image.id, *(() if before is None else (before.id,))}
            running = [
                await keeper.keep(name, each, self.policy)
                for each in await self._running(name)
                if each.id not in has_it
            ]
            kept = None
            if before is not None and before.id != arrived.image.id:
                kept = await keeper.keep(name, before, self.policy, copy)  # 6
            await self.host.engine.tag(arrived.image.id, name)  # 7
            now = await self.host.engine.image(name)
            if now.id != arrived.image.id:
                raise PulledImageMismatch(
                    f"{name.familiar()} was given to image {arrived.image.id.short}, and means {now.id.short} now: "
                    "somebody else gives names on this engine; look, and pull again"
                )
            let_go, trouble = await self._expire(keeper, name)  # 8
        return replace(done, kept=kept, running=tuple(running), let_go=let_go, trouble=trouble)

    async def _running(self, name: Reference) -> list[EngineImage]:
        """The images that running containers of this name stand on: somebody may have moved it under them before."""
        ids = {
            each.image
            for each in await self.host.seen_containers()
            if each.running and _started_as(each.started_as, name)
        }
        found = [await self.host.image(each) for each in sorted(filter(None, ids))]
        return [each for each in found if each is not None]

    async def _expire(self, keeper: Keeper, name: Reference) -> tuple[tuple[ExpiryResult, ...], str]:
        try:
            return tuple(await keeper.expire([name], self.policy, self.locked, self._elsewhere)), ""
        except BoltsealError as error:
            return (), error.message

    async def _resolve(self, wanted: PullRequest) -> Resolved:
        if wanted.digest is not None:
            return Resolved(wanted.digest, "", -1)
        if wanted.name.tag is None:
            raise AssertionError(f"{wanted.name} names nothing")
        client = RegistryClient(self.transport, wanted.name.registry)
        return await client.resolve(wanted.name.repository, wanted.name.tag)

    def _is(self, image: EngineImage, wanted: PullRequest, digest: Digest) -> bool:
        """Whether an image of the engine is the one of a digest, and of the platform, as far as the engine and we know."""
        for_it = not wanted.platform or f"{image.platform}/".startswith(f"{wanted.platform}/")
        return digest in self.host.registry_digests(image, wanted.name) and for_it

    def _known_proof(self, image: EngineImage, digest: Digest) -> Proof:
        if self.host.store is ImageStoreKind.CONTAINERD:
            return Proof.IDENTICAL
        known = [each.proof for each in self.host.kept.came(self.host.key, image.id) if each.digest == digest]
        return known[0] if known else Proof.ENGINE

    async def _login(self, image: Reference) -> Login | None:
        found = await self.logins.find(image.registry, image.repository)
        if found is None:
            return None
        address = self.host.engine.address
        if address.scheme == "tcp" and address.certificates is None and not is_loopback(address.host):
            raise LoginExposed(
                f"the login for {image.registry} would go to the engine at {address} in the clear: name the engine by "
                "ssh://, or by tcp:// with DOCKER_TLS_VERIFY; or pull without the login (--anonymous)"
            )
        return Login(identity_token=found.secret) if found.identity_token else Login(found.username, found.secret)

    async def _prove(self, image: EngineImage, wanted: PullRequest, digest: Digest) -> Proof:
        """Step 5. PulledImageMismatch."""
        if self._known_proof(image, digest) in (Proof.MANIFEST, Proof.LOCK) and self._is(image, wanted, digest):
            return self._known_proof(image, digest)  # shown before, and an ID is always the same image
        if self.host.store is ImageStoreKind.CONTAINERD:
            if image.id != digest:
                raise PulledImageMismatch(_other(wanted.name, digest, f"the engine has {image.id} under its name"))
            return Proof.IDENTICAL
        if digest not in {each.digest for each in image.pulled_as if each.name == wanted.name.name}:
            raise PulledImageMismatch(_other(wanted.name, digest, f"the engine lists {image.id} under other digests"))
        if not self._is(image, wanted, digest):
            raise PulledImageMismatch(_other(wanted.name, digest, f"the engine has it for {image.platform} alone"))
        if wanted.images:
            if image.id not in wanted.images:
                raise PulledImageMismatch(
                    _other(wanted.name, digest, f"the engine has image {image.id}, which the lock does not name")
                )
            return Proof.LOCK
        if wanted.name.registry in COUNTS_PULLS and not self.count_pulls:
            return Proof.ENGINE
        if not await self._leads_to(wanted.name, digest, image):
            raise PulledImageMismatch(_other(wanted.name, digest, f"its manifests do not lead to image {image.id}"))
        return Proof.MANIFEST

    async def _leads_to(self, name: Reference, digest: Digest, image: EngineImage) -> bool:
        """Whether manifests lead from a digest to an image's ID."""
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

    async def _copied(self, name: Reference, arrived: PulledImage) -> Reference | None:
        """A copy of the image that works, made before anything changes."""
        before = None if self.copy is None else await self.host.image(name)
        if self.copy is None or before is None or before.id == arrived.image.id:
            return None
        digests = self.host.registry_digests(before, name)
        return await self.copy(name, digests[0] if digests else before.id)

    async def _elsewhere(self, place: Reference) -> bool:
        """Whether a registry says now that it has an image; any doubt is a no."""
        if place.digest is None:
            return False
        try:
            async with asyncio.timeout(ELSEWHERE_S):  # others wait meanwhile
                await RegistryClient(self.transport, place.registry).resolve(place.repository, place.digest)
        except (BoltsealError, TimeoutError):
            return False
        return True


def _started_as(text: str, name: Reference) -> bool:
    """Whether a container was started as this name."""
    try:
        return PullRequest.of(Reference.parse(text)).name == name
    except Invalid:  # by an ID, say
        return False


def _named(name: Reference, digest: Digest) -> Reference:
    """By which name an image would be here already: its tag, or its digest where it is to have no tag."""
    return name if name.tag is not None else Reference(name.registry, name.repository, digest=digest)


def _likely_first(manifest: Manifest, platform: Platform) -> Sequence[Digest]:
    """The images of an index, that of the platform first."""
    images = [each for each in manifest.manifests if each.media_type in MANIFEST_TYPES]
    ordered = sorted(images, key=lambda each: str(each.platform) != str(platform))
    return [each.digest for each in ordered][:MAX_CHILDREN]


def _other(name: Reference, digest: Digest, what: str) -> str:
    return f"{name.familiar()} is not taken: {digest.short} was asked for, and {what}; the name means what it meant"

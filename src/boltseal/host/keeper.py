"""Keeping images on an engine: before a newer one takes a name, and no longer than was said.

What keeps an image is one more name on the engine itself, its keep tag `REPOSITORY:boltseal-keep-<first 12 hex digits of
its digest>`: it stands whatever becomes of our memory, and `docker image prune` passes it over. The order of a keep:
1. the keep tag, 2. the row. Cut off between the two, the image is kept and its row is made by the next keep.

Letting go is the only thing here that takes something away, and every doubt keeps:

    asked for         only with --keep N or --keep-for; only what both let go
    promised          not before the time that was said when it was kept
    in use            an image of a container that runs or stands still; the one that its name means now
    needed            what a lock that we know names; a lock that can't be read keeps everything
    held              by a release
    the only copy     of a digest that ran here in the last RAN_US, unless a registry has just said that it has it
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from boltseal.engines.api import EngineRefused, NoSuchImage
from boltseal.engines.inventory import EngineImage
from boltseal.errors import BoltsealError, Precondition
from boltseal.host.engine_images import EngineHost
from boltseal.host.kept_images import KeepReason, KeptImage
from boltseal.lockfile.container_check import KEEP_PREFIX
from boltseal.lockfile.document import LOCK_NAME
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.project.lock_file import read_lock

SHORT_HEX: Final = 12
RAN_US: Final = 30 * 86_400_000_000

FindCopy = Callable[[Reference], Awaitable[bool]]
"""Whether a registry has an image (by digest), asked now. Doubt is False."""


@dataclass(frozen=True, slots=True)
class KeepPolicy:
    """How much is kept of each name: the newest `keep`, and what is younger than `for_us` microseconds. Neither: all."""

    keep: int | None = None
    for_us: int | None = None

    def lets_go(self, place: int, kept: KeptImage, now_us: int) -> bool:
        """Whether the kept image that is the `place`th newest of its name (from 0) is kept no longer."""
        if self.keep is None and self.for_us is None:
            return False
        if kept.until_us is not None and now_us < kept.until_us:
            return False
        counted = self.keep is None or place >= self.keep
        aged = self.for_us is None or now_us >= kept.kept_us + self.for_us
        return counted and aged


class NoFreeKeepTag(Precondition):
    """Other images have all tags that could keep one, and none of them is taken from its image."""


class KeptState(StrEnum):
    """How it is with a kept image now."""

    KEPT = "kept"
    LOOSE = "loose"  # it is here, and its keep tag was taken away: the next prune may remove it
    GONE = "gone"  # the engine has it no more: somebody has pruned it
    OTHER = "other"  # its keep tag was given to another image, and it has no other name here that we know


@dataclass(frozen=True, slots=True)
class ListedImage:
    """A kept image as it stands. `number`: the how manieth newest of its name, from 1. `ran_us`: last seen running.

    `recorded`: False where only its keep tag speaks for it. `current`: its name means it now. `held`: who needs it.
    """

    kept: KeptImage
    number: int
    standing: KeptState
    current: bool
    ran_us: int | None
    held: tuple[str, ...] = ()
    recorded: bool = True


@dataclass(frozen=True, slots=True)
class ExpiryResult:
    """What became of a kept image that nobody wants any more: gone (`why` is empty), or kept, and why."""

    kept: KeptImage
    why: str = ""


@dataclass(frozen=True, slots=True)
class Keeper:
    """Keeps and lets go on one engine."""

    host: EngineHost

    async def keep(
        self, name: Reference, image: EngineImage, policy: KeepPolicy = KeepPolicy(), copy: Reference | None = None
    ) -> KeptImage:
        """Keep the image that a name means. Whoever calls is alone (`Host.alone`). EngineFull, StateUnusable, ..."""
        now_us = self.host.now_us()
        digests = self.host.registry_digests(image, name)
        came = self.host.kept.came(self.host.key, image.id)
        kept = KeptImage(
            name,
            image.id,
            digests[0] if digests else None,
            next((each.media_type for each in came if digests and each.digest == digests[0]), _media_type(image)),
            await self._free_tag(name, digests[0] if digests else image.id, image.id),
            now_us,
            None if policy.for_us is None else now_us + policy.for_us,
            policy.keep,
            copy,
        )
        await self.host.engine.tag(image.id, kept.keep_name)
        self.host.kept.keep(self.host.key, kept)
        return kept

    async def hold(
        self, image: Digest, name: Reference, digest: Digest | None, reason: str, until_us: int | None = None
    ) -> KeptImage:
        """Keep an image that somebody needs, whatever its name means later. NoSuchImage when it is not here.

        `digest`: the registry's, where it is known better than the engine knows it. `reason`: such as
        `release shop/42`; the same reason may hold many images. `until_us`: None until `let_go`.
        """
        async with self.host.alone():
            found = await self.host.engine.image(image)
            before = next((each for each in self.host.kept.kept(self.host.key, name) if each.image == image), None)
            kept = await self.keep(name, found) if before is None else await self._again(before)
            if digest is not None and kept.digest != digest:
                kept = replace(kept, digest=digest)
                self.host.kept.keep(self.host.key, kept)
            self.host.kept.hold(self.host.key, KeepReason(image, reason, until_us))
        return kept

    def let_go(self, reason: str, images: Collection[Digest] | None = None) -> None:
        """These images (None: all) are not needed for this reason any more. Nothing is removed by it."""
        self.host.kept.let_go(self.host.key, reason, None if images is None else list(images))

    async def listed(self, name: Reference | None = None) -> list[ListedImage]:
        """What is kept, of one name or of all, also what only a keep tag knows of. The newest first, by name."""
        ran = self.host.kept.ran(self.host.key)
        holds = self._holds()
        rows = self.host.kept.kept(self.host.key)
        images = await self.host.engine.images()
        known = [each for each in rows if name in (None, each.name)] + _unrecorded(images, rows, name)
        by_id = {image.id: image for image in images}
        meant = {tagged: image.id for image in images for tagged in image.names}
        numbers: dict[Reference, int] = {}
        found = []
        for kept in known:
            number = numbers[kept.name] = numbers.get(kept.name, 0) + 1
            recorded = kept.kept_us > 0
            found.append(
                ListedImage(
                    kept,
                    number,
                    _standing(kept, by_id, meant),
                    meant.get(kept.name) == kept.image and kept.name != kept.keep_name,
                    ran.get(kept.image),
                    tuple(sorted(holds.get(kept.image, ()))),
                    recorded,
                )
            )
        return sorted(found, key=lambda each: (str(each.kept.name), each.number))

    async def forget_gone(self, listed: Iterable[ListedImage]) -> list[KeptImage]:
        """Forget what was kept and is not there any more. Nothing is removed by it."""
        gone = [each.kept for each in listed if each.recorded and each.standing in (KeptState.GONE, KeptState.OTHER)]
        async with self.host.alone():
            for kept in gone:
                self.host.kept.forget(self.host.key, kept)
        return gone

    async def expire(
        self,
        names: Iterable[Reference],
        policy: KeepPolicy,
        locked: Collection[Digest] = (),
        elsewhere: FindCopy | None = None,
    ) -> list[ExpiryResult]:
        """Let go of what is kept of these names beyond the policy, unless something speaks for it. Whoever calls is alone."""
        wanted = [kept for name in dict.fromkeys(names) for kept in await self.beyond(name, policy)]
        if not wanted:
            return []
        needed, doubt = self._needed(locked)
        used = await self.host.images_in_use()
        done = []
        for kept in wanted:
            why = doubt or await self._why_not(kept, used, needed, elsewhere) or await self._remove(kept)
            done.append(ExpiryResult(kept, why))
        return done

    async def beyond(self, name: Reference, policy: KeepPolicy) -> list[KeptImage]:
        """What is kept of a name beyond a policy. The image that the name means counts for nothing, and is none of it."""
        if policy == KeepPolicy():
            return []
        now = await self.host.image(name)
        others = [kept for kept in self.host.kept.kept(self.host.key, name) if now is None or kept.image != now.id]
        return [kept for place, kept in enumerate(others) if policy.lets_go(place, kept, self.host.now_us())]

    async def _why_not(
        self, kept: KeptImage, used: frozenset[Digest], needed: frozenset[Digest], elsewhere: FindCopy | None
    ) -> str:
        """What speaks for an image, "" where nothing does."""
        if kept.image in used:
            return "a container stands on it"
        image = await self.host.image(kept.image)
        digests = {kept.image, *(() if kept.digest is None else (kept.digest,))}
        if image is not None:
            digests |= {each.digest for each in image.pulled_as if each.digest is not None}
        if digests & needed:
            return f"a {LOCK_NAME} names it"
        if holds := self._holds().get(kept.image):
            return f"held: {', '.join(sorted(holds))}"
        ran_us = self.host.kept.ran(self.host.key).get(kept.image)
        if ran_us is not None and self.host.now_us() - ran_us < RAN_US and not await _has_copy(kept, elsewhere):
            return f"it ran here in the last {RAN_US // 86_400_000_000} days, and no registry is known to have it"
        return ""

    async def _remove(self, kept: KeptImage) -> str:
        """Take the keep tag away, and with it the image, if it has no other name. The row goes last."""
        others = [each for each in self.host.kept.kept(self.host.key) if each.keep_name == kept.keep_name]
        tagged = await self.host.image(kept.keep_name)
        if len(others) <= 1 and tagged is not None and tagged.id == kept.image:
            try:
                await self.host.engine.untag(kept.keep_name, even_last=True)
                await self._remove_nameless(kept)
            except EngineRefused as error:  # a container was made meanwhile
                return error.message
        self.host.kept.forget(self.host.key, kept)
        return ""

    async def _remove_nameless(self, kept: KeptImage) -> None:
        """Podman keeps an image that has lost its last tag; it is removed by its digest, unless another repository has one."""
        left = await self.host.image(kept.image)
        if left is None or left.names or any(each.name != kept.name.name for each in left.pulled_as):
            return
        for each in left.pulled_as:
            try:
                await self.host.engine.untag(each, even_last=True)
            except NoSuchImage:
                return

    async def _again(self, kept: KeptImage) -> KeptImage:
        """A keep tag that somebody has taken away is put on again."""
        tag = await self._free_tag(kept.name, kept.digest or kept.image, kept.image)
        kept = replace(kept, tag=tag)
        await self.host.engine.tag(kept.image, kept.keep_name)
        self.host.kept.keep(self.host.key, kept)
        return kept

    async def _free_tag(self, name: Reference, digest: Digest, image: Digest) -> Tag:
        """A keep tag that no other image has. NoFreeKeepTag.

        Of twelve digits of its digest, or of all, where somebody has made twelve collide; of its ID where other images have
        those, such as those for other machines, which one index's digest is the digest of, too.
        """
        for of in dict.fromkeys((digest, image)):
            for tag in (keep_tag(of), Tag(KEEP_PREFIX + of.hex[:64])):
                there = await self.host.image(Reference(name.registry, name.repository, tag))
                if there is None or there.id == image:
                    return tag
        raise NoFreeKeepTag(
            f"{name.familiar()} can't be kept: {Reference(name.registry, name.repository, tag).familiar()}, and every other keep "
            "tag that it could have, stands on another image; take one away, and pull again: the name means what it meant"
        )

    def _holds(self) -> dict[Digest, set[str]]:
        found: dict[Digest, set[str]] = {}
        for each in self.host.kept.held(self.host.key):
            if each.until_us is None or self.host.now_us() < each.until_us:
                found.setdefault(each.image, set()).add(each.reason)
        return found

    def _needed(self, locked: Collection[Digest]) -> tuple[frozenset[Digest], str]:
        """All digests that locks name, and why that can't be told."""
        needed = set(locked)
        for path in self.host.kept.locks():
            try:
                lock = read_lock(path.parent)
            except BoltsealError as error:
                return frozenset(), f"what locks name can't be told: {error.message}"
            if lock is not None:
                needed |= {digest for image in lock.images for digest in image.digests}
        return frozenset(needed), ""


def keep_tag(digest: Digest) -> Tag:
    """The tag that keeps an image with this digest."""
    return Tag(KEEP_PREFIX + digest.hex[:SHORT_HEX])


def _media_type(image: EngineImage) -> str:
    """Of what the ID is the digest of, where the store says so."""
    return "" if image.target is None else image.target.media_type


async def _has_copy(kept: KeptImage, elsewhere: FindCopy | None) -> bool:
    if elsewhere is None:
        return False
    at_home = None if kept.digest is None else Reference(kept.name.registry, kept.name.repository, digest=kept.digest)
    for place in (kept.copy, at_home):
        if place is not None and await elsewhere(place):
            return True
    return False


def _standing(kept: KeptImage, by_id: dict[Digest, EngineImage], meant: dict[Reference, Digest]) -> KeptState:
    if kept.kept_us == 0 and not _fits(kept.tag, (kept.image, *(() if kept.digest is None else (kept.digest,)))):
        return KeptState.OTHER
    if kept.image in by_id:
        return KeptState.KEPT if meant.get(kept.keep_name) == kept.image else KeptState.LOOSE
    return KeptState.GONE if kept.keep_name not in meant else KeptState.OTHER


def _unrecorded(images: Iterable[EngineImage], rows: Iterable[KeptImage], name: Reference | None) -> list[KeptImage]:
    """Images under a keep tag that no row has: the row was lost, or never written. Which tag they had is not known."""
    recorded = {each.keep_name for each in rows}
    found = []
    for image in images:
        for tagged in image.names:
            if tagged.tag is None or not tagged.tag.startswith(KEEP_PREFIX) or tagged in recorded:
                continue
            if name is not None and tagged.name != name.name:
                continue
            digests = [each.digest for each in image.pulled_as if each.digest is not None]
            digest = next((each for each in digests if _fits(tagged.tag, [each])), None)
            found.append(KeptImage(name or tagged, image.id, digest, "", tagged.tag, 0))
    return found


def _fits(tag: Tag, digests: Iterable[Digest]) -> bool:
    """Whether a keep tag was made of one of these digests."""
    short = tag.removeprefix(KEEP_PREFIX)
    return len(short) >= SHORT_HEX and any(each.hex.startswith(short) for each in digests)

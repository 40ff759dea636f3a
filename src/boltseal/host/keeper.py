"""Keeps images on an engine before a newer image takes their name, and removes kept images that have expired.

An image is kept by an additional tag on the engine, `REPOSITORY:boltseal-keep-<first 12 hex digits of its digest>`. It
works without boltseal's records, and `docker image prune` skips it. A keep writes 1. the keep tag, 2. the row. If it is
interrupted between the two, the image is kept, and the next keep writes its row.

Only `expire` removes anything. It keeps an image in any of these cases, and in doubt:

    no policy         without --keep N or --keep-for nothing expires; with both, an image must exceed both
    promised          until the time that was promised when it was kept
    in use            by a container, running or stopped, or as what its name resolves to now
    needed            by a known lock; an unreadable lock keeps everything
    held              by a release
    the only copy     of a digest that ran here in the last RAN_US, unless a registry confirms now that it has it
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from boltseal.engines.api import EngineRefused, NoSuchImage
from boltseal.engines.inventory import EngineImage
from boltseal.errors import BoltsealError, Precondition
from boltseal.host.changed_images import EVIDENCE, ChangedImages, marked
from boltseal.host.engine_images import EngineHost
from boltseal.host.kept_images import KeepReason, KeptImage
from boltseal.lockfile.container_check import KEEP_PREFIX, is_changed_mark
from boltseal.lockfile.document import LOCK_NAME
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.project.lock_file import read_lock

SHORT_HEX: Final = 12
RAN_US: Final = 30 * 86_400_000_000

FindCopy = Callable[[Reference], Awaitable[bool]]
"""Asks a registry now whether it has an image (by digest); returns False in doubt."""


@dataclass(frozen=True, slots=True)
class KeepPolicy:
    """How many images of a name are kept: the newest `keep`, and those younger than `for_us` microseconds.

    If both are None, all are kept.
    """

    keep: int | None = None
    for_us: int | None = None

    def expires(self, rank: int, kept: KeptImage, now_us: int) -> bool:
        """Return whether a kept image has expired. `rank`: its position by age among those of its name, 0 for the newest."""
        if self.keep is None and self.for_us is None:
            return False
        if kept.until_us is not None and now_us < kept.until_us:
            return False
        exceeds_count = self.keep is None or rank >= self.keep
        exceeds_age = self.for_us is None or now_us >= kept.kept_us + self.for_us
        return exceeds_count and exceeds_age


class NoFreeKeepTag(Precondition):
    """All possible keep tags of an image are on other images, and boltseal never moves a keep tag."""


class KeptState(StrEnum):
    """The current state of a kept image."""

    KEPT = "kept"
    LOOSE = "loose"  # the engine has it, but without its keep tag: the next prune may remove it
    ARCHIVED = "archived"  # the engine no longer has it, but the archive of releases has
    GONE = "gone"  # the engine no longer has it
    OTHER = "other"  # the engine no longer has it, and its keep tag is on another image


@dataclass(frozen=True, slots=True)
class ListedImage:
    """A kept image and its state.

    `number`: its rank by age among those of its name, 1 for the newest. `current`: whether its name resolves to it now.
    `ran_us`: when it was last seen running. `held`: the reasons why it is needed. `recorded`: False if it is known only by
    its keep tag.
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
    """The result for an expired image: removed if `why` is "", else kept for that reason."""

    kept: KeptImage
    why: str = ""


@dataclass(frozen=True, slots=True)
class Keeper:
    """Keeps images on one engine and removes expired ones. `archived`: IDs of images in the archive of releases."""

    host: EngineHost
    archived: frozenset[Digest] = frozenset()

    async def keep(
        self, name: Reference, image: EngineImage, policy: KeepPolicy = KeepPolicy(), copy: Reference | None = None
    ) -> KeptImage:
        """Keep the image that a name resolves to. Callers are inside `EngineHost.tagging_lock`.

        Raises: EngineFull, StateUnusable, NoFreeKeepTag and the engine's errors.
        """
        now_us = self.host.now_us()
        digests = self.host.registry_digests(image, name)
        pulls = self.host.kept.pulls(self.host.key, image.id)
        kept = KeptImage(
            name=name,
            image=image.id,
            digest=digests[0] if digests else None,
            media_type=next(
                (each.media_type for each in pulls if digests and each.digest == digests[0]), _media_type(image)
            ),
            tag=await self._free_tag(name, digests[0] if digests else image.id, image.id),
            kept_us=now_us,
            until_us=None if policy.for_us is None else now_us + policy.for_us,
            keep=policy.keep,
            copy=copy,
        )
        await self.host.engine.tag(image.id, kept.keep_name)
        self.host.kept.keep(self.host.key, kept)
        return kept

    async def hold(
        self, image: Digest, name: Reference, digest: Digest | None, reason: str, until_us: int | None = None
    ) -> KeptImage:
        """Keep an image for a reason, whatever its name resolves to later.

        `digest`: the registry's, if the caller knows it better than the engine. `reason`: such as `release shop/42`; one
        reason may hold many images. `until_us`: None to hold it until `let_go`.

        Raises: NoSuchImage: if the engine does not have it.
        """
        async with self.host.tagging_lock():
            found = await self.host.engine.image(image)
            before = next((each for each in self.host.kept.kept(self.host.key, name) if each.image == image), None)
            kept = await self.keep(name, found) if before is None else await self._restore_tag(before)
            if digest is not None and kept.digest != digest:
                kept = replace(kept, digest=digest)
                self.host.kept.keep(self.host.key, kept)
            self.host.kept.hold(self.host.key, KeepReason(image, reason, until_us))
        return kept

    def let_go(self, reason: str, images: Collection[Digest] | None = None) -> None:
        """Drop a reason for holding these images (None: all). Removes no image."""
        self.host.kept.let_go(self.host.key, reason, None if images is None else list(images))

    async def hold_as_evidence(self, image: Digest, name: Reference, digest: Digest | None) -> KeptImage:
        """Keep an image because its files were changed on the disk, and mark it for all administrators of the engine.

        Raises: as `hold`.
        """
        kept = await self.hold(image, name, digest, EVIDENCE)
        await ChangedImages(self.host).mark(kept)
        return kept

    async def list_kept(self, name: Reference | None = None) -> list[ListedImage]:
        """Return the kept images of one name or of all, by name, newest first, including those known only by a keep tag."""
        ran = self.host.kept.ran(self.host.key)
        holds = self._holds()
        rows = self.host.kept.kept(self.host.key)
        images = await self.host.engine.images()
        changed = marked(images) | ChangedImages(self.host).unmarked(images).keys()
        known = [each for each in rows if name in (None, each.name)] + _unrecorded(images, rows, name)
        by_id = {image.id: image for image in images}
        by_name = {tagged: image.id for image in images for tagged in image.names}
        numbers: dict[Reference, int] = {}
        found = []
        for kept in known:
            number = numbers[kept.name] = numbers.get(kept.name, 0) + 1
            recorded = kept.kept_us > 0
            found.append(
                ListedImage(
                    kept=kept,
                    number=number,
                    standing=_archived(_state(kept, by_id, by_name), kept, self.archived),
                    current=by_name.get(kept.name) == kept.image and kept.name != kept.keep_name,
                    ran_us=ran.get(kept.image),
                    held=tuple(sorted(_with_evidence(holds.get(kept.image, set()), is_evidence=kept.image in changed))),
                    recorded=recorded,
                )
            )
        return sorted(found, key=lambda each: (str(each.kept.name), each.number))

    async def forget_gone(self, listed: Iterable[ListedImage]) -> list[KeptImage]:
        """Delete the rows of kept images that the engine no longer has. Removes no image."""
        gone = [each.kept for each in listed if each.recorded and each.standing in (KeptState.GONE, KeptState.OTHER)]
        async with self.host.tagging_lock():
            for kept in gone:
                self.host.kept.forget(self.host.key, kept)
        return gone

    async def expire(
        self,
        names: Iterable[Reference],
        policy: KeepPolicy,
        locked: Collection[Digest] = (),
        find_copy: FindCopy | None = None,
    ) -> list[ExpiryResult]:
        """Remove the kept images of these names that exceed the policy, unless one is needed (see the module's docstring).

        Callers are inside `EngineHost.tagging_lock`.
        """
        wanted = [kept for name in dict.fromkeys(names) for kept in await self.exceeding(name, policy)]
        if not wanted:
            return []
        needed, doubt = self._needed(locked)
        used = await self.host.images_in_use()
        done = []
        for kept in wanted:
            why = doubt or await self._reason_to_keep(kept, used, needed, find_copy) or await self._remove(kept)
            done.append(ExpiryResult(kept, why))
        return done

    async def exceeding(self, name: Reference, policy: KeepPolicy) -> list[KeptImage]:
        """Return the kept images of a name that exceed a policy; the image that the name resolves to is not counted."""
        if policy == KeepPolicy():
            return []
        now = await self.host.image(name)
        others = [kept for kept in self.host.kept.kept(self.host.key, name) if now is None or kept.image != now.id]
        return [kept for rank, kept in enumerate(others) if policy.expires(rank, kept, self.host.now_us())]

    async def _reason_to_keep(
        self, kept: KeptImage, used: frozenset[Digest], needed: frozenset[Digest], find_copy: FindCopy | None
    ) -> str:
        """Return the reason to keep an image; "" if there is none."""
        if kept.image in used:
            return "a container uses it"
        image = await self.host.image(kept.image)
        digests = {kept.image, *(() if kept.digest is None else (kept.digest,))}
        if image is not None:
            digests |= {each.digest for each in image.pulled_as if each.digest is not None}
        if digests & needed:
            return f"it is in a {LOCK_NAME}"
        is_evidence = image is not None and any(map(is_changed_mark, image.names))
        if holds := _with_evidence(self._holds().get(kept.image, set()), is_evidence=is_evidence):
            return f"held: {', '.join(sorted(holds))}"
        ran_us = self.host.kept.ran(self.host.key).get(kept.image)
        if ran_us is not None and self.host.now_us() - ran_us < RAN_US and not await _has_copy(kept, find_copy):
            return f"it ran here in the last {RAN_US // 86_400_000_000} days, and no registry is known to have it"
        return ""

    async def _remove(self, kept: KeptImage) -> str:
        """Remove the keep tag, then the image if it has no other name, then the row; return why not, or ""."""
        others = [each for each in self.host.kept.kept(self.host.key) if each.keep_name == kept.keep_name]
        tagged = await self.host.image(kept.keep_name)
        if len(others) <= 1 and tagged is not None and tagged.id == kept.image:
            try:
                await self.host.engine.untag(kept.keep_name, allow_last=True)
                await self._remove_nameless(kept)
            except EngineRefused as error:  # a container was created meanwhile
                return error.message
        self.host.kept.forget(self.host.key, kept)
        return ""

    async def _remove_nameless(self, kept: KeptImage) -> None:
        """Remove an image without tags, by its digests, unless another repository has one: Podman keeps untagged images."""
        left = await self.host.image(kept.image)
        if left is None or left.names or any(each.name != kept.name.name for each in left.pulled_as):
            return
        for each in left.pulled_as:
            try:
                await self.host.engine.untag(each, allow_last=True)
            except NoSuchImage:
                return

    async def _restore_tag(self, kept: KeptImage) -> KeptImage:
        """Restore the keep tag of a kept image if it was removed."""
        tag = await self._free_tag(kept.name, kept.digest or kept.image, kept.image)
        kept = replace(kept, tag=tag)
        await self.host.engine.tag(kept.image, kept.keep_name)
        self.host.kept.keep(self.host.key, kept)
        return kept

    async def _free_tag(self, name: Reference, digest: Digest, image: Digest) -> Tag:
        """Return a keep tag that no other image has.

        Candidates: 12 hex digits of the digest, then all digits in case of a collision, then those of the image ID. Images
        for other platforms share the digest of their index, so that the digest's tags may be taken.

        Raises: NoFreeKeepTag.
        """
        for of in dict.fromkeys((digest, image)):
            for tag in (keep_tag(of), Tag(KEEP_PREFIX + of.hex[:64])):
                existing = await self.host.image(Reference(name.registry, name.repository, tag))
                if existing is None or existing.id == image:
                    return tag
        raise NoFreeKeepTag(
            f"could not keep {name.familiar()}: {Reference(name.registry, name.repository, tag).familiar()} and all other "
            "possible keep tags are on other images; the tag was not changed: remove one of them and pull again"
        )

    def _holds(self) -> dict[Digest, set[str]]:
        found: dict[Digest, set[str]] = {}
        for each in self.host.kept.held(self.host.key):
            if each.until_us is None or self.host.now_us() < each.until_us:
                found.setdefault(each.image, set()).add(each.reason)
        return found

    def _needed(self, locked: Collection[Digest]) -> tuple[frozenset[Digest], str]:
        """Return all digests in known locks, and the reason if a lock can't be read."""
        needed = set(locked)
        for path in self.host.kept.locks():
            try:
                lock = read_lock(path.parent)
            except BoltsealError as error:
                return frozenset(), f"could not read a lock: {error.message}"
            if lock is not None:
                needed |= {digest for image in lock.images for digest in image.digests}
        return frozenset(needed), ""


def _with_evidence(holds: set[str], *, is_evidence: bool) -> set[str]:
    """Return the reasons to keep an image; the engine's mark says whether it is evidence, as an image may be pulled anew."""
    return holds - {EVIDENCE} | ({EVIDENCE} if is_evidence else set())


def keep_tag(digest: Digest) -> Tag:
    """Return the keep tag of an image with this digest."""
    return Tag(KEEP_PREFIX + digest.hex[:SHORT_HEX])


def _media_type(image: EngineImage) -> str:
    """Return the media type of what the ID is the digest of, if the store reports it."""
    return "" if image.target is None else image.target.media_type


async def _has_copy(kept: KeptImage, find_copy: FindCopy | None) -> bool:
    if find_copy is None:
        return False
    origin = None if kept.digest is None else Reference(kept.name.registry, kept.name.repository, digest=kept.digest)
    for location in (kept.copy, origin):
        if location is not None and await find_copy(location):
            return True
    return False


def _state(kept: KeptImage, by_id: dict[Digest, EngineImage], by_name: dict[Reference, Digest]) -> KeptState:
    if kept.kept_us == 0 and not _fits(kept.tag, (kept.image, *(() if kept.digest is None else (kept.digest,)))):
        return KeptState.OTHER
    if kept.image in by_id:
        return KeptState.KEPT if by_name.get(kept.keep_name) == kept.image else KeptState.LOOSE
    return KeptState.GONE if kept.keep_name not in by_name else KeptState.OTHER


def _archived(state: KeptState, kept: KeptImage, archived: frozenset[Digest]) -> KeptState:
    return KeptState.ARCHIVED if state in (KeptState.GONE, KeptState.OTHER) and kept.image in archived else state


def _unrecorded(images: Iterable[EngineImage], rows: Iterable[KeptImage], name: Reference | None) -> list[KeptImage]:
    """Return images with a keep tag but no row: it was lost or never written. Their former tag is unknown."""
    recorded = {each.keep_name for each in rows}
    found = []
    for image in images:
        for tagged in image.names:
            if tagged.tag is None or not tagged.tag.startswith(KEEP_PREFIX) or tagged in recorded:
                continue
            if is_changed_mark(tagged):  # beside a keep tag
                continue
            if name is not None and tagged.name != name.name:
                continue
            digests = [each.digest for each in image.pulled_as if each.digest is not None]
            digest = next((each for each in digests if _fits(tagged.tag, [each])), None)
            found.append(KeptImage(name or tagged, image.id, digest, "", tagged.tag, 0))
    return found


def _fits(tag: Tag, digests: Iterable[Digest]) -> bool:
    """Return whether a keep tag was derived from one of these digests."""
    short = tag.removeprefix(KEEP_PREFIX)
    return len(short) >= SHORT_HEX and any(each.hex.startswith(short) for each in digests)

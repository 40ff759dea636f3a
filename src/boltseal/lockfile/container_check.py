"""Compare a running container with the lock. Pure: what hosts and registries report is passed in.

The container's image decides, not what its tag resolves to now. An image has several digests, and a host may know any
of them: the index, the platform's manifest, the config. The steps that decide, in this order:

1. The lock does not contain the reference. If it contains the image: holds. If it contains other tags of that
   repository: unknown. Else the container is not covered by the lock, which is a note.
2. The lock marks the reference as a local build, so it must not come from a registry.
3. The image has one of the locked digests: holds, unless the lock has an image for this machine and this is another
   one.
4. The image has none of the locked digests. The first reason that applies:
   a. the host knows no digest of a kind that the lock contains: could not check;
   b. the reference resolves to the locked image on this host: not recreated;
   c. the host has lost its record of the image;
   d. the image is for another machine;
   e. it came from no registry: a local build;
   f. it is the tag's current image, or was tagged here after the lock was written: the tag moved after the lock; but if
      the tag still resolves to the locked digest, another image was tagged so on this host: unknown;
   g. it was created after the new image was locked: recreated without a pull;
   h. it was started by digest or keep tag, as `boltseal deploy` does, so nothing shows that the tag moved: unknown;
   i. it was created before that: the tag moved after the pull.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from boltseal.errors import Invalid
from boltseal.lockfile.compare import Weight
from boltseal.lockfile.document import LOCK_NAME, Lock, LockedImage, key_in, lock_key
from boltseal.lockfile.format import time_text
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import INDEX_TYPES
from boltseal.oci.reference import Reference, Repository, Tag

KEEP_PREFIX: Final = "boltseal-keep-"
"""Prefix of the tags by which `boltseal pull` keeps images; they exist in no registry."""
MARK_REGISTRY: Final = "boltseal.invalid"
"""The registry in the name of a mark. No such host can exist (RFC 2606), so that no pull gives an image this name."""
_MARK_REPOSITORY: Final = Repository("changed")


class DigestKind(StrEnum):
    """What a digest identifies.

    UNSPECIFIED: an index or a manifest, the host does not say which. IMAGE_ID: a store's own ID of an image, in most
    stores the config's digest.
    """

    INDEX = "index"
    MANIFEST = "manifest"
    CONFIG = "config"
    UNSPECIFIED = "digest"
    IMAGE_ID = "image-id"


STORES_KINDS: Final = frozenset({DigestKind.CONFIG, DigestKind.IMAGE_ID})
"""Kinds that only stores use: no registry has an image by such a digest."""


class Origin(StrEnum):
    """Whether an image came from a registry. UNSPECIFIED: its store gives a digest to every image, built or pulled."""

    PULLED = "pulled"
    LOCAL = "local"
    UNSPECIFIED = "unsaid"


class ContainerStatus(StrEnum):
    """The result for a container, as in `--json`. The last four: of a pod that is compared with a release (`deploy.kube`)."""

    HOLDS = "holds"
    NOT_LOCKED = "not-in-the-lock"
    UNKNOWN = "unknown"
    RECORD_GONE = "record-gone"
    OTHER_PLATFORM = "other-platform"
    LOCAL_BUILD = "local-build"
    NOT_RECREATED = "not-recreated"
    MOVED_AFTER_LOCK = "moved-after-the-lock"
    RECREATED_WITHOUT_PULL = "recreated-without-a-pull"
    MOVED_AFTER_PULL = "moved-after-the-pull"
    NOT_IN_RELEASE = "not-in-the-release"
    NOT_AS_RELEASED = "not-as-released"
    OTHER_IMAGE = "other-image"
    DELETED = "being-deleted"


@dataclass(frozen=True, slots=True)
class RunningImage:
    """A container's image, as its host reports it.

    `started_as`: the reference in the create request, None if that was an ID. `names`: the image's references on the
    host now. `pulled_as`: its references by digest, as far as known. `platform`: of the image, "" if unknown;
    `machine`: the host's. `recorded`: whether the host still knows the image. `created_us`: of the container.
    `tagged_us`: when the image was last tagged on this host. `local_digests`: of the image to which `started_as`
    resolves on this host now, None if there is none. `current_digest`: what it resolves to in the registry now, None if
    that was not asked. `is_evidence`: whether the host has it as evidence, because its files were changed on the disk. `is_copy`:
    whether it is a copy that `boltseal pull --replace` made, of which the host knows no registry digest.
    """

    started_as: Reference | None
    digests: Mapping[Digest, DigestKind]
    names: tuple[Reference, ...] = ()
    pulled_as: tuple[Reference, ...] = ()
    platform: str = ""
    machine: str = ""
    origin: Origin = Origin.UNSPECIFIED
    recorded: bool = True
    created_us: int | None = None
    tagged_us: int | None = None
    local_digests: frozenset[Digest] | None = None
    current_digest: Digest | None = None
    is_evidence: bool = False
    is_copy: bool = False


@dataclass(frozen=True, slots=True)
class RunningVerdict:
    """The result for a container. `locked`: the lock entry that it was compared with."""

    status: ContainerStatus
    weight: Weight
    reason: str = ""
    locked: LockedImage | None = None


@dataclass(frozen=True, slots=True)
class LockedImages:
    """A lock, indexed for containers by reference, digest and repository."""

    lock: Lock
    by_name: Mapping[Reference, LockedImage]
    by_digest: Mapping[Digest, LockedImage]
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, lock: Lock) -> LockedImages:
        """Index a lock."""
        tags: dict[str, tuple[str, ...]] = {}
        for image in lock.images:
            tag = str(image.reference)[len(image.reference.name) + 1 :]
            tags[image.reference.name] = (*tags.get(image.reference.name, ()), tag)
        by_digest = {digest: image for image in lock.images for digest in image.digests}
        return cls(lock, lock.by_reference(), by_digest, tags)

    def entry_for(self, running: RunningImage) -> LockedImage | None:
        """Return the lock entry for a container's reference, or None.

        A container started by digest only, or by the tag with which `boltseal pull` keeps an image (as `boltseal
        deploy` does), gets the entry of its repository if there is only one tag.
        """
        name = running.started_as
        if name is None:
            return None
        found = self.by_name.get(key_in(name, self.by_name))
        if found is not None or (name.tag is not None and not name.tag.startswith(KEEP_PREFIX)):
            return found
        tags = self.tags.get(name.name, ())
        only = replace(name, tag=Tag(tags[0]), digest=None) if len(tags) == 1 and ":" not in tags[0] else None
        return None if only is None else self.by_name.get(only)

    def entry_with_digest(self, digests: Iterable[Digest]) -> LockedImage | None:
        """Return the lock entry that has one of these digests, or None."""
        return next((found for digest in digests if (found := self.by_digest.get(digest)) is not None), None)


def is_keep_tag(name: Reference) -> bool:
    """Return whether a name is only a tag with which boltseal keeps an image: it is never shown as the image's name."""
    return name.tag is not None and name.tag.startswith(KEEP_PREFIX)


def changed_mark(image: Digest) -> Reference:
    """Return the name that marks an image, by its ID, as kept as evidence, because its files were changed on the disk."""
    return Reference(MARK_REGISTRY, _MARK_REPOSITORY, Tag(f"{KEEP_PREFIX}{image.hex[:64]}"))


def is_changed_mark(name: Reference) -> bool:
    """Return whether a name is such a mark. The tag of another registry never is, whatever its form."""
    return name.registry == MARK_REGISTRY and name.repository == _MARK_REPOSITORY and is_keep_tag(name)


def without_keep_tags(names: Iterable[Reference]) -> tuple[Reference, ...]:
    """Return the names of an image that people and registries gave it."""
    return tuple(each for each in names if not is_keep_tag(each))


def shown_name(started_as: str, pulled_as: Iterable[Reference]) -> str:
    """Return the name of an image as it is shown: for a keep tag its repository, with the digest that is known there."""
    try:
        name = Reference.parse(started_as)
    except Invalid:
        return started_as
    if not is_keep_tag(name):
        return started_as
    known = (each.digest for each in pulled_as if each.name == name.name and each.digest is not None)
    return Reference(name.registry, name.repository, digest=next(known, None)).familiar()


def judge(running: RunningImage, lock: LockedImages) -> RunningVerdict:
    """Compare a container with the lock."""
    locked = lock.entry_for(running)
    # 1
    if locked is None:
        return _judge_unlocked(running, lock)
    # 2
    if locked.local_build:
        return _judge_local_build(running, locked)
    # 3
    if locked.digests & running.digests.keys():
        return _judge_same_image(running, locked)
    return RunningVerdict(*_difference(running, locked), locked)


def known_kinds(digests: Mapping[Digest, DigestKind], locked: LockedImage | None) -> dict[Digest, DigestKind]:
    """Return these digests with kinds that the lock knows in place of the unspecific ones."""
    known: dict[Digest, DigestKind] = {}
    if locked is not None:
        known = {each.image: DigestKind.CONFIG for each in locked.platforms if each.image is not None}
        known |= {each.manifest: DigestKind.MANIFEST for each in locked.platforms}
        if locked.digest is not None and locked.media_type in INDEX_TYPES:
            known[locked.digest] = DigestKind.INDEX
    unspecific = (DigestKind.UNSPECIFIED, DigestKind.IMAGE_ID)
    return {each: known.get(each, kind) if kind in unspecific else kind for each, kind in digests.items()}


def has_registry_digest(digests: Mapping[Digest, DigestKind]) -> bool:
    """Return whether one of these digests identifies an image in a registry, not only in a store."""
    return any(kind not in STORES_KINDS for kind in digests.values())


def _judge_unlocked(running: RunningImage, lock: LockedImages) -> RunningVerdict:
    same = lock.entry_with_digest(running.digests)
    if same is not None:
        reason = f"it is what {same.reference.familiar()} is locked to"
        return RunningVerdict(ContainerStatus.HOLDS, Weight.HOLDS, reason, same)
    references = [running.started_as] if running.started_as is not None else []
    for name in (*references, *running.names):
        if tags := lock.tags.get(name.name):
            reason = f"{LOCK_NAME} has {name.name} as {', '.join(tags)}, but neither this tag nor this image"
            return RunningVerdict(ContainerStatus.UNKNOWN, Weight.DIFFERS, reason)
    return RunningVerdict(ContainerStatus.NOT_LOCKED, Weight.NOTE, f"it is not in {LOCK_NAME}")


def _judge_local_build(running: RunningImage, locked: LockedImage) -> RunningVerdict:
    if running.origin is Origin.PULLED:
        reason = f"{LOCK_NAME} marks it as a local build, but it came from a registry"
        return RunningVerdict(ContainerStatus.UNKNOWN, Weight.DIFFERS, reason, locked)
    return RunningVerdict(ContainerStatus.LOCAL_BUILD, Weight.HOLDS, f"it is built here, as in {LOCK_NAME}", locked)


def _judge_same_image(running: RunningImage, locked: LockedImage) -> RunningVerdict:
    platform = _platform_of(running, locked)
    if _is_other_machine(platform, running.machine, locked):
        return RunningVerdict(
            ContainerStatus.OTHER_PLATFORM, Weight.DIFFERS, _other_machine_reason(platform, running, locked), locked
        )
    lost = "" if running.recorded else "its host has lost the record of the image; `docker pull` restores it"
    return RunningVerdict(ContainerStatus.HOLDS, Weight.HOLDS, lost, locked)


def _difference(running: RunningImage, locked: LockedImage) -> tuple[ContainerStatus, Weight, str]:
    name, wanted = locked.reference.familiar(), "" if locked.digest is None else str(locked.digest)
    # a
    if not _comparable(running, locked):
        reason = f"its host knows only its image ID, and {LOCK_NAME} has none for {name}"
        status = ContainerStatus.UNKNOWN if running.recorded else ContainerStatus.RECORD_GONE
        return status, Weight.UNKNOWN, reason
    # b
    if running.local_digests is not None and running.local_digests & locked.digests:
        reason = f"its host has the locked image, but the container runs a former image of {name}; recreate it"
        return ContainerStatus.NOT_RECREATED, Weight.DIFFERS, reason
    # c
    if not running.recorded:
        reason = f"its host has lost the record of the image, and its ID is not among those locked for {name}"
        return ContainerStatus.RECORD_GONE, Weight.DIFFERS, reason
    # d
    if _is_other_machine(running.platform, running.machine, locked):
        return ContainerStatus.OTHER_PLATFORM, Weight.DIFFERS, _other_machine_reason(running.platform, running, locked)
    # e
    if running.origin is Origin.LOCAL:
        reason = f"it was built or loaded on its host, and is in no known registry; {name} is locked to {wanted}"
        return ContainerStatus.LOCAL_BUILD, Weight.DIFFERS, reason
    return _moved(running, locked, name, wanted)


def _moved(running: RunningImage, locked: LockedImage, name: str, wanted: str) -> tuple[ContainerStatus, Weight, str]:
    since = time_text(locked.first_seen_us)
    # f
    if running.current_digest in running.digests:
        reason = f"{name} moved after it was locked to {wanted}, and its host has pulled the new image"
        return ContainerStatus.MOVED_AFTER_LOCK, Weight.DIFFERS, reason
    named_us = _named_us(running)
    if named_us is not None and named_us > locked.first_seen_us:
        got = f"its host tagged it as {name} on {time_text(named_us)}, after that was locked to {wanted}"
        if running.current_digest == locked.digest:
            reason = (
                f"{got}, but {name} still resolves to that in its registry: another image was tagged so on this host"
            )
            return ContainerStatus.UNKNOWN, Weight.DIFFERS, reason
        return ContainerStatus.MOVED_AFTER_LOCK, Weight.DIFFERS, got
    # g
    if running.created_us is not None and running.created_us >= locked.first_seen_us:
        reason = (
            f"it was created on {time_text(running.created_us)} from an image that was already on its host; {name} is "
            f"locked to {wanted} since {since}: pull, and recreate it"
        )
        return ContainerStatus.RECREATED_WITHOUT_PULL, Weight.DIFFERS, reason
    # h
    if not _started_by_tag(running):
        reason = (
            f"it runs another image of {locked.reference.name}; {name} is locked to {wanted} since {since}: deploy it"
        )
        return ContainerStatus.UNKNOWN, Weight.DIFFERS, reason
    # i
    reason = f"{name} moved after its host pulled it, and is locked to {wanted} since {since}: pull, and recreate it"
    return ContainerStatus.MOVED_AFTER_PULL, Weight.DIFFERS, reason


def _started_by_tag(running: RunningImage) -> bool:
    name = running.started_as
    return name is not None and name.digest is None and not is_keep_tag(name)


def _named_us(running: RunningImage) -> int | None:
    """Return when the image got the container's reference as its tag; None if it has other tags too."""
    name = running.started_as
    return running.tagged_us if name is not None and running.names == (lock_key(name),) else None


def _comparable(running: RunningImage, locked: LockedImage) -> bool:
    """Return whether equal images would share a digest: image IDs are useless if the lock has none."""
    return has_registry_digest(running.digests) or any(each.image is not None for each in locked.platforms)


def _platform_of(running: RunningImage, locked: LockedImage) -> str:
    """Return the platform of the running manifest or config in the lock, else the host's information."""
    for each in locked.platforms:
        if each.manifest in running.digests or (each.image is not None and each.image in running.digests):
            return each.platform
    return running.platform


def _is_other_machine(platform: str, machine: str, locked: LockedImage) -> bool:
    """Return whether an image is for another machine, although the lock has one for this machine."""
    if not platform or not machine or _machine(platform) == _machine(machine):
        return False
    return not locked.platforms or any(_machine(each.platform) == _machine(machine) for each in locked.platforms)


def _other_machine_reason(platform: str, running: RunningImage, locked: LockedImage) -> str:
    return (
        f"it is the image for {platform}, but its host is {running.machine}: pull {locked.reference.familiar()} again"
    )


def _machine(platform: str) -> tuple[str, ...]:
    """Return system and architecture; images of several variants and versions can run on one machine."""
    return tuple(platform.partition(":")[0].split("/")[:2])

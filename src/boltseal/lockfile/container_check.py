"""Is what runs what is locked? One verdict for each container. Pure: what hosts and registries say is passed in.

A container is held against the lock by the image that it stands on, never by what its tag means by now. It goes by
several digests, of which a host may know any: the index, its platform's manifest, the config. What decides, in order:

1. The lock does not name what it was started as. If it is an image of the lock all the same, it holds. If the lock has
   other tags of that repository: unknown. Else it is none of the lock's business, which is noted.
2. The lock says that it is built where it runs: so it must not come from a registry.
3. It is one of the digests of the lock: holds, unless it is another machine's while the lock has one for this machine.
4. It is none of them. Of the reasons for that, the first that fits:
   a. nothing that the host knows of it is of a kind that the lock knows: could not check;
   b. its name means what is locked on this host by now: not recreated;
   c. the host has lost its record of the image;
   d. it is for another machine;
   e. it came from no registry: a local build;
   f. it is what the tag means now, or got its name here after the lock was written: the tag moved after the lock; but if
      the tag still means what is locked, somebody here named another image so: unknown;
   g. it was created after the new image was locked: recreated without a pull;
   h. it was created before that: the tag moved after the pull.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from boltseal.lockfile.compare import Weight
from boltseal.lockfile.document import LOCK_NAME, Lock, LockedImage, key_in, lock_key
from boltseal.lockfile.format import time_text
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import INDEX_TYPES
from boltseal.oci.reference import Reference, Tag

KEEP_PREFIX: Final = "boltseal-keep-"
"""How a tag begins that `boltseal pull` puts on an image to keep it; no registry has it."""


class DigestKind(StrEnum):
    """What a digest is the digest of.

    UNSAID: of an index or of a manifest, its host does not say which. IMAGE_ID: what some store calls the image by, in most
    of them the config's digest.
    """

    INDEX = "index"
    MANIFEST = "manifest"
    CONFIG = "config"
    UNSAID = "digest"
    IMAGE_ID = "image-id"


STORES_KINDS: Final = frozenset({DigestKind.CONFIG, DigestKind.IMAGE_ID})
"""What only stores call an image by: no registry has it under them."""


class Origin(StrEnum):
    """Whether an image came from a registry. UNSAID: its store gives everything a name with a digest, built or pulled."""

    PULLED = "pulled"
    LOCAL = "local"
    UNSAID = "unsaid"


class ContainerStatus(StrEnum):
    """How a container stands with the lock, as `--json` has it."""

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


@dataclass(frozen=True, slots=True)
class RunningImage:
    """What a container stands on, as its host tells it.

    `started_as`: what its creator asked for, None where that was an ID. `names`: what the host calls the image now;
    `pulled_as`: under which digests of which repositories it has it, as far as it says.
    `platform`: of the image, "" where nobody says; `machine`: the host's. `recorded`: the host still knows the image.
    `created_us`: the container; `tagged_us`: when the image last got a name on this host. `here`: the digests of what
    `started_as` means on this host now, None where nothing has that name. `means`: what the registry says it means now,
    None where it was not asked.
    """

    started_as: Reference | None
    digests: Mapping[Digest, DigestKind]
    names: tuple[Reference, ...] = ()
    pulled_as: tuple[Reference, ...] = ()
    platform: str = ""
    machine: str = ""
    origin: Origin = Origin.UNSAID
    recorded: bool = True
    created_us: int | None = None
    tagged_us: int | None = None
    here: frozenset[Digest] | None = None
    means: Digest | None = None


@dataclass(frozen=True, slots=True)
class RunningVerdict:
    """What is to be said of a container. `locked`: the image of the lock that it was held against."""

    standing: ContainerStatus
    weight: Weight
    reason: str = ""
    locked: LockedImage | None = None


@dataclass(frozen=True, slots=True)
class LockedImages:
    """A lock, by what containers are found by: names, digests, repositories."""

    lock: Lock
    by_name: Mapping[Reference, LockedImage]
    by_digest: Mapping[Digest, LockedImage]
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, lock: Lock) -> LockedImages:
        """All of a lock."""
        tags: dict[str, tuple[str, ...]] = {}
        for image in lock.images:
            said = str(image.reference.tag or (image.reference.digest and image.reference.digest.short))
            tags[image.reference.name] = (*tags.get(image.reference.name, ()), said)
        by_digest = {digest: image for image in lock.images for digest in image.digests}
        return cls(lock, lock.by_reference(), by_digest, tags)

    def named(self, running: RunningImage) -> LockedImage | None:
        """What the lock says of what a container was started as.

        What was started by a digest alone, or by the name under which `boltseal pull` keeps an image, as `boltseal deploy`
        does, goes by the one tag of its repository that the lock has.
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

    def same(self, digests: Iterable[Digest]) -> LockedImage | None:
        """The image of the lock that goes by one of these digests."""
        return next((found for digest in digests if (found := self.by_digest.get(digest)) is not None), None)


def judge(running: RunningImage, lock: LockedImages) -> RunningVerdict:
    """How a container stands with the lock."""
    locked = lock.named(running)
    # 1
    if locked is None:
        return _not_named(running, lock)
    # 2
    if locked.local_build:
        return _locked_as_built(running, locked)
    # 3
    if locked.digests & running.digests.keys():
        return _same(running, locked)
    return RunningVerdict(*_different(running, locked), locked)


def kinds(digests: Mapping[Digest, DigestKind], locked: LockedImage | None) -> dict[Digest, DigestKind]:
    """The same digests, each of the kind that the lock knows it to be of where its host does not say."""
    known: dict[Digest, DigestKind] = {}
    if locked is not None:
        known = {each.image: DigestKind.CONFIG for each in locked.platforms if each.image is not None}
        known |= {each.manifest: DigestKind.MANIFEST for each in locked.platforms}
        if locked.digest is not None and locked.media_type in INDEX_TYPES:
            known[locked.digest] = DigestKind.INDEX
    unsure = (DigestKind.UNSAID, DigestKind.IMAGE_ID)
    return {each: known.get(each, kind) if kind in unsure else kind for each, kind in digests.items()}


def has_registry_digest(digests: Mapping[Digest, DigestKind]) -> bool:
    """Whether one of them is what a registry would call the image by, and not only a store."""
    return any(kind not in STORES_KINDS for kind in digests.values())


def _not_named(running: RunningImage, lock: LockedImages) -> RunningVerdict:
    same = lock.same(running.digests)
    if same is not None:
        reason = f"it is what {same.reference.familiar()} is locked to"
        return RunningVerdict(ContainerStatus.HOLDS, Weight.HOLDS, reason, same)
    called = [running.started_as] if running.started_as is not None else []
    for name in (*called, *running.names):
        if tags := lock.tags.get(name.name):
            reason = f"{LOCK_NAME} has {name.name} as {', '.join(tags)}, and neither this name nor this image"
            return RunningVerdict(ContainerStatus.UNKNOWN, Weight.DIFFERS, reason)
    return RunningVerdict(ContainerStatus.NOT_LOCKED, Weight.NOTE, f"{LOCK_NAME} does not name it")


def _locked_as_built(running: RunningImage, locked: LockedImage) -> RunningVerdict:
    if running.origin is Origin.PULLED:
        reason = f"{LOCK_NAME} says that it is built where it runs, and it came from a registry"
        return RunningVerdict(ContainerStatus.UNKNOWN, Weight.DIFFERS, reason, locked)
    return RunningVerdict(ContainerStatus.LOCAL_BUILD, Weight.HOLDS, f"it is built here, as {LOCK_NAME} says", locked)


def _same(running: RunningImage, locked: LockedImage) -> RunningVerdict:
    its = _platform_of(running, locked)
    if _other(its, running.machine, locked):
        return RunningVerdict(
            ContainerStatus.OTHER_PLATFORM, Weight.DIFFERS, _for_another(its, running, locked), locked
        )
    lost = "" if running.recorded else "its host has lost the record of the image; `docker pull` it again to keep it"
    return RunningVerdict(ContainerStatus.HOLDS, Weight.HOLDS, lost, locked)


def _different(running: RunningImage, locked: LockedImage) -> tuple[ContainerStatus, Weight, str]:
    name, wanted = locked.reference.familiar(), "" if locked.digest is None else locked.digest.short
    # a
    if not _comparable(running, locked):
        reason = f"its host knows only its image ID, and {LOCK_NAME} has none for {name}"
        standing = ContainerStatus.UNKNOWN if running.recorded else ContainerStatus.RECORD_GONE
        return standing, Weight.UNKNOWN, reason
    # b
    if running.here is not None and running.here & locked.digests:
        reason = f"what is locked is on its host, and the container stands on what {name} meant before; recreate it"
        return ContainerStatus.NOT_RECREATED, Weight.DIFFERS, reason
    # c
    if not running.recorded:
        reason = f"its host has lost the record of the image, whose ID is none of those that {name} is locked to"
        return ContainerStatus.RECORD_GONE, Weight.DIFFERS, reason
    # d
    if _other(running.platform, running.machine, locked):
        return ContainerStatus.OTHER_PLATFORM, Weight.DIFFERS, _for_another(running.platform, running, locked)
    # e
    if running.origin is Origin.LOCAL:
        reason = f"no registry is known for it: it was built or loaded on its host; {name} is locked to {wanted}"
        return ContainerStatus.LOCAL_BUILD, Weight.DIFFERS, reason
    return _moved(running, locked, name, wanted)


def _moved(running: RunningImage, locked: LockedImage, name: str, wanted: str) -> tuple[ContainerStatus, Weight, str]:
    since = time_text(locked.first_seen_us)
    # f
    if running.means in running.digests:
        reason = f"{name} moved after it was locked to {wanted}, and its host has pulled what it means now"
        return ContainerStatus.MOVED_AFTER_LOCK, Weight.DIFFERS, reason
    named_us = _named_us(running)
    if named_us is not None and named_us > locked.first_seen_us:
        got = f"its host got it as {name} on {time_text(named_us)}, after that was locked to {wanted}"
        if running.means == locked.digest:
            reason = f"{got}, and {name} still means that in its registry: somebody here gave another image its name"
            return ContainerStatus.UNKNOWN, Weight.DIFFERS, reason
        return ContainerStatus.MOVED_AFTER_LOCK, Weight.DIFFERS, got
    # g
    if running.created_us is not None and running.created_us >= locked.first_seen_us:
        reason = (
            f"it was created on {time_text(running.created_us)} of an image that was on its host already; {name} is "
            f"locked to {wanted} since {since}: pull, and recreate it"
        )
        return ContainerStatus.RECREATED_WITHOUT_PULL, Weight.DIFFERS, reason
    # h
    reason = f"{name} moved after its host pulled it, and is locked to {wanted} since {since}: pull, and recreate it"
    return ContainerStatus.MOVED_AFTER_PULL, Weight.DIFFERS, reason


def _named_us(running: RunningImage) -> int | None:
    """When it got the name that the container was started as; known only of an image with no name besides."""
    name = running.started_as
    return running.tagged_us if name is not None and running.names == (lock_key(name),) else None


def _comparable(running: RunningImage, locked: LockedImage) -> bool:
    """Whether equal images would have shown a digest in common: an image ID says nothing to a lock without image IDs."""
    return has_registry_digest(running.digests) or any(each.image is not None for each in locked.platforms)


def _platform_of(running: RunningImage, locked: LockedImage) -> str:
    """What the lock says of the very manifest or config that runs, else what the host says of the image."""
    for each in locked.platforms:
        if each.manifest in running.digests or (each.image is not None and each.image in running.digests):
            return each.platform
    return running.platform


def _other(platform: str, machine: str, locked: LockedImage) -> bool:
    """Whether it is for another machine, though the lock has one for this machine."""
    if not platform or not machine or _machine(platform) == _machine(machine):
        return False
    return not locked.platforms or any(_machine(each.platform) == _machine(machine) for each in locked.platforms)


def _for_another(platform: str, running: RunningImage, locked: LockedImage) -> str:
    return (
        f"it is the image for {platform}, and its host is {running.machine}: pull {locked.reference.familiar()} again"
    )


def _machine(platform: str) -> tuple[str, ...]:
    """System and processor; variants and versions run beside each other."""
    return tuple(platform.partition(":")[0].split("/")[:2])

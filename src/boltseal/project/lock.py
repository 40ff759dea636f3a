"""Update a project's lock: add new references, and keep known ones unless an update is requested.

Rules, for each reference (by tag, or by digest if it has no tag):

1. Resolve it. A reference that can't be resolved prevents the whole lock from being written.
2. New: lock it to that digest. If a file pins another digest that still exists, lock it to the pinned one, because that
   is what the project deploys. A pin to one platform of the index is reported, and the index is locked.
3. Known and unchanged: keep the entry; only positions and spellings are updated.
4. Known and changed: report the age and the changed platforms; only an update accepts the new digest.
5. A new digest is recorded with its registry's ledger entry and trusted ledger key, if there are any. An update
   requests both again if they were missing or the key was rotated.
6. A service that is built here is locked if the registry has its tag, and is a local build otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from boltseal.client.errors import RemoteDenied, RemoteNotFound, RemoteUnauthenticated
from boltseal.client.ledger_trust import KeyDiffers
from boltseal.client.registry_client import Resolved
from boltseal.errors import BoltsealError
from boltseal.lockfile.compare import PlatformChange, compare_platforms
from boltseal.lockfile.document import SECOND_US, Lock, LockedImage, LockedPlatform, Use, key_in, sorted_lock
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.image_references import ImageReference
from boltseal.project.resolve import Resolver

_NOT_SHOWN = (RemoteNotFound, RemoteUnauthenticated, RemoteDenied)


@dataclass(frozen=True, slots=True)
class ReferenceToLock:
    """One reference of the project, with all its occurrences in files."""

    reference: Reference
    written: frozenset[str]
    used: frozenset[Use]
    pins: frozenset[Digest]
    build: bool


class MovedReference(NamedTuple):
    """A reference that no longer resolves to its locked digest. `to`: the new digest; None: the tag is gone."""

    before: LockedImage
    to: Digest | None
    platforms: PlatformChange
    updated: bool


class Unresolved(NamedTuple):
    """A reference that prevents the lock from being written. `places`: its positions in files."""

    name: str
    reason: str
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LockUpdate:
    """The updated lock, and what changed."""

    lock: Lock
    moved: tuple[MovedReference, ...] = ()
    unresolved: tuple[Unresolved, ...] = ()
    notes: tuple[str, ...] = ()


def references_to_lock(
    image_refs: Iterable[ImageReference], known: Mapping[Reference, LockedImage] | None = None
) -> dict[Reference, ReferenceToLock]:
    """Return the distinct references, by their key in the existing lock."""
    found: dict[Reference, ReferenceToLock] = {}
    for image_ref in image_refs:
        if image_ref.resolved is None:
            continue
        key = key_in(image_ref.resolved, known or {}, same=True)
        before = found.get(
            key, ReferenceToLock(reference=key, written=frozenset(), used=frozenset(), pins=frozenset(), build=False)
        )
        pinned = frozenset() if image_ref.pinned is None or key.digest is not None else frozenset({image_ref.pinned})
        found[key] = ReferenceToLock(
            reference=key,
            written=before.written | {image_ref.written},
            used=before.used | {Use(image_ref.path, image_ref.where)},
            pins=before.pins | pinned,
            build=before.build or image_ref.build,
        )
    return found


def unresolvable(image_refs: Iterable[ImageReference]) -> tuple[Unresolved, ...]:
    """Return the references that can't be resolved, such as those with an unset variable."""
    return tuple(
        Unresolved(
            image_ref.written, image_ref.why or "it is not a valid reference", (f"{image_ref.path}:{image_ref.line}",)
        )
        for image_ref in image_refs
        if image_ref.resolved is None and not image_ref.image_id
    )


@dataclass(slots=True)
class _Progress:
    images: list[LockedImage] = field(default_factory=list)
    moved: list[MovedReference] = field(default_factory=list)
    unresolved: list[Unresolved] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


async def relock(
    image_refs: Sequence[ImageReference],
    old: Lock,
    resolver: Resolver,
    *,
    update: Callable[[Reference], bool],
    now_us: int,
    outside: Callable[[str], bool] = lambda _: False,
) -> LockUpdate:
    """Return the updated lock of these references. `update`: whether a known reference is resolved again.

    `outside`: whether a file was not scanned this time; references used only in such files stay in the lock.
    Raises: KeyDiffers, LedgerBroken: a registry is not trustworthy.
    """
    known = old.by_reference()
    wanted = references_to_lock(image_refs, known)
    resolutions = await resolver.resolve(wanted)
    for resolution in resolutions.values():
        if isinstance(resolution, KeyDiffers):  # its answers are not used, and its key must not get into the lock
            raise resolution
    new_references = [each for each in wanted.values() if each.reference not in known]
    resolutions |= await resolver.resolve(_other_pins(new_references, resolutions))
    read = await resolver.platforms(_unread(resolutions, old))
    platforms_by_digest = read | {
        image.digest: image.platforms for image in old.images if image.digest and image.platforms
    }
    progress = _Progress(unresolved=list(unresolvable(image_refs)))
    now_us -= now_us % SECOND_US
    for each in wanted.values():
        _lock_one(
            each,
            known.get(each.reference),
            resolutions,
            platforms_by_digest,
            progress,
            now_us,
            update=update(each.reference),
        )
    new = {
        image.reference: image.digest
        for image in progress.images
        if image.digest is not None and (_is_new(image, known) or (image.entry is None and update(image.reference)))
    }
    entries = await resolver.ledger_entries(new)
    images = [_with_uses(image, known.get(image.reference), outside) for image in progress.images]
    others = (_only_used_outside(image, outside) for reference, image in known.items() if reference not in wanted)
    images += [image for image in others if image.used]
    fresh = {reference.registry for reference in (*new, *filter(update, wanted))}
    keys = {registry: key for registry, key in resolver.ledger_keys().items() if registry in fresh}
    return LockUpdate(
        lock=sorted_lock(
            (replace(each, entry=entries[each.reference]) if each.reference in entries else each for each in images),
            {**old.keys, **keys},
        ),
        moved=tuple(progress.moved),
        unresolved=tuple(sorted(progress.unresolved)),
        notes=tuple(progress.notes),
    )


def _other_pins(
    new: Iterable[ReferenceToLock], resolutions: Mapping[Reference, Resolved | BoltsealError]
) -> set[Reference]:
    """Return the digests to which files pin new references, where the tag resolves to another one."""
    return {
        Reference(each.reference.registry, each.reference.repository, None, pin)
        for each in new
        for pin in each.pins
        if _digest_of(resolutions[each.reference]) != pin
    }


def _is_new(image: LockedImage, known: Mapping[Reference, LockedImage]) -> bool:
    """Return whether a digest is new. Only then the ledger is asked, so that a second run changes nothing."""
    before = known.get(image.reference)
    return before is None or before.digest != image.digest


def _unread(resolutions: Mapping[Reference, Resolved | BoltsealError], old: Lock) -> dict[Digest, Reference]:
    """Return the digests whose platforms are not in the lock, each with a reference to its repository."""
    known = {image.digest for image in old.images if image.platforms}
    return {
        resolution.digest: reference
        for reference, resolution in resolutions.items()
        if isinstance(resolution, Resolved) and resolution.digest not in known
    }


def _lock_one(
    wanted: ReferenceToLock,
    before: LockedImage | None,
    resolutions: Mapping[Reference, Resolved | BoltsealError],
    platforms_by_digest: Mapping[Digest, tuple[LockedPlatform, ...] | BoltsealError],
    progress: _Progress,
    now_us: int,
    *,
    update: bool,
) -> None:
    resolution = resolutions[wanted.reference]
    if isinstance(resolution, BoltsealError):
        local = _local_build(wanted, before, resolution, progress, now_us, update=update)
        if local is None:
            progress.unresolved.append(_unresolved(wanted, resolution))
        else:
            progress.images.append(local)
        return
    if before is None:
        resolution = _pinned(wanted, resolution, resolutions, platforms_by_digest, progress)
    platforms = platforms_by_digest.get(resolution.digest, ())
    if isinstance(platforms, BoltsealError):
        progress.unresolved.append(_unresolved(wanted, platforms))
        return
    locked = LockedImage(
        wanted.reference,
        resolution.digest,
        now_us,
        resolution.media_type,
        platforms,
        tuple(wanted.written),
        tuple(wanted.used),
    )
    if before is not None and before.digest == resolution.digest:
        locked = replace(
            locked,
            first_seen_us=before.first_seen_us,
            platforms=platforms or before.platforms,
            media_type=before.media_type or resolution.media_type,
            entry=before.entry,
        )
    elif before is not None:
        change = compare_platforms(before.platforms, platforms)
        progress.moved.append(MovedReference(before, resolution.digest, change, update))
        if not update:
            locked = _with_occurrences(before, wanted)
    progress.images.append(locked)


def _local_build(
    wanted: ReferenceToLock,
    before: LockedImage | None,
    error: BoltsealError,
    progress: _Progress,
    now_us: int,
    *,
    update: bool,
) -> LockedImage | None:
    """Return a service that is built here and not visible in the registry; None if that is not certain.

    A registry may answer "log in" for a missing tag (Docker Hub always does). For a service that is built here this
    counts as missing, with a note. It never does for an image that is locked to a digest.
    """
    if not wanted.build or not isinstance(error, _NOT_SHOWN):
        return None
    if before is not None and before.local_build:
        return _with_occurrences(before, wanted)
    if before is not None:
        if not isinstance(error, RemoteNotFound):
            return None
        progress.moved.append(MovedReference(before, None, PlatformChange(), update))
        if not update:
            return _with_occurrences(before, wanted)
    if not isinstance(error, RemoteNotFound):
        progress.notes.append(f"{wanted.reference.familiar()} is treated as a local build: {error.message}")
    return _with_occurrences(LockedImage(wanted.reference, None, now_us), wanted)


def _pinned(
    wanted: ReferenceToLock,
    resolution: Resolved,
    resolutions: Mapping[Reference, Resolved | BoltsealError],
    platforms_by_digest: Mapping[Digest, tuple[LockedPlatform, ...] | BoltsealError],
    progress: _Progress,
) -> Resolved:
    """Return what a new reference is locked to: the digest that its files pin if they agree, else the tag's digest."""
    others = wanted.pins - {resolution.digest}
    if not others:
        return resolution
    name = wanted.reference.familiar()
    if len(wanted.pins) > 1:
        progress.notes.append(f"{name}: files pin it to {len(wanted.pins)} digests; locked to the tag's current digest")
        return resolution
    (pin,) = others
    platforms = platforms_by_digest.get(resolution.digest, ())
    if not isinstance(platforms, BoltsealError) and pin in {platform.manifest for platform in platforms}:
        progress.notes.append(
            f"{name}: pinned to {pin}, one platform of it; the index is locked, and `boltseal pin` writes its digest"
        )
        return resolution
    pinned = resolutions[Reference(wanted.reference.registry, wanted.reference.repository, None, pin)]
    if isinstance(pinned, BoltsealError):
        progress.notes.append(
            f"{name}: pinned to {pin}, which is not available: {pinned.message}; locked to the tag's digest"
        )
        return resolution
    progress.notes.append(f"{name}: locked to its pin {pin}; the tag now resolves to {resolution.digest}")
    return pinned


def _with_occurrences(image: LockedImage, wanted: ReferenceToLock) -> LockedImage:
    return replace(image, written=tuple(wanted.written), used=tuple(wanted.used))


def _with_uses(image: LockedImage, before: LockedImage | None, outside: Callable[[str], bool]) -> LockedImage:
    """Add the occurrences in files that were not scanned."""
    return image if before is None else replace(image, used=(*image.used, *_only_used_outside(before, outside).used))


def _only_used_outside(image: LockedImage, outside: Callable[[str], bool]) -> LockedImage:
    """Leave only the occurrences in files that were not scanned."""
    return replace(image, used=tuple(use for use in image.used if outside(use.file)))


def _unresolved(wanted: ReferenceToLock, error: BoltsealError) -> Unresolved:
    places = tuple(sorted(f"{use.file}: {use.at}" for use in wanted.used))
    return Unresolved(wanted.reference.familiar(), error.message, places)


def _digest_of(resolution: Resolved | BoltsealError) -> Digest | None:
    return resolution.digest if isinstance(resolution, Resolved) else None

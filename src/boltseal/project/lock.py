"""A project's references become its lock: what is new is added, what is there stays as it is unless an update is asked for.

Rules, for each reference (by tag, or by digest where it has no tag):

1. It is asked what it means now. What can't be told keeps the whole lock from being written.
2. New: locked to that; where a file pins another digest that is still there, to the pinned one, because that is what
   the project deploys. A pin to one platform of the index is told, and the index is locked.
3. Known and unchanged: not touched, but for places and spellings.
4. Known and changed: told, with its age and the platforms that changed; taken over only by an update.
5. What is locked to something new gets the entry of its registry's ledger that says so, and the key that the ledger is
   believed by, where there are any. An update asks for both again, where they were missing or the key was rotated.
6. A service that is built here is locked if the registry holds its tag, and is a local build otherwise.
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
    """One reference of the project and everything that its files say of it."""

    reference: Reference
    written: frozenset[str]
    used: frozenset[Use]
    pins: frozenset[Digest]
    build: bool


class MovedReference(NamedTuple):
    """A reference that means something else than the lock says. `to` is None where it means nothing any more."""

    before: LockedImage
    to: Digest | None
    platforms: PlatformChange
    taken: bool


class Unresolved(NamedTuple):
    """A reference that the lock can't be written without. `places`: where it stands."""

    name: str
    reason: str
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LockUpdate:
    """The lock as it should be now, and what there is to tell."""

    lock: Lock
    moved: tuple[MovedReference, ...] = ()
    unresolved: tuple[Unresolved, ...] = ()
    notes: tuple[str, ...] = ()


def references_to_lock(
    image_refs: Iterable[ImageReference], known: Mapping[Reference, LockedImage] | None = None
) -> dict[Reference, ReferenceToLock]:
    """The distinct references of these sites, by their name in the lock that there is."""
    found: dict[Reference, ReferenceToLock] = {}
    for image_ref in image_refs:
        if image_ref.resolved is None:
            continue
        key = key_in(image_ref.resolved, known or {}, same=True)
        before = found.get(key, ReferenceToLock(key, frozenset(), frozenset(), frozenset(), build=False))
        pinned = frozenset() if image_ref.pinned is None or key.digest is not None else frozenset({image_ref.pinned})
        found[key] = ReferenceToLock(
            key,
            before.written | {image_ref.written},
            before.used | {Use(image_ref.path, image_ref.where)},
            before.pins | pinned,
            before.build or image_ref.build,
        )
    return found


def unreadable(image_refs: Iterable[ImageReference]) -> tuple[Unresolved, ...]:
    """The sites that name nothing that could be looked up, such as a variable without a value."""
    return tuple(
        Unresolved(image_ref.written, image_ref.why or "it is no reference", (f"{image_ref.path}:{image_ref.line}",))
        for image_ref in image_refs
        if image_ref.resolved is None
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
    """The lock that these sites should have. `update`: which known references are to mean what they mean now.

    `outside`: of a file's path, whether it was not looked at this time; what only such files use stays in the lock.
    KeyDiffers, LedgerBroken: a registry is not to be believed.
    """
    known = old.by_reference()
    wanted = references_to_lock(image_refs, known)
    meanings = await resolver.meanings(wanted)
    for meaning in meanings.values():
        if isinstance(meaning, KeyDiffers):  # nothing is to be had of it, and the lock must not come to name its key
            raise meaning
    pinned = {
        Reference(each.reference.registry, each.reference.repository, None, pin)
        for each in wanted.values()
        for pin in each.pins
        if each.reference not in known and _digest_of(meanings[each.reference]) != pin
    }
    meanings |= await resolver.meanings(pinned)
    read = await resolver.platforms(_unread(meanings, old))
    behind = read | {image.digest: image.platforms for image in old.images if image.digest and image.platforms}
    done = _Progress(unresolved=list(unreadable(image_refs)))
    now_us -= now_us % SECOND_US
    for each in wanted.values():
        _lock_one(each, known.get(each.reference), meanings, behind, done, now_us, update=update(each.reference))
    kept = [
        replace(image, used=uses)
        for reference, image in known.items()
        if reference not in wanted and (uses := tuple(use for use in image.used if outside(use.file)))
    ]
    done.images = [_with_uses(image, known.get(image.reference), outside) for image in done.images]
    new = {
        image.reference: image.digest
        for image in done.images
        if image.digest is not None and (_is_new(image, known) or (image.entry is None and update(image.reference)))
    }
    entries = await resolver.ledger_entries(new)
    images = [replace(one, entry=entries.get(one.reference, one.entry)) for one in [*done.images, *kept]]
    named = {one.reference.registry for one in images}
    fresh = {reference.registry for reference in (*new, *(one for one in wanted if update(one)))}
    keys = {registry: key for registry, key in resolver.ledger_keys().items() if registry in fresh}
    keys = {registry: key for registry, key in {**old.keys, **keys}.items() if registry in named}
    return LockUpdate(
        sorted_lock(images, keys),
        tuple(done.moved),
        tuple(sorted(done.unresolved)),
        tuple(done.notes),
    )


def _is_new(image: LockedImage, known: Mapping[Reference, LockedImage]) -> bool:
    """Whether it is locked to this for the first time: only then its ledger is asked, so that a second run changes nothing."""
    before = known.get(image.reference)
    return before is None or before.digest != image.digest


def _unread(meanings: Mapping[Reference, Resolved | BoltsealError], old: Lock) -> dict[Digest, Reference]:
    """The digests whose platforms no lock knows yet, each with a reference that leads to its repository."""
    known = {image.digest for image in old.images if image.platforms}
    return {
        meaning.digest: reference
        for reference, meaning in meanings.items()
        if isinstance(meaning, Resolved) and meaning.digest not in known
    }


def _lock_one(
    each: ReferenceToLock,
    before: LockedImage | None,
    meanings: Mapping[Reference, Resolved | BoltsealError],
    behind: Mapping[Digest, tuple[LockedPlatform, ...] | BoltsealError],
    done: _Progress,
    now_us: int,
    *,
    update: bool,
) -> None:
    meaning = meanings[each.reference]
    if isinstance(meaning, BoltsealError):
        local = _local_build(each, before, meaning, done, now_us, update=update)
        if local is None:
            done.unresolved.append(_unresolved(each, meaning))
        else:
            done.images.append(local)
        return
    if before is None:
        meaning = _pinned(each, meaning, meanings, behind, done)
    platforms = behind.get(meaning.digest, ())
    if isinstance(platforms, BoltsealError):
        done.unresolved.append(_unresolved(each, platforms))
        return
    now = _placed(LockedImage(each.reference, meaning.digest, now_us, meaning.media_type, platforms), each)
    if before is not None and before.digest == meaning.digest:
        now = replace(
            now,
            first_seen_us=before.first_seen_us,
            platforms=platforms or before.platforms,
            media_type=before.media_type or meaning.media_type,
            entry=before.entry,
        )
    elif before is not None:
        change = compare_platforms(before.platforms, platforms)
        done.moved.append(MovedReference(before, meaning.digest, change, update))
        if not update:
            now = _placed(before, each)
    done.images.append(now)


def _local_build(
    each: ReferenceToLock,
    before: LockedImage | None,
    error: BoltsealError,
    done: _Progress,
    now_us: int,
    *,
    update: bool,
) -> LockedImage | None:
    """A service that is built here and that the registry does not show. None: it can't be told.

    A registry answers "log in" also where there is nothing (Docker Hub always does). Of an image that is built here
    anyway that is taken for "not there", and said; never of one that the lock knows to be in the registry.
    """
    if not each.build or not isinstance(error, _NOT_SHOWN):
        return None
    if before is not None and before.local_build:
        return _placed(before, each)
    if before is not None:
        if not isinstance(error, RemoteNotFound):
            return None
        done.moved.append(MovedReference(before, None, PlatformChange(), update))
        if not update:
            return _placed(before, each)
    if not isinstance(error, RemoteNotFound):
        done.notes.append(f"{each.reference.familiar()} is taken for a local build: {error.message}")
    return _placed(LockedImage(each.reference, None, now_us), each)


def _pinned(
    each: ReferenceToLock,
    meaning: Resolved,
    meanings: Mapping[Reference, Resolved | BoltsealError],
    behind: Mapping[Digest, tuple[LockedPlatform, ...] | BoltsealError],
    done: _Progress,
) -> Resolved:
    """What a reference that is new to the lock is locked to: what its files pin, if they agree, else what its tag means."""
    others = each.pins - {meaning.digest}
    if not others:
        return meaning
    name = each.reference.familiar()
    if len(each.pins) > 1:
        done.notes.append(f"{name}: files pin it to {len(each.pins)} digests; locked to what the tag means now")
        return meaning
    (pin,) = others
    platforms = behind.get(meaning.digest, ())
    if not isinstance(platforms, BoltsealError) and pin in {platform.manifest for platform in platforms}:
        done.notes.append(
            f"{name}: pinned to {pin.short}, one platform of it; the index is locked: `boltseal pin` mends it"
        )
        return meaning
    held = meanings[Reference(each.reference.registry, each.reference.repository, None, pin)]
    if isinstance(held, BoltsealError):
        done.notes.append(
            f"{name}: pinned to {pin.short}, which can't be had: {held.message}; locked to what the tag means"
        )
        return meaning
    done.notes.append(f"{name}: locked as it is pinned, to {pin.short}; the tag means {meaning.digest.short} now")
    return held


def _placed(image: LockedImage, each: ReferenceToLock) -> LockedImage:
    return replace(image, written=tuple(each.written), used=tuple(each.used))


def _with_uses(image: LockedImage, before: LockedImage | None, outside: Callable[[str], bool]) -> LockedImage:
    """The image with the places that only files have which were not looked at."""
    if before is None:
        return image
    return replace(image, used=(*image.used, *(use for use in before.used if outside(use.file))))


def _unresolved(each: ReferenceToLock, error: BoltsealError) -> Unresolved:
    places = tuple(sorted(f"{use.file}: {use.at}" for use in each.used))
    return Unresolved(each.reference.familiar(), error.message, places)


def _digest_of(meaning: Resolved | BoltsealError) -> Digest | None:
    return meaning.digest if isinstance(meaning, Resolved) else None

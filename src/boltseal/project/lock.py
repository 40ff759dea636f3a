"""Update a project's lock: add new references, and keep known ones unless an update is requested.

The steps:

1. Group the references by their key in the existing lock, and resolve each key once (`references_to_lock`).
2. Resolve the digests that files pin where the tag resolves to another one.
3. Decide each entry (`project.lock_entries`). A reference that can't be resolved is reported; the others are locked.
4. Record the registry's ledger entry and trusted ledger key of a new digest, if there are any. An update requests both
   again if they were missing or the key was rotated.
5. Remove the entries that no file uses any more. An entry stays if its file was not read, or if the reference at its
   place could not be resolved: nothing shows that it is unused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from boltseal.client.errors import RemoteNotFound
from boltseal.client.ledger_trust import KeyDiffers
from boltseal.client.registry_client import Resolved
from boltseal.errors import BoltsealError
from boltseal.lockfile.document import SECOND_US, Lock, LockedImage, Rendered, Use, key_in, sorted_lock
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.image_references import ImageReference
from boltseal.project.lock_entries import LockEntries, MovedReference, ReferenceToLock, Resolutions, Unresolved
from boltseal.project.resolve import Resolver
from boltseal.project.written_pins import carried_pins, valid_pins


@dataclass(frozen=True, slots=True)
class LockUpdate:
    """The updated lock, and what changed."""

    lock: Lock
    moved: tuple[MovedReference, ...] = ()
    unresolved: tuple[Unresolved, ...] = ()
    notes: tuple[str, ...] = ()


def references_to_lock(
    image_refs: Iterable[ImageReference],
    known: Mapping[Reference, LockedImage],
    written: Collection[ImageReference] = (),
) -> dict[Reference, ReferenceToLock]:
    """Return the distinct references, by their key in the existing lock.

    `written`: those whose digest `boltseal pin` or `update` wrote. It is not the reference's own: without a tag, its key is `latest`.
    """
    found: defaultdict[Reference, list[ImageReference]] = defaultdict(list)
    for image_ref in image_refs:
        if image_ref.resolved is not None:
            found[key_in(image_ref.resolved, known, same=image_ref not in written)].append(image_ref)
    return {key: ReferenceToLock(key, tuple(occurrences)) for key, occurrences in found.items()}


def unresolvable(image_refs: Iterable[ImageReference]) -> tuple[Unresolved, ...]:
    """Return the references that can't be resolved, such as those with an unset variable."""
    return tuple(
        Unresolved(
            image_ref.written, image_ref.why or "it is not a valid reference", (f"{image_ref.path}:{image_ref.line}",)
        )
        for image_ref in image_refs
        if image_ref.resolved is None and not image_ref.image_id
    )


async def relock(
    image_refs: Sequence[ImageReference],
    old: Lock,
    resolver: Resolver,
    *,
    update: Callable[[Reference], bool],
    now_us: int,
    outside: Callable[[str], bool] = lambda _: False,
    rendered: Iterable[Rendered] = (),
    not_rendered: Iterable[Rendered] | None = None,
) -> LockUpdate:
    """Return the updated lock of these references. `update`: whether a known reference is resolved again.

    `outside`: whether a file was not read this time; references used only in such files stay in the lock. `rendered`:
    what was rendered; `not_rendered`: what stays in the lock without that, by default all that the old lock has.
    Raises: KeyDiffers, LedgerBroken: a registry is not trustworthy.
    """
    known = old.by_reference()
    # 1. an update takes what the tag resolves to, also for files with another pin
    updated = {image.reference.by_tag for image in old.images if image.own_pin and update(image.reference.by_tag)}
    stays = {key: image for key, image in known.items() if not image.own_pin or key.by_tag not in updated}
    wanted = references_to_lock(image_refs, stays, valid_pins(image_refs, old))
    resolutions = await resolver.resolve(wanted)
    for resolution in resolutions.values():
        if isinstance(resolution, KeyDiffers):  # its answers are not used, and its key must not get into the lock
            raise resolution
    # 2.
    new = [each for each in wanted.values() if each.reference not in known and each.reference not in updated]
    resolutions |= await resolver.resolve(
        {*_other_pins(new, resolutions), *_locked_pins(wanted.values(), stays, resolutions)}
    )
    read = await resolver.platforms(_unread(resolutions, old))
    platforms = read | {image.digest: image.platforms for image in old.images if image.digest and image.platforms}
    # 3.
    entries = LockEntries(resolutions, platforms, now_us - now_us % SECOND_US, unresolved=[*unresolvable(image_refs)])
    for each in wanted.values():
        before = stays.get(each.reference)
        if before is None and each.reference not in updated:
            entries.add_new(each)
        elif before is None:
            entries.add(each, resolutions[each.reference])
        else:
            entries.add_known(each, before, update=not before.own_pin and update(each.reference))
    # 4.
    fresh = _to_look_up(entries.images, known, update)
    ledger = await resolver.ledger_entries(fresh)
    registries = {reference.registry for reference in (*fresh, *filter(update, wanted))}
    keys = {registry: key for registry, key in resolver.ledger_keys().items() if registry in registries}
    # 5.
    not_rendered = old.rendered if not_rendered is None else tuple(not_rendered)
    images = _with_unread(entries.images, stays, known, image_refs, outside, not_rendered)
    lock = sorted_lock(
        (replace(each, entry=ledger[each.reference]) if each.reference in ledger else each for each in images),
        {**old.keys, **keys},
        rendered=(*rendered, *not_rendered),
    )
    return LockUpdate(
        lock=replace(lock, pins=carried_pins(old.pins, image_refs, lock, outside)),
        moved=tuple(entries.moved),
        unresolved=tuple(sorted(entries.unresolved)),
        notes=tuple(entries.notes),
    )


def _with_unread(
    images: Iterable[LockedImage],
    stays: Mapping[Reference, LockedImage],
    known: Mapping[Reference, LockedImage],
    image_refs: Sequence[ImageReference],
    outside: Callable[[str], bool],
    not_rendered: Sequence[Rendered],
) -> list[LockedImage]:
    """Return the images with the uses that the old lock has in what was not read, and the images that only those use."""
    unresolved = frozenset(Use(each.path, each.where) for each in image_refs if each.resolved is None)
    stay = _Unread(outside, not_rendered, unresolved)
    found = [_with_uses(image, known.get(image.reference), stay) for image in images]
    made = {image.reference for image in found}
    others = (_only_unread(image, stay) for reference, image in stays.items() if reference not in made)
    return found + [image for image in others if image.used]


def _to_look_up(
    images: Iterable[LockedImage], known: Mapping[Reference, LockedImage], update: Callable[[Reference], bool]
) -> dict[Reference, Digest]:
    """Return the tags with their digests whose ledger entries are not in the lock yet."""
    return {
        image.reference: image.digest
        for image in images
        if image.digest is not None
        and not image.own_pin
        and (_is_new(image, known) or (image.entry is None and update(image.reference)))
    }


def _other_pins(new: Iterable[ReferenceToLock], resolutions: Resolutions) -> set[Reference]:
    """Return the digests to which files pin new references, where the tag resolves to another one or is gone."""
    return {
        replace(each.reference, digest=pin)
        for each in new
        if isinstance(resolutions[each.reference], (Resolved, RemoteNotFound))
        for pin in each.pins
        if _digest_of(resolutions[each.reference]) != pin
    }


def _locked_pins(
    wanted: Iterable[ReferenceToLock], known: Mapping[Reference, LockedImage], resolutions: Resolutions
) -> set[Reference]:
    """Return the locked digests that files pin, where the tag no longer resolves to it: they may have been deleted."""
    return {
        replace(each.reference, digest=before.digest)
        for each in wanted
        if (before := known.get(each.reference)) is not None
        and before.digest in each.pins
        and isinstance(resolutions[each.reference], (Resolved, RemoteNotFound))
        and _digest_of(resolutions[each.reference]) != before.digest
    }


def _is_new(image: LockedImage, known: Mapping[Reference, LockedImage]) -> bool:
    """Return whether a digest is new. Only then the ledger is asked, so that a second run changes nothing."""
    before = known.get(image.reference)
    return before is None or before.digest != image.digest


def _unread(resolutions: Resolutions, old: Lock) -> dict[Digest, Reference]:
    """Return the digests whose platforms are not in the lock, each with a reference to its repository."""
    known = {image.digest for image in old.images if image.platforms}
    return {
        resolution.digest: reference
        for reference, resolution in resolutions.items()
        if isinstance(resolution, Resolved) and resolution.digest not in known
    }


@dataclass(frozen=True, slots=True)
class _Unread:
    """The uses of the old lock that may still be there. `places`: references there could not be resolved this time."""

    outside: Callable[[str], bool]
    not_rendered: Sequence[Rendered]
    places: frozenset[Use]

    def has(self, use: Use) -> bool:
        return use in self.places or self.outside(use.file) or any(each.has(use) for each in self.not_rendered)


def _with_uses(image: LockedImage, before: LockedImage | None, unread: _Unread) -> LockedImage:
    """Add the occurrences in files that were not read."""
    return image if before is None else replace(image, used=(*image.used, *_only_unread(before, unread).used))


def _only_unread(image: LockedImage, unread: _Unread) -> LockedImage:
    """Leave only the occurrences in files that were not read."""
    return replace(image, used=tuple(use for use in image.used if unread.has(use)))


def _digest_of(resolution: Resolved | BoltsealError) -> Digest | None:
    return resolution.digest if isinstance(resolution, Resolved) else None

"""Decide which digest each image reference of a project is pinned to, and why some get none. Pure.

With a lock, the lock decides; a reference that is not locked gets no digest. Without a lock, each tag gets the digest
that it resolves to now, and a digest that is already in a file stays. A service that is built here is pinned only if the lock has
the digest of its image, which `boltseal deploy` then starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

from boltseal.client.registry_client import Resolved
from boltseal.errors import BoltsealError
from boltseal.lockfile.document import LOCK_NAME, Lock, LockedImage, WrittenPin, key_in, lock_key
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.image_references import ImageReference

CACHED_TEXTS: Final = 1024


class PinStatus(StrEnum):
    """What happens to an image reference."""

    PINNED = "pinned"
    """The digest is or would be written."""
    UNPINNED = "unpinned"
    """The digest is or would be removed, or the former one restored."""
    FOREIGN = "foreign"
    """The digest stays when the others are removed: the lock does not record that `boltseal pin` wrote it."""
    UNCHANGED = "unchanged"
    """The reference already has the right digest."""
    LOCAL_BUILD = "local-build"
    """The image is built here, and the lock has no digest of it in a registry."""
    NOT_LOCKED = "not-locked"
    """The lock does not contain the reference."""
    NO_PLACE = "no-place"
    """A digest can't be written there safely; a generated file may pin it."""
    UNKNOWN = "unknown"
    """The tag could not be resolved."""


class Pin(NamedTuple):
    """What happens to one reference, and why. `digest`: the one to write; None to remove it or leave it as it is."""

    image_ref: ImageReference
    status: PinStatus
    reason: str
    digest: Digest | None = None


def references_to_resolve(image_refs: Iterable[ImageReference]) -> frozenset[Reference]:
    """Return the references that must be resolved if there is no lock."""
    return frozenset(
        lock_key(image_ref.resolved)
        for image_ref in image_refs
        if image_ref.resolved is not None
        and image_ref.pinned is None
        and image_ref.edit_range is not None
        and not image_ref.build
    )


def pins_by_lock(image_refs: Iterable[ImageReference], lock: Lock) -> list[Pin]:
    """Pin each reference to its digest in the lock."""
    known = lock.by_reference()
    return [_by_lock(image_ref, known) for image_ref in image_refs]


def pins_by_tag(
    image_refs: Iterable[ImageReference], resolutions: Mapping[Reference, Resolved | BoltsealError]
) -> list[Pin]:
    """Pin each reference to the digest that its tag resolves to now."""
    pins: list[Pin] = []
    for image_ref in image_refs:
        skipped = _skipped(image_ref) or _built(image_ref)
        if skipped is None and image_ref.pinned is not None:
            skipped = Pin(image_ref, PinStatus.UNCHANGED, f"is pinned to {image_ref.pinned}")
        resolution = (
            None if skipped is not None or image_ref.edit_range is None else resolutions[lock_key(_resolved(image_ref))]
        )
        if isinstance(resolution, BoltsealError):
            pins.append(Pin(image_ref, PinStatus.UNKNOWN, resolution.message))
        else:
            pins.append(skipped or _pin(image_ref, None if resolution is None else resolution.digest))
    return pins


def unpins(
    image_refs: Iterable[ImageReference], written: Mapping[ImageReference, WrittenPin], *, everything: bool = False
) -> list[Pin]:
    """Remove the digests that `boltseal pin` wrote, and restore those that it replaced.

    `written`: what the lock records. `everything`: also remove the digests that it does not record.
    """
    return [_unpin(image_ref, written.get(image_ref), everything=everything) for image_ref in image_refs]


def _unpin(image_ref: ImageReference, written: WrittenPin | None, *, everything: bool) -> Pin:
    if image_ref.pinned is None:
        return Pin(image_ref, PinStatus.UNCHANGED, "is not pinned")
    if written is None and not everything:
        return Pin(image_ref, PinStatus.FOREIGN, f"is pinned to {image_ref.pinned}, not by `boltseal pin`")
    if image_ref.edit_range is None:
        return Pin(image_ref, PinStatus.NO_PLACE, image_ref.override_only or "its digest can't be removed there")
    former = None if written is None or everything else written.replaced
    reason = f"was pinned to {image_ref.pinned}" + ("" if former is None else f", and to {former} before")
    return Pin(image_ref, PinStatus.UNPINNED, reason, former)


def _skipped(image_ref: ImageReference) -> Pin | None:
    if image_ref.image_id:
        return Pin(image_ref, PinStatus.LOCAL_BUILD, "is an image ID: no registry has it")
    if image_ref.resolved is None:
        return Pin(image_ref, PinStatus.UNKNOWN, image_ref.why or "is not a valid reference")
    return None


def _built(image_ref: ImageReference) -> Pin | None:
    return Pin(image_ref, PinStatus.LOCAL_BUILD, "is built here") if image_ref.build else None


def _by_lock(image_ref: ImageReference, known: Mapping[Reference, LockedImage]) -> Pin:
    skipped = _skipped(image_ref)
    if skipped is not None:
        return skipped
    image = known.get(key_in(_resolved(image_ref), known))
    built = _built(image_ref)
    if built is not None and (image is None or image.digest is None):
        return built
    if image is None:
        return Pin(image_ref, PinStatus.NOT_LOCKED, f"is not in {LOCK_NAME}: `boltseal lock` adds it")
    return _pin(image_ref, image.digest)


def _pin(image_ref: ImageReference, digest: Digest | None) -> Pin:
    if image_ref.edit_range is None:
        return Pin(image_ref, PinStatus.NO_PLACE, image_ref.override_only or "a digest can't be written there")
    if digest is None:
        return Pin(image_ref, PinStatus.LOCAL_BUILD, "is built here: no registry has it")
    if image_ref.pinned == digest:
        return Pin(image_ref, PinStatus.UNCHANGED, f"is {_pinned_to(digest)}")
    return Pin(image_ref, PinStatus.PINNED, _pinned_to(digest), digest)


@lru_cache(maxsize=CACHED_TEXTS)  # most images are pinned in several places: one value in memory for all
def _pinned_to(digest: Digest) -> str:
    return f"pinned to {digest}"


def _resolved(image_ref: ImageReference) -> Reference:
    if image_ref.resolved is None:
        raise AssertionError("an unresolved reference was skipped before")
    return image_ref.resolved

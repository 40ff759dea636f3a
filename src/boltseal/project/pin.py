"""Which digest each site of a project shall have, and what there is to tell of those that get none. Pure.

By the lock where there is one: what it does not know is not guessed. Without a lock by what each tag means now, and a
digest that stands in a file already is left as it is. A service that is built here keeps its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from boltseal.errors import BoltsealError
from boltseal.lockfile.document import LOCK_NAME, Lock, LockedImage, key_in, lock_key
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.image_references import ImageReference

if TYPE_CHECKING:  # with a lock nobody is asked, and a client need not be loaded
    from boltseal.client.registry_client import Resolved


class PinStatus(StrEnum):
    """What becomes of a site."""

    PINNED = "pinned"
    """Its digest is written, or would be."""
    UNPINNED = "unpinned"
    """Its digest is taken out, or would be."""
    UNCHANGED = "unchanged"
    """It names the digest that it should."""
    LOCAL_BUILD = "local-build"
    """It is built here, and its name is its own."""
    NOT_LOCKED = "not-locked"
    """The lock does not know it."""
    NO_PLACE = "no-place"
    """A digest can't be written there soundly; a generated file can hold it."""
    UNKNOWN = "unknown"
    """It could not be told what it means."""


class Pin(NamedTuple):
    """What becomes of one site, and why. `digest` is what it shall have, None where it shall have none or is left alone."""

    image_ref: ImageReference
    status: PinStatus
    reason: str
    digest: Digest | None = None


def references_to_resolve(image_refs: Iterable[ImageReference]) -> frozenset[Reference]:
    """The references whose meaning is needed where there is no lock."""
    return frozenset(
        lock_key(image_ref.resolved)
        for image_ref in image_refs
        if image_ref.resolved is not None
        and image_ref.pinned is None
        and image_ref.edit_range is not None
        and not image_ref.build
    )


def pins_by_lock(image_refs: Iterable[ImageReference], lock: Lock) -> list[Pin]:
    """What the lock says of each site."""
    known = lock.by_reference()
    return [_by_lock(image_ref, known) for image_ref in image_refs]


def pins_by_tag(
    image_refs: Iterable[ImageReference], meanings: Mapping[Reference, Resolved | BoltsealError]
) -> list[Pin]:
    """What each site's tag means now."""
    found: list[Pin] = []
    for image_ref in image_refs:
        left = _left_alone(image_ref)
        if left is None and image_ref.pinned is not None:
            left = Pin(image_ref, PinStatus.UNCHANGED, f"is pinned to {image_ref.pinned.short}")
        meaning = None if left is not None or image_ref.edit_range is None else meanings[lock_key(_named(image_ref))]
        if isinstance(meaning, BoltsealError):
            found.append(Pin(image_ref, PinStatus.UNKNOWN, meaning.message))
        else:
            found.append(left or _pin(image_ref, None if meaning is None else meaning.digest))
    return found


def unpins(image_refs: Iterable[ImageReference]) -> list[Pin]:
    """Every digest goes that stands beside a name."""
    found: list[Pin] = []
    for image_ref in image_refs:
        if image_ref.pinned is None:
            found.append(Pin(image_ref, PinStatus.UNCHANGED, "is not pinned"))
        elif image_ref.edit_range is None:
            found.append(
                Pin(image_ref, PinStatus.NO_PLACE, image_ref.override_only or "its digest has no place of its own")
            )
        else:
            found.append(Pin(image_ref, PinStatus.UNPINNED, f"was pinned to {image_ref.pinned.short}"))
    return found


def _left_alone(image_ref: ImageReference) -> Pin | None:
    if image_ref.build:
        return Pin(image_ref, PinStatus.LOCAL_BUILD, "is built here: its name is its own")
    if image_ref.resolved is None:
        return Pin(image_ref, PinStatus.UNKNOWN, image_ref.why or "is no reference")
    return None


def _by_lock(image_ref: ImageReference, known: Mapping[Reference, LockedImage]) -> Pin:
    left = _left_alone(image_ref)
    if left is not None:
        return left
    image = known.get(key_in(_named(image_ref), known))
    if image is None:
        return Pin(image_ref, PinStatus.NOT_LOCKED, f"is not in {LOCK_NAME}: `boltseal lock` adds it")
    return _pin(image_ref, image.digest)


def _pin(image_ref: ImageReference, digest: Digest | None) -> Pin:
    if image_ref.edit_range is None:
        return Pin(image_ref, PinStatus.NO_PLACE, image_ref.override_only or "there is no place for a digest")
    if digest is None:
        return Pin(image_ref, PinStatus.LOCAL_BUILD, "is built here: no registry holds it")
    if image_ref.pinned == digest:
        return Pin(image_ref, PinStatus.UNCHANGED, f"is pinned to {digest.short}")
    return Pin(image_ref, PinStatus.PINNED, f"pinned to {digest.short}", digest)


def _named(image_ref: ImageReference) -> Reference:
    if image_ref.resolved is None:
        raise AssertionError("what names nothing was left alone before")
    return image_ref.resolved

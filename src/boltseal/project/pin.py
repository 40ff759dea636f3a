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

    site: ImageReference
    status: PinStatus
    reason: str
    digest: Digest | None = None


def to_be_asked(sites: Iterable[ImageReference]) -> frozenset[Reference]:
    """The references whose meaning is needed where there is no lock."""
    return frozenset(
        lock_key(site.resolved)
        for site in sites
        if site.resolved is not None and site.pinned is None and site.spot is not None and not site.build
    )


def pins_by_lock(sites: Iterable[ImageReference], lock: Lock) -> list[Pin]:
    """What the lock says of each site."""
    known = lock.by_reference()
    return [_by_lock(site, known) for site in sites]


def pins_by_meaning(
    sites: Iterable[ImageReference], meanings: Mapping[Reference, Resolved | BoltsealError]
) -> list[Pin]:
    """What each site's tag means now."""
    found: list[Pin] = []
    for site in sites:
        left = _left_alone(site)
        if left is None and site.pinned is not None:
            left = Pin(site, PinStatus.UNCHANGED, f"is pinned to {site.pinned.short}")
        meaning = None if left is not None or site.spot is None else meanings[lock_key(_named(site))]
        if isinstance(meaning, BoltsealError):
            found.append(Pin(site, PinStatus.UNKNOWN, meaning.message))
        else:
            found.append(left or _pin(site, None if meaning is None else meaning.digest))
    return found


def unpins(sites: Iterable[ImageReference]) -> list[Pin]:
    """Every digest goes that stands beside a name."""
    found: list[Pin] = []
    for site in sites:
        if site.pinned is None:
            found.append(Pin(site, PinStatus.UNCHANGED, "is not pinned"))
        elif site.spot is None:
            found.append(Pin(site, PinStatus.NO_PLACE, site.override_only or "its digest has no place of its own"))
        else:
            found.append(Pin(site, PinStatus.UNPINNED, f"was pinned to {site.pinned.short}"))
    return found


def _left_alone(site: ImageReference) -> Pin | None:
    if site.build:
        return Pin(site, PinStatus.LOCAL_BUILD, "is built here: its name is its own")
    if site.resolved is None:
        return Pin(site, PinStatus.UNKNOWN, site.why or "is no reference")
    return None


def _by_lock(site: ImageReference, known: Mapping[Reference, LockedImage]) -> Pin:
    left = _left_alone(site)
    if left is not None:
        return left
    image = known.get(key_in(_named(site), known))
    if image is None:
        return Pin(site, PinStatus.NOT_LOCKED, f"is not in {LOCK_NAME}: `boltseal lock` adds it")
    return _pin(site, image.digest)


def _pin(site: ImageReference, digest: Digest | None) -> Pin:
    if site.spot is None:
        return Pin(site, PinStatus.NO_PLACE, site.override_only or "there is no place for a digest")
    if digest is None:
        return Pin(site, PinStatus.LOCAL_BUILD, "is built here: no registry holds it")
    if site.pinned == digest:
        return Pin(site, PinStatus.UNCHANGED, f"is pinned to {digest.short}")
    return Pin(site, PinStatus.PINNED, f"pinned to {digest.short}", digest)


def _named(site: ImageReference) -> Reference:
    if site.resolved is None:
        raise AssertionError("what names nothing was left alone before")
    return site.resolved

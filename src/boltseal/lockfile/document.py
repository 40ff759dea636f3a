"""The lock's values: what the image references of a project mean (file `boltseal.lock`). Pure; `parse` reads it, `format` writes it.

One `LockedImage` for each reference as Docker completes it, so that `nginx:1.25` and `docker.io/library/nginx:1.25`
are one. It is named by its tag, or by its digest where it has no tag; never by both: the digest beside a tag is what a
file says, and the lock's own digest is what the lock says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from boltseal.errors import Invalid
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

LOCK_NAME: Final = "boltseal.lock"
VERSION: Final = 1

SECOND_US: Final = 1_000_000


class LockInvalid(Invalid):
    """A lock that can't be read, or says what can't be."""


class LockedPlatform(NamedTuple):
    """What an image is on one platform: `manifest` as a runtime pulls it, `image` the image ID (the digest of its config).

    `platform` as Docker writes it (`linux/arm64/v8`), "" where the registry does not say. `image` is None where it was
    not read.
    """

    platform: str
    manifest: Digest
    image: Digest | None = None


class Use(NamedTuple):
    """A place in the project that names an image: `file` relative to the project, `at` in words (`services.web.image`)."""

    file: str
    at: str


@dataclass(frozen=True, slots=True)
class LockedImage:
    """What a reference means. `digest` is None for a local build: an image that no registry holds.

    `media_type`: of what the digest names, "" where the registry did not say. `first_seen_us`: when it was first found
    to mean this, in whole seconds. `written`: as the files write it. `entry`: the index of the registry's ledger entry.
    """

    reference: Reference
    digest: Digest | None
    first_seen_us: int
    media_type: str = ""
    platforms: tuple[LockedPlatform, ...] = ()
    written: tuple[str, ...] = ()
    used: tuple[Use, ...] = ()
    entry: int | None = None

    def __post_init__(self) -> None:
        if (self.reference.tag is None) == (self.reference.digest is None):
            raise LockInvalid(f"{self.reference} is no name for the lock; expected a tag, or a digest without a tag")
        if self.reference.digest is not None and self.digest != self.reference.digest:
            raise LockInvalid(f"{self.reference} names one digest and is locked to another")
        if self.first_seen_us % SECOND_US:
            raise LockInvalid(f"{self.reference}: the lock's times are whole seconds")

    @property
    def local_build(self) -> bool:
        """Whether no registry holds it: it is built where it runs."""
        return self.digest is None

    @property
    def digests(self) -> frozenset[Digest]:
        """Every digest that this image goes by, on a registry or on a host: index, manifests, image IDs."""
        found = {each for platform in self.platforms for each in platform[1:] if each is not None}
        return frozenset(found if self.digest is None else found | {self.digest})

    @property
    def image_ids(self) -> tuple[Digest, ...]:
        """The image ID of every platform; () where one is not known, so that none can be held against what a host has."""
        known = tuple(each.image for each in self.platforms if each.image is not None)
        return known if len(known) == len(self.platforms) else ()


@dataclass(frozen=True, slots=True)
class Lock:
    """A whole lock. `keys`: the ledger key (`vkey`) of each registry that has one, by the registry's name."""

    images: tuple[LockedImage, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)

    def find(self, reference: Reference) -> LockedImage | None:
        """What the lock says of a reference, its digest beside a tag not looked at."""
        key = lock_key(reference)
        return next((image for image in self.images if image.reference == key), None)

    def by_reference(self) -> Mapping[Reference, LockedImage]:
        """All images by the name that `lock_key` gives."""
        return {image.reference: image for image in self.images}


def lock_key(reference: Reference) -> Reference:
    """The name under which a reference stands in a lock: by tag if it has one, `latest` if it has nothing."""
    return reference if reference.tag is None and reference.digest is not None else reference.by_tag


def key_in(reference: Reference, known: Mapping[Reference, LockedImage], *, same: bool = False) -> Reference:
    """The name under which a reference stands in this lock.

    A digest that stands alone is what is left in a file when a name without a tag was pinned: it goes by `latest`, if the
    lock has that and does not have the digest by itself. `same`: only if that is what `latest` is locked to.
    """
    key = lock_key(reference)
    if key.digest is None or key in known:
        return key
    latest = key.by_tag
    there = latest in known and (not same or known[latest].digest == key.digest)
    return latest if there else key


def sorted_lock(images: Iterable[LockedImage], keys: Mapping[str, str]) -> Lock:
    """A lock in the one order that it has: everything sorted, nothing twice; only keys of registries that are used."""
    ordered = sorted((_sorted(image) for image in images), key=lambda image: str(image.reference))
    registries = {image.reference.registry for image in ordered}
    return Lock(tuple(ordered), {name: keys[name] for name in sorted(keys) if name in registries})


def _sorted(image: LockedImage) -> LockedImage:
    return replace(
        image,
        platforms=tuple(sorted(set(image.platforms), key=lambda each: (each.platform, str(each.manifest)))),
        written=tuple(sorted(set(image.written))),
        used=tuple(sorted(set(image.used))),
    )

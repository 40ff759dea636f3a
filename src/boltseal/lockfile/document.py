"""The content of a lock: the digest of each image reference (file `boltseal.lock`). Pure; see `parse` and `format`.

There is one `LockedImage` for each completed reference, so `nginx:1.25` and `docker.io/library/nginx:1.25` are the same
entry. Its key is the tag, or the digest if the reference has no tag: a digest beside a tag is a pin in a file, while the
entry's own digest is the locked one. Only if files pin one tag to different digests, those that the tag's own entry does
not have are entries with tag and digest.

A lock has the lowest version that can express it, so that a project which needs nothing newer keeps its bytes:

    1   images and keys
    2   entries with tag and digest; `pins`: the digests that `boltseal pin` wrote
    3   `rendered`: what was rendered by its own tool, whose images are locked as well
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from boltseal.errors import Invalid
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

LOCK_NAME: Final = "boltseal.lock"
VERSION: Final = 3
"""The newest version of the format that is read and written."""

SECOND_US: Final = 1_000_000
RENDERERS: Final = {"compose": "docker compose config", "helm": "helm template", "kustomize": "kubectl kustomize"}
"""The tools whose output can be locked, by their name in a lock."""


class LockInvalid(Invalid):
    """A lock that can't be read or has an invalid value."""


class LockedPlatform(NamedTuple):
    """An image's digests on one platform: `manifest`, which a runtime pulls, and `image`, the image ID (config digest).

    `platform` as Docker writes it (`linux/arm64/v8`), "" if the registry does not say. `image` None: not read.
    """

    platform: str
    manifest: Digest
    image: Digest | None = None


class Use(NamedTuple):
    """An occurrence in the project: `file` relative to the project, `at` as a key path (`services.web.image`)."""

    file: str
    at: str


class Rendered(NamedTuple):
    """A part of the project that a tool rendered: `tool` is one of RENDERERS, `path` its folder or file in the project."""

    tool: str
    path: str

    @property
    def title(self) -> str:
        """The command without its options, as in messages and at the start of `Use.at`."""
        return f"{RENDERERS[self.tool]} {self.path}"

    def has(self, use: Use) -> bool:
        """Return whether an occurrence is in its output, and not in a file."""
        return use.at.startswith(f"{self.title}: ")


class WrittenPin(NamedTuple):
    """A digest that `boltseal pin` wrote into a file: the `number`th reference at the position `at`, counted from 1.

    `replaced`: the digest that was there before, which unpinning writes back; None for none.
    """

    file: str
    at: str
    number: int
    digest: Digest
    replaced: Digest | None = None

    @property
    def place(self) -> tuple[str, str, int]:
        """Where it was written. A lock has at most one pin for each place."""
        return self[:3]


@dataclass(frozen=True, slots=True)
class LockedImage:
    """A locked reference. `digest` None: a local build, which is in no registry.

    `media_type`: of the digest's manifest, "" if unknown. `first_seen_us`: when the reference first resolved to this
    digest, in whole seconds. `written`: its spellings in files. `entry`: the index of the registry's ledger entry.
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
        if self.reference.tag is None and self.reference.digest is None:
            raise LockInvalid(f"{self.reference} can't be locked; expected a tag or a digest")
        if self.reference.digest is not None and self.digest != self.reference.digest:
            raise LockInvalid(f"{self.reference} names one digest and is locked to another")
        if self.first_seen_us % SECOND_US:
            raise LockInvalid(f"{self.reference}: times in a lock are whole seconds")

    @property
    def own_pin(self) -> bool:
        """Whether it is an entry of tag and digest: a pin in files that differs from the tag's own entry."""
        return self.reference.tag is not None and self.reference.digest is not None

    @property
    def local_build(self) -> bool:
        """Whether the image is built where it runs, and is in no registry."""
        return self.digest is None

    @property
    def digests(self) -> frozenset[Digest]:
        """Every digest of this image, in a registry or on a host: index, manifests, image IDs."""
        found = {each for platform in self.platforms for each in platform[1:] if each is not None}
        return frozenset(found if self.digest is None else found | {self.digest})

    @property
    def image_ids(self) -> tuple[Digest, ...]:
        """The image ID of every platform; () if one is unknown, because then a comparison would be incomplete."""
        known = tuple(each.image for each in self.platforms if each.image is not None)
        return known if len(known) == len(self.platforms) else ()


@dataclass(frozen=True, slots=True)
class Lock:
    """A whole lock. `keys`: the trusted ledger key (`vkey`) of each registry that has one, by registry.

    `rendered`: what is rendered to find images, besides those in the files.
    """

    images: tuple[LockedImage, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    pins: tuple[WrittenPin, ...] = ()
    rendered: tuple[Rendered, ...] = ()

    @property
    def version(self) -> int:
        """The lowest version of the format that can express this lock."""
        if self.rendered:
            return 3
        return 2 if self.pins or any(image.own_pin for image in self.images) else 1

    def find(self, reference: Reference) -> LockedImage | None:
        """Return the entry of a reference, or None: that of its tag and digest if there is one, else that of its tag."""
        found = (image for image in self.images if image.reference in (reference, lock_key(reference)))
        return max(found, key=lambda image: image.own_pin, default=None)

    def by_reference(self) -> Mapping[Reference, LockedImage]:
        """Return all entries by key (see `lock_key`)."""
        return {image.reference: image for image in self.images}


def lock_key(reference: Reference) -> Reference:
    """Return the key of a reference: the digest if it has no tag, else the tag, `latest` by default."""
    return reference if reference.tag is None and reference.digest is not None else reference.by_tag


def key_in(reference: Reference, known: Mapping[Reference, LockedImage], *, same: bool = False) -> Reference:
    """Return the key of a reference in this lock: tag and digest if the lock has this entry, else as `lock_key`.

    Pinning a name without a tag leaves only the digest in the file. Such a digest has the key `latest`, if the lock
    contains that and not the digest itself. `same`: only if `latest` is locked to this digest.
    """
    if reference in known:
        return reference
    key = lock_key(reference)
    if key.digest is None:
        return key
    latest = key.by_tag
    use_latest = latest in known and (not same or known[latest].digest == key.digest)
    return latest if use_latest else key


def sorted_lock(
    images: Iterable[LockedImage],
    keys: Mapping[str, str],
    pins: Iterable[WrittenPin] = (),
    rendered: Iterable[Rendered] = (),
) -> Lock:
    """Return a lock in canonical order: sorted, without duplicates, with only the keys of registries in use."""
    ordered = sorted((_sorted(image) for image in images), key=lambda image: str(image.reference))
    registries = {image.reference.registry for image in ordered}
    by_place = {pin.place: pin for pin in pins}
    return Lock(
        tuple(ordered),
        {name: keys[name] for name in sorted(keys) if name in registries},
        tuple(pin for _, pin in sorted(by_place.items())),
        tuple(sorted(set(rendered))),
    )


def _sorted(image: LockedImage) -> LockedImage:
    return replace(
        image,
        platforms=tuple(sorted(set(image.platforms), key=lambda each: (each.platform, str(each.manifest)))),
        written=tuple(sorted(set(image.written))),
        used=tuple(sorted(set(image.used))),
    )

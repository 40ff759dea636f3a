"""Decide the entries of a lock from what registries answered. Pure.

Rules, for each reference (by tag, or by digest if it has no tag):

1. One that can't be resolved, or whose platforms can't be read, is reported. If the lock has it, its entry stays.
2. New: lock it to what it resolves to. If files pin it, the pins are what the project deploys, so they are never
   replaced: if they agree, the reference is locked to the pin; if they differ, each pin that the tag does not resolve to
   gets an entry of its own. A pin that can't be resolved is reported, and what only it decides is not locked. A pin to
   one platform of the tag's index is noted, and the index is locked.
3. Known and unchanged: keep the entry; only positions and spellings are updated.
4. Known and changed: report the age and the changed platforms; only an update accepts the new digest. If a file pins
   the locked digest and the registry no longer has it, that is reported.
5. A service that is built here is locked if the registry has its tag, and is a local build otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from boltseal.client.errors import RemoteDenied, RemoteNotFound, RemoteUnauthenticated
from boltseal.client.registry_client import Resolved
from boltseal.errors import BoltsealError
from boltseal.lockfile.compare import PlatformChange, compare_platforms
from boltseal.lockfile.document import LockedImage, LockedPlatform, Use
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.image_references import ImageReference

Resolutions = Mapping[Reference, Resolved | BoltsealError]
Platforms = Mapping[Digest, tuple[LockedPlatform, ...] | BoltsealError]

_NOT_SHOWN = (RemoteNotFound, RemoteUnauthenticated, RemoteDenied)


@dataclass(frozen=True, slots=True)
class ReferenceToLock:
    """One reference of the project, with all its occurrences in files."""

    reference: Reference
    occurrences: tuple[ImageReference, ...]

    @property
    def written(self) -> tuple[str, ...]:
        """The distinct spellings in files."""
        return tuple(dict.fromkeys(each.written for each in self.occurrences))

    @property
    def used(self) -> tuple[Use, ...]:
        """The positions in files."""
        return tuple(dict.fromkeys(Use(each.path, each.where) for each in self.occurrences))

    @property
    def pins(self) -> frozenset[Digest]:
        """The digests to which files pin it; none if the digest is the reference itself."""
        if self.reference.digest is not None:
            return frozenset()
        return frozenset(each.pinned for each in self.occurrences if each.pinned is not None)

    @property
    def build(self) -> bool:
        """Whether a service builds it here."""
        return any(each.build for each in self.occurrences)


class MovedReference(NamedTuple):
    """A reference that no longer resolves to its locked digest. `to`: the new digest; None: the tag is gone."""

    before: LockedImage
    to: Digest | None
    platforms: PlatformChange
    updated: bool


class Unresolved(NamedTuple):
    """A reference that could not be resolved. `places`: its positions in files."""

    name: str
    reason: str
    places: tuple[str, ...]


@dataclass(slots=True)
class LockEntries:
    """Collects the entries of a lock, and what to report about them. `now_us`: in whole seconds."""

    resolutions: Resolutions
    platforms: Platforms
    now_us: int
    images: list[LockedImage] = field(default_factory=list)
    moved: list[MovedReference] = field(default_factory=list)
    unresolved: list[Unresolved] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_new(self, wanted: ReferenceToLock) -> None:
        """Add a reference that the lock does not have, by rule 2."""
        tag = self.resolutions[wanted.reference]
        differ = self._pins_that_differ(wanted, tag)
        if not differ or not isinstance(tag, (Resolved, RemoteNotFound)):
            self.add(wanted, tag)
        elif len(wanted.pins) == 1:
            (pin,) = differ
            self._add_pinned(wanted, pin, wanted.reference)
        else:
            name = wanted.reference.familiar()
            self.notes.append(f"{name}: files pin it to {len(wanted.pins)} digests, and each is locked")
            by_pin: defaultdict[Digest | None, list[ImageReference]] = defaultdict(list)
            for each in wanted.occurrences:
                by_pin[each.pinned if each.pinned in differ else None].append(each)
            for own, occurrences in by_pin.items():
                part = ReferenceToLock(wanted.reference, tuple(occurrences))
                if own is None:
                    self.add(part, tag)
                else:
                    self._add_pinned(part, own, replace(wanted.reference, digest=own))

    def add(self, wanted: ReferenceToLock, resolution: Resolved | BoltsealError) -> None:
        """Add a reference that the lock does not have, with this digest."""
        if isinstance(resolution, BoltsealError):
            local = self._local_build(wanted, None, resolution, update=False)
            if local is None:
                self._report(wanted, resolution.message)
            else:
                self.images.append(local)
            return
        platforms = self.platforms.get(resolution.digest, ())
        if isinstance(platforms, BoltsealError):
            self._report(wanted, platforms.message)
        else:
            self.images.append(self._entry(wanted, resolution, platforms))

    def add_known(self, wanted: ReferenceToLock, before: LockedImage, *, update: bool) -> None:
        """Add a reference that the lock has, by rules 3 and 4. `update`: accept another digest."""
        resolution = self.resolutions[wanted.reference]
        if isinstance(resolution, BoltsealError):
            self._add_unresolved(wanted, before, resolution, update=update)
            return
        platforms = self.platforms.get(resolution.digest, ())
        if isinstance(platforms, BoltsealError):
            self._report(wanted, platforms.message)
            self.images.append(_with_occurrences(before, wanted))
            return
        entry = self._entry(wanted, resolution, platforms)
        if before.digest == resolution.digest:
            entry = replace(
                entry,
                first_seen_us=before.first_seen_us,
                platforms=platforms or before.platforms,
                media_type=before.media_type or resolution.media_type,
                entry=before.entry,
            )
        else:
            change = compare_platforms(before.platforms, platforms)
            self.moved.append(MovedReference(before, resolution.digest, change, update))
            if not update:
                self._check_pin(wanted, before)
                entry = _with_occurrences(before, wanted)
        self.images.append(entry)

    def _add_unresolved(
        self, wanted: ReferenceToLock, before: LockedImage, error: BoltsealError, *, update: bool
    ) -> None:
        """Keep the entry of a reference that can't be resolved now; a local build may change by an update."""
        local = self._local_build(wanted, before, error, update=update)
        if local is not None:
            self.images.append(local)
            return
        self.images.append(_with_occurrences(before, wanted))
        pinned = wanted.pins and wanted.pins <= {before.digest}
        if pinned and isinstance(error, RemoteNotFound) and not update:  # the pin is what the project deploys
            if self._check_pin(wanted, before):
                self.moved.append(MovedReference(before, None, PlatformChange(), updated=False))
            return
        self._report(wanted, f"{error.message}; its entry stays as it is")

    def _check_pin(self, wanted: ReferenceToLock, before: LockedImage) -> bool:
        """Return whether the registry has the locked digest, if a file pins it; report it if not."""
        pinned = self.resolutions.get(replace(wanted.reference, digest=before.digest))
        if isinstance(pinned, BoltsealError):
            self._report(wanted, f"it is pinned to {before.digest}: {pinned.message}; its entry stays as it is")
            return False
        return True

    def _pins_that_differ(self, wanted: ReferenceToLock, tag: Resolved | BoltsealError) -> frozenset[Digest]:
        """Return the pins of files that are neither the tag's digest nor, with a note, one platform of its index."""
        if isinstance(tag, BoltsealError):
            return wanted.pins
        platforms = self.platforms.get(tag.digest, ())
        children = set() if isinstance(platforms, BoltsealError) else {each.manifest for each in platforms}
        for pin in sorted(wanted.pins & children - {tag.digest}, key=str):
            self.notes.append(
                f"{wanted.reference.familiar()}: pinned to {pin}, one platform of it; the index is locked, and "
                "`boltseal pin` writes its digest"
            )
        return wanted.pins - children - {tag.digest}

    def _add_pinned(self, wanted: ReferenceToLock, pin: Digest, key: Reference) -> None:
        """Lock these occurrences to the digest that files pin."""
        pinned, tag = self.resolutions[replace(wanted.reference, digest=pin)], self.resolutions[wanted.reference]
        if isinstance(pinned, BoltsealError):
            self._report(wanted, f"it is pinned to {pin}: {pinned.message}")
            return
        name = wanted.reference.familiar()
        now = (
            f"resolves to {tag.digest}, which `boltseal lock --update {name}` and `boltseal pin --write` take"
            if isinstance(tag, Resolved)
            else "does not exist"
        )
        self.notes.append(f"{name}: locked to its pin {pin}; the tag {now}")
        self.add(replace(wanted, reference=key), pinned)

    def _local_build(
        self, wanted: ReferenceToLock, before: LockedImage | None, error: BoltsealError, *, update: bool
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
            self.moved.append(MovedReference(before, None, PlatformChange(), update))
            if not update:
                return _with_occurrences(before, wanted)
        if not isinstance(error, RemoteNotFound):
            self.notes.append(f"{wanted.reference.familiar()} is treated as a local build: {error.message}")
        return _with_occurrences(LockedImage(wanted.reference, None, self.now_us), wanted)

    def _entry(
        self, wanted: ReferenceToLock, resolution: Resolved, platforms: tuple[LockedPlatform, ...]
    ) -> LockedImage:
        return LockedImage(
            wanted.reference,
            resolution.digest,
            self.now_us,
            resolution.media_type,
            platforms,
            wanted.written,
            wanted.used,
        )

    def _report(self, wanted: ReferenceToLock, reason: str) -> None:
        places = tuple(sorted(f"{use.file}: {use.at}" for use in wanted.used))
        self.unresolved.append(Unresolved(wanted.reference.familiar(), reason, places))


def _with_occurrences(image: LockedImage, wanted: ReferenceToLock) -> LockedImage:
    return replace(image, written=wanted.written, used=wanted.used)

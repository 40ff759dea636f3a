"""Compare two locks, or locked platforms with those that a tag has now. Pure; time is passed in.

An index gets a new digest whenever one of its images changes, so changes are reported by platform: a platform that is
not among the changed ones still runs the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from boltseal.lockfile.document import SECOND_US, Lock, LockedImage, LockedPlatform
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

_UNITS: Final = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


class ChangeKind(StrEnum):
    """How an image of a lock differs."""

    ADDED = "added"
    REMOVED = "removed"
    MOVED = "moved"
    DETAILS = "details"  # the same digest; platforms, positions or spellings differ


class Weight(StrEnum):
    """The severity of a verdict. `note` counts as success unless the check is strict."""

    HOLDS = "holds"
    NOTE = "note"
    DIFFERS = "differs"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PlatformChange:
    """Platforms by their change; all empty if one of the two sides is not known."""

    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    same: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [
            f"{word}: {', '.join(name or 'unnamed' for name in names)}"
            for word in ("changed", "added", "removed", "same")
            if (names := getattr(self, word))
        ]
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class LockChange:
    """One image that differs. `before` None: it was added. `after` None: it was removed."""

    kind: ChangeKind
    reference: Reference
    before: LockedImage | None
    after: LockedImage | None

    @property
    def platforms(self) -> PlatformChange:
        """The change of each platform."""
        return compare_platforms(
            () if self.before is None else self.before.platforms, () if self.after is None else self.after.platforms
        )


def compare_locks(before: Lock, after: Lock) -> tuple[LockChange, ...]:
    """Return every image that differs, sorted by reference."""
    old, new = before.by_reference(), after.by_reference()
    changes = [
        LockChange(kind, reference, old.get(reference), new.get(reference))
        for reference in sorted(old.keys() | new.keys(), key=str)
        if (kind := _kind(old.get(reference), new.get(reference))) is not None
    ]
    return tuple(changes)


def _kind(before: LockedImage | None, after: LockedImage | None) -> ChangeKind | None:
    if before is None:
        return ChangeKind.ADDED
    if after is None:
        return ChangeKind.REMOVED
    if before.digest != after.digest:
        return ChangeKind.MOVED
    return None if before == after else ChangeKind.DETAILS


def compare_platforms(before: Sequence[LockedPlatform], after: Sequence[LockedPlatform]) -> PlatformChange:
    """Return the platforms that were added, removed, or have other manifests."""
    if not before or not after:
        return PlatformChange()
    old, new = _by_platform(before), _by_platform(after)
    return PlatformChange(
        changed=tuple(name for name in sorted(old.keys() & new.keys()) if old[name] != new[name]),
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        same=tuple(name for name in sorted(old.keys() & new.keys()) if old[name] == new[name]),
    )


def _by_platform(platforms: Iterable[LockedPlatform]) -> dict[str, frozenset[Digest]]:
    """Return manifests by platform; an index may have several for one platform (Windows, by version)."""
    manifests: dict[str, frozenset[Digest]] = {}
    for each in platforms:
        manifests[each.platform] = manifests.get(each.platform, frozenset()) | {each.manifest}
    return manifests


def age(since_us: int, now_us: int) -> str:
    """Return how long ago a time was, such as `12 days`; `0 seconds` for a time in the future."""
    seconds = max(0, now_us - since_us) // SECOND_US
    unit, size = next((each for each in _UNITS if seconds >= each[1]), _UNITS[-1])
    number = seconds // size
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"

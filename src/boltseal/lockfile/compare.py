"""What differs between two locks, or between what is locked and what a tag means now. Pure; time is passed in.

An index gets a new digest whenever one image is added to it, so what changed is told by platform: who runs on none of
the changed ones runs the same bytes as before.
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
    """In which way an image of a lock differs."""

    ADDED = "added"
    REMOVED = "removed"
    MOVED = "moved"
    DETAILS = "details"  # the same digest; platforms, places or spellings differ


class Weight(StrEnum):
    """How much a verdict weighs: `note` holds unless somebody is strict."""

    HOLDS = "holds"
    NOTE = "note"
    DIFFERS = "differs"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PlatformChange:
    """Platforms by what became of them; all empty where one of the two sides was not read."""

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
    """One image that differs. `before` is None for one that was added, `after` for one that was removed."""

    kind: ChangeKind
    reference: Reference
    before: LockedImage | None
    after: LockedImage | None

    @property
    def platforms(self) -> PlatformChange:
        """What became of each platform."""
        return compare_platforms(
            () if self.before is None else self.before.platforms, () if self.after is None else self.after.platforms
        )


def compare_locks(before: Lock, after: Lock) -> tuple[LockChange, ...]:
    """Every image that differs, sorted by reference."""
    old, new = before.by_reference(), after.by_reference()
    found = [
        LockChange(kind, reference, old.get(reference), new.get(reference))
        for reference in sorted(old.keys() | new.keys(), key=str)
        if (kind := _kind(old.get(reference), new.get(reference))) is not None
    ]
    return tuple(found)


def _kind(before: LockedImage | None, after: LockedImage | None) -> ChangeKind | None:
    if before is None:
        return ChangeKind.ADDED
    if after is None:
        return ChangeKind.REMOVED
    if before.digest != after.digest:
        return ChangeKind.MOVED
    return None if before == after else ChangeKind.DETAILS


def compare_platforms(before: Sequence[LockedPlatform], after: Sequence[LockedPlatform]) -> PlatformChange:
    """Which platforms mean other manifests than before."""
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
    """Manifests by platform; an index may have several for one (Windows, by version)."""
    found: dict[str, frozenset[Digest]] = {}
    for each in platforms:
        found[each.platform] = found.get(each.platform, frozenset()) | {each.manifest}
    return found


def age(since_us: int, now_us: int) -> str:
    """How long ago something was, as a person says it: `12 days`; a time that is still to come is `0 seconds`."""
    seconds = max(0, now_us - since_us) // SECOND_US
    unit, size = next((each for each in _UNITS if seconds >= each[1]), _UNITS[-1])
    number = seconds // size
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"

"""Packages of an image, and the comparison of two lists. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from boltseal.errors import Invalid

MAX_PACKAGES: Final = 200_000
MAX_TEXT: Final = 300


class PackagesUnreadable(Invalid):
    """A package database or an SBOM that can't be read, with the reason."""


class Package(NamedTuple):
    """An installed package. `kind`: deb, apk, rpm, or the type of a package URL, such as npm; "" if unknown."""

    kind: str
    name: str
    version: str


class PackageChange(NamedTuple):
    """A package whose versions differ. `was`, `now`: its versions, "" for none; several are joined by ", "."""

    kind: str
    name: str
    was: str
    now: str


@dataclass(frozen=True, slots=True)
class PackageDiff:
    """The differences of two lists, each sorted by name."""

    added: tuple[PackageChange, ...]
    removed: tuple[PackageChange, ...]
    changed: tuple[PackageChange, ...]

    @property
    def empty(self) -> bool:
        """Return whether the lists are equal."""
        return not (self.added or self.removed or self.changed)


def compare_packages(old: Iterable[Package], new: Iterable[Package]) -> PackageDiff:
    """Return which packages were added, removed, or have other versions."""
    before, after = versions_of(old), versions_of(new)
    changes = [
        PackageChange(kind, name, before.get((kind, name), ""), after.get((kind, name), ""))
        for kind, name in sorted({*before, *after}, key=lambda key: (key[1], key[0]))
        if before.get((kind, name)) != after.get((kind, name))
    ]
    return PackageDiff(
        tuple(each for each in changes if not each.was),
        tuple(each for each in changes if not each.now),
        tuple(each for each in changes if each.was and each.now),
    )


def checked(packages: Iterable[Package]) -> tuple[Package, ...]:
    """Return distinct packages with a name, sorted, with cut texts. Raises: PackagesUnreadable: there are too many."""
    found: set[Package] = set()
    for each in packages:
        if each.name:
            found.add(Package(each.kind[:MAX_TEXT], each.name[:MAX_TEXT], each.version[:MAX_TEXT] or "unknown"))
        if len(found) > MAX_PACKAGES:
            raise PackagesUnreadable(f"more than {MAX_PACKAGES} packages are listed")
    return tuple(sorted(found, key=lambda each: (each.name, each.kind, each.version)))


def versions_of(packages: Iterable[Package]) -> Mapping[tuple[str, str], str]:
    """Return the versions of packages by kind and name; several of one package are joined by ", "."""
    found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for each in packages:
        found[each.kind, each.name].add(each.version)
    return {key: ", ".join(sorted(versions)) for key, versions in found.items()}

"""What differs in the contents of two images: packages and files. Shared by `compare --packages` and explained updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from boltseal.commands.image_contents import ImageContents, PackageList
from boltseal.transfer.file_changes import FileChanges, compare_files
from boltseal.transfer.packages.package_list import PackageChange, PackageDiff, compare_packages


@dataclass(frozen=True, slots=True)
class ContentsDiff:
    """The differences. `packages`, `files`: None if they could not be compared, and the `_reason` says why.

    `origin`: where both lists of packages are from.
    """

    packages: PackageDiff | None
    origin: str
    packages_reason: str
    files: FileChanges | None
    files_reason: str

    def as_json(self) -> dict[str, Any]:
        """Return the differences for programs; lists are whole."""
        packages, files = self.packages, self.files
        return {
            "packages": None
            if packages is None
            else {
                "added": [_row(each) for each in packages.added],
                "removed": [_row(each) for each in packages.removed],
                "changed": [_row(each) for each in packages.changed],
            },
            "packages_from": self.origin or None,
            "packages_reason": self.packages_reason or None,
            "files": None
            if files is None
            else {"added": list(files.added), "removed": list(files.removed), "changed": list(files.changed)},
            "files_reason": self.files_reason or None,
        }


def contents_diff(old: ImageContents, new: ImageContents) -> ContentsDiff:
    """Compare two images. Lists of packages are compared only if both are from an SBOM, or both from the layers."""
    packages, origin, reason = None, "", ""
    for name, before, after in (
        ("SBOMs attached to both images", old.sbom, new.sbom),
        ("package databases in the layers", old.layers, new.layers),
    ):
        if before.packages is not None and after.packages is not None:
            packages, origin = compare_packages(before.packages, after.packages), name
            break
    else:
        reason = _reason(old, new)
    files = None if old.files is None or new.files is None else compare_files(old.files, new.files)
    return ContentsDiff(
        packages, origin, reason, files, "" if files is not None else old.files_reason or new.files_reason
    )


class PackageRow(NamedTuple):
    """A change of a package. `kind`: changed, added or removed."""

    kind: str
    change: PackageChange


def package_rows(diff: PackageDiff) -> list[PackageRow]:
    """Return all changes with their kind, the changed ones first."""
    return [
        *(PackageRow("changed", each) for each in diff.changed),
        *(PackageRow("added", each) for each in diff.added),
        *(PackageRow("removed", each) for each in diff.removed),
    ]


class InstalledPackages(NamedTuple):
    """The packages of an image. `origin`: where they are from, in words."""

    found: PackageList
    origin: str


def installed(contents: ImageContents) -> InstalledPackages:
    """Return the packages of one image, by its SBOM if it has one, and where they are from."""
    if contents.sbom.packages is not None:
        return InstalledPackages(contents.sbom, "an SBOM attached to the image")
    return InstalledPackages(contents.layers, "package databases in the layers")


def _reason(old: ImageContents, new: ImageContents) -> str:
    parts = []
    for which, contents in (("the old image", old), ("the new image", new)):
        if contents.layers.packages is None:
            parts.append(f"{which}: {contents.layers.reason}")
    return "; ".join(dict.fromkeys(parts))


def _row(change: PackageChange) -> Mapping[str, str]:
    return {"kind": change.kind, "name": change.name, "was": change.was, "now": change.now}

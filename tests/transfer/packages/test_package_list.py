"""The comparison of package lists, and of files."""

from __future__ import annotations

import pytest

from boltseal.transfer.file_changes import FileChanges, compare_files
from boltseal.transfer.packages.package_list import (
    MAX_PACKAGES,
    Package,
    PackageChange,
    PackagesUnreadable,
    checked,
    compare_packages,
)


def test_packages_are_compared_by_kind_and_name() -> None:
    """A package is added, removed or changed by its kind and name; several versions of it are compared together."""
    old = [Package("deb", "zlib", "1"), Package("npm", "a", "1"), Package("npm", "a", "2"), Package("deb", "x", "1")]
    new = [Package("deb", "zlib", "2"), Package("npm", "a", "2"), Package("npm", "x", "1")]
    found = compare_packages(old, new)

    assert found.changed == (PackageChange("npm", "a", "1, 2", "2"), PackageChange("deb", "zlib", "1", "2"))
    assert found.added == (PackageChange("npm", "x", "", "1"),)
    assert found.removed == (PackageChange("deb", "x", "1", ""),)
    assert compare_packages(new, reversed(new)).empty


def test_lists_are_bounded() -> None:
    """A package without a name is left out, one without a version is unknown, long texts are cut, and a list has a limit."""
    assert checked([Package("deb", "", "1"), Package("deb", "x" * 999, "")]) == (Package("deb", "x" * 300, "unknown"),)
    with pytest.raises(PackagesUnreadable, match="more than"):
        checked(Package("deb", str(number), "1") for number in range(MAX_PACKAGES + 2))


def test_files_are_compared_by_path() -> None:
    """Files are added, removed or changed by path, and a name that is no UTF-8 is shown with its bytes."""
    found = compare_files({b"a": 1, b"b": 1, b"c": 1}, {b"b": 1, b"c": 2, b"\xff": 1})

    assert found == FileChanges(("\\xff",), ("a",), ("c",))
    assert found.total == 3

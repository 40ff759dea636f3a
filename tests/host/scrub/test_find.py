"""Finding stores on a disk: an unreadable folder may have one, and is never skipped silently."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from boltseal.host.scrub.find_stores import NoStoreFound, store_at, usual_stores
from tests.programs import without_privileges

LOOK = """
import sys
from pathlib import Path
from boltseal.host.scrub.find_stores import store_at
root = Path(sys.argv[1])
for store in store_at(root):
    plan = store.plan(store.root)
    print(store.root.relative_to(root), "could not check" if plan.unknown else "read")
"""


def looked(root: Path) -> list[str]:
    """Return what a process without privileges finds."""
    argv = [*without_privileges(), sys.executable, "-c", LOOK, str(root)]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk with an empty Docker store and two users."""
    for inside in ("var/lib/docker/image", "root", "home/ann/.local/share/docker/image", "home/bob"):
        (tmp_path / "disk" / inside).mkdir(parents=True)
    return tmp_path / "disk"


def test_stores_of_a_disk_and_of_its_users_are_found(disk: Path) -> None:
    """The stores of a disk and of its users are found; a file in place of a store is ignored."""
    (disk / "var/lib/containerd").write_text("")

    assert [each.root.relative_to(disk).as_posix() for each in store_at(disk)] == [
        "var/lib/docker",
        "home/ann/.local/share/docker",
    ]


@pytest.mark.parametrize(
    ("closed", "mode", "expected"),
    [
        ("root", 0o000, ["root"]),
        ("home", 0o000, ["home"]),
        ("home", 0o311, ["home"]),
        ("home/ann", 0o000, ["home/ann"]),
        ("home/ann/.local/share/docker", 0o000, ["home/ann/.local/share/docker"]),
        ("home/bob", 0o311, []),
        ("var/lib/docker", 0o000, ["var/lib/docker"]),
    ],
)
def test_an_unreadable_folder_could_not_be_checked(disk: Path, closed: str, mode: int, expected: list[str]) -> None:
    """A home folder with only the execute right is searched at known paths; other unreadable folders could not be
    checked."""
    (disk / closed).chmod(mode)
    try:
        found = looked(disk)
    finally:
        (disk / closed).chmod(0o755)

    assert [each for each in found if each.endswith("could not check")] == [
        f"{each} could not check" for each in expected
    ]
    assert ("var/lib/docker read" in found) == (closed != "var/lib/docker")


def test_a_named_store_in_an_unreadable_folder_is_reported(disk: Path) -> None:
    """A named store in an unreadable folder is reported, because it may exist."""
    (disk / "home").chmod(0)
    try:
        found = looked(disk / "home/ann/.local/share/docker")
    finally:
        (disk / "home").chmod(0o755)

    assert found == [". could not check"]


def test_homes_beyond_the_limit_are_reported(disk: Path) -> None:
    """Home folders beyond the limit are reported, on a disk and on this host."""
    stores = [store_at(disk, max_homes=1), usual_stores([disk / "home/bob", disk / "home/ann"], max_homes=1)]
    unknown = [[why for each in found for why in each.plan(each.root).unknown] for found in stores]

    assert unknown == [["not checked: there are more than 1 home folders; name this one with --root"]] * 2


def test_a_too_long_path_is_a_missing_store(tmp_path: Path) -> None:
    """A path longer than the file system allows is reported as a missing store."""
    with pytest.raises(NoStoreFound, match="does not exist"):
        store_at(tmp_path / ("a" * 300))


def test_a_link_into_an_unreadable_folder_could_not_be_checked(disk: Path) -> None:
    """A link in a layout into an unreadable folder is not followed, and could not be checked."""
    (disk / "home").chmod(0)
    try:
        (disk / "root/index.json").symlink_to(disk / "home/ann")
        found = looked(disk / "root")
    finally:
        (disk / "home").chmod(0o755)

    assert found == [". could not check"]

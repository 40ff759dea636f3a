"""Folders that a layer's tar only implies: they have no entry, but overlayfs shows the owner and mode of the topmost one."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from tests.attacks.scrub.clean_layers import implied_base, implied_top, set_group_id_first, set_group_id_later
from tests.attacks.scrub.stores import MAKERS, VFS_MAKERS, Store

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def originals_with_implied(empty_home: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Store]:
    """A store of each engine with an image whose upper layer has no entries for its folders, never modified."""

    @cache
    def made(engine: str) -> Store:
        return MAKERS[engine](tmp_path_factory.mktemp(engine), (implied_base, implied_top))

    return made


@pytest.fixture
def implied_on(originals_with_implied: Callable[[str], Store], tmp_path: Path) -> Callable[[str], Store]:
    """Return a copy of such a store of an engine to tamper with."""
    return lambda engine: originals_with_implied(engine).copy(tmp_path / "store")


@pytest.fixture(params=list(MAKERS))
def implied(request: pytest.FixtureRequest, implied_on: Callable[[str], Store]) -> Store:
    """A copy of such a store of each engine."""
    return implied_on(request.param)


def differences_in(report: ScrubReport) -> set[tuple[DifferenceKind, str]]:
    return {(each.kind, each.path) for each in report.differences}


def test_folders_without_entries_are_clean(implied: Store) -> None:
    """Folders without entries, new ones and ones that a lower layer has with another owner and mode, are no finding."""
    report = implied.image_report()

    assert (report.status, report.differences, report.unknown) == (ReportStatus.HOLDS, (), ())


@pytest.mark.parametrize("path", ["etc", "new", "new/deep", "shared", "owned", "link"])
def test_a_folder_that_becomes_writable_for_all_differs(implied: Store, path: str) -> None:
    """A folder without an entry that becomes writable for all users lets any of them replace the image's files in it."""
    implied.at(path, 1).chmod(0o777)

    report = implied.image_report()

    assert differences_in(report) == {(DifferenceKind.MODE, path)}


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1755], ids=oct)
def test_a_special_bit_on_a_folder_without_an_entry_differs(implied: Store, mode: int) -> None:
    """setuid, setgid and sticky bits on a folder without an entry are differences."""
    implied.at("etc", 1).chmod(mode)

    assert differences_in(implied.image_report()) == {(DifferenceKind.MODE, "etc")}


@pytest.mark.parametrize("owner", [(1000, -1), (-1, 1000)], ids=["user", "group"])
def test_another_owner_of_a_folder_without_an_entry_differs(implied: Store, owner: tuple[int, int]) -> None:
    """A folder without an entry that belongs to another user or group is a difference."""
    os.chown(implied.at("new/deep", 1), *owner)

    assert differences_in(implied.image_report()) == {(DifferenceKind.OWNER, "new/deep")}


@pytest.mark.parametrize("engine", ["docker-containerd", "containerd"])
def test_containerd_copies_the_mode_of_a_lower_folder(implied_on: Callable[[str], Store], engine: str) -> None:
    """containerd gives a folder without an entry the mode and owner of the lower layer's; other values are differences."""
    store = implied_on(engine)
    before = [
        (store.at(path, 1).stat().st_mode & 0o7777, store.at(path, 1).stat().st_uid) for path in ("shared", "owned")
    ]
    store.at("shared", 1).chmod(0o755)
    os.chown(store.at("owned", 1), 0, 0)

    assert before == [(0o1777, 0), (0o750, 1000)]
    assert differences_in(store.image_report()) == {(DifferenceKind.MODE, "shared"), (DifferenceKind.OWNER, "owned")}


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_docker_and_podman_ignore_the_lower_folder(implied_on: Callable[[str], Store], engine: str) -> None:
    """Docker and Podman give a folder without an entry root as owner and mode 0755, whatever a lower layer has."""
    store = implied_on(engine)
    found = [store.at(path, 1).stat() for path in ("shared", "owned", "new")]

    assert {(each.st_mode & 0o7777, each.st_uid, each.st_gid) for each in found} == {(0o755, 0, 0)}


@pytest.mark.parametrize(
    ("engine", "kinds"),
    [("docker", {DifferenceKind.MODE}), ("podman", set()), ("containerd", {DifferenceKind.MODE})],
)
def test_a_stricter_mode_is_bounded_by_the_umask(
    implied_on: Callable[[str], Store], engine: str, kinds: set[DifferenceKind]
) -> None:
    """Skopeo and others write Podman's store with the user's umask, so stricter modes occur there, and in no other store."""
    store = implied_on(engine)
    store.at("new", 1).chmod(0o750)

    assert {each.kind for each in store.image_report().differences} == kinds


def test_without_the_lower_layer_it_could_not_be_checked(implied_on: Callable[[str], Store]) -> None:
    """If a lower layer of containerd is missing, that is the difference, and not the folders above it."""
    store = implied_on("containerd")
    store.at("").rename(store.at("").with_name("moved"))

    report = store.image_report()

    assert {each.kind for each in report.differences} == {DifferenceKind.MISSING, DifferenceKind.STACK}
    assert {each.path for each in report.differences if each.kind is DifferenceKind.MISSING} == {""}
    assert "folders without an entry" in " ".join(report.unknown)


def test_an_attribute_of_a_lower_folder_is_clean(implied_on: Callable[[str], Store]) -> None:
    """containerd also copies the extended attributes of a lower layer's folder; others are differences."""
    store = implied_on("containerd")
    copied = os.listxattr(store.at("attributes", 1))
    os.setxattr(store.at("etc", 1), "user.other", b"1")

    assert copied == ["user.a"]
    assert differences_in(store.image_report()) == {(DifferenceKind.XATTR, "etc")}


# ---- folders in ones with the set-group-id bit, which a later entry of the same layer gives or takes

GROUPED = {**MAKERS, **VFS_MAKERS}
BIT_STAYS = {"docker", "podman", "docker-vfs", "podman-vfs"}
WITH_LOWER = {"docker-containerd", "containerd", "docker-vfs", "podman-vfs"}
"""Engines whose folders without an entry are like those of the lower layer."""


@pytest.fixture(scope="module", params=list(GROUPED))
def original_with_groups(
    request: pytest.FixtureRequest, empty_home: None, tmp_path_factory: pytest.TempPathFactory
) -> Store:
    """A store of each engine with an image of such folders, never modified."""
    made = GROUPED[request.param](tmp_path_factory.mktemp(request.param), (set_group_id_first, set_group_id_later))
    return replace(made, name=request.param)


@pytest.fixture
def grouped(original_with_groups: Store, tmp_path: Path) -> Store:
    """A copy of such a store of each engine."""
    return original_with_groups.copy(tmp_path / "store")


def test_folders_in_set_group_id_folders_are_clean(grouped: Store) -> None:
    """The group and the bit that a folder without an entry had from the folder above are no finding if an entry changes that."""
    report = grouped.image_report()

    assert (report.status, report.differences, report.unknown) == (ReportStatus.HOLDS, (), ())


@pytest.mark.parametrize("path", ["given/new", "taken/late"])
def test_a_bit_that_the_folder_above_did_not_give_differs(grouped: Store, path: str) -> None:
    """A folder made while the folder above had no set-group-id bit can't have that bit, whatever a later entry says."""
    grouped.at(path, 1).chmod(0o2755)

    assert differences_in(grouped.image_report()) == {(DifferenceKind.MODE, path)}


def test_a_bit_that_the_folder_above_gave_can_not_be_missing(grouped: Store) -> None:
    """A folder made in a set-group-id folder has its bit, unless the engine sets modes; without it, that is a difference."""
    path = "given/late"
    before = stat.S_IMODE(grouped.at(path, 1).stat().st_mode)
    grouped.at(path, 1).chmod(0o755)

    assert before == (0o2755 if grouped.name in BIT_STAYS else 0o755)
    assert differences_in(grouped.image_report()) == ({(DifferenceKind.MODE, path)} if before != 0o755 else set())


@pytest.mark.parametrize("path", ["given/late", "given/new", "taken/new"])
def test_another_group_than_the_folder_above_gave_differs(grouped: Store, path: str) -> None:
    """A folder without an entry has the group that its engine leaves it; the group of a later entry is a difference."""
    at = grouped.at(path, 1)
    of_lower = path == "taken/new" and grouped.name in WITH_LOWER
    kept = {"given/late": 10, "taken/new": 6 if of_lower else 0}.get(path, 0)
    before = at.stat().st_gid
    os.chown(at, 0, 11)

    assert before == (kept if grouped.name not in {"docker", "podman", "docker-vfs"} else 0)
    assert differences_in(grouped.image_report()) == {(DifferenceKind.OWNER, path)}

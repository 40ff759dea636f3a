"""Attributes of hard-linked files in each engine's store: an added, removed or changed one is found under any name.

A capability on one name of a program applies to the program, and is as powerful as a setuid bit.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.report import ReportStatus
from tests.attacks.scrub.image import ACL, CAPABILITY, Layer
from tests.attacks.scrub.stores import MAKERS, Store
from tests.servers import unmounted

pytestmark = pytest.mark.real

ADDED = {"security.capability": CAPABILITY.encode("latin-1"), "user.evil": b"1", "system.posix_acl_access": ACL}


def linked() -> bytes:
    """Files with two names each: with attributes in neither header, in both, in the file's, or in the link's."""
    capability, mine = {"SCHILY.xattr.security.capability": CAPABILITY}, {"SCHILY.xattr.user.mine": "1"}
    acl = {"SCHILY.xattr.system.posix_acl_access": ACL.decode("utf-8", "surrogateescape")}
    layer = Layer().folder("bin")
    for name, of_file, of_link in (
        ("plain", {}, {}),
        ("both", capability | mine, capability | mine),
        ("file", mine, {}),
        ("link", {}, capability | mine),
        ("list", acl, acl),
    ):
        layer.add(f"bin/{name}", b"a program", mode=0o755, pax=of_file)
        layer.add(f"bin/{name}2", kind=tarfile.LNKTYPE, link=f"bin/{name}", mode=0o755, pax=of_link)
    layer.add("lib", kind=tarfile.SYMTYPE, link="bin", mode=0o777)
    return layer.add("lib2", kind=tarfile.LNKTYPE, link="lib", mode=0o777).done()


def perl() -> bytes:
    """Debian's perl with the hard link perl5.40.1, as in its package, packed by GNU tar."""
    with TemporaryDirectory() as folder:
        bin_ = Path(folder) / "usr/bin"
        bin_.mkdir(parents=True)
        shutil.copy2("/usr/bin/perl", bin_ / "perl")
        (bin_ / "perl5.40.1").hardlink_to(bin_ / "perl")
        argv = ["tar", "-C", folder, "--owner=0", "--group=0", "-c", "usr/bin/perl", "usr/bin/perl5.40.1"]
        return subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout


@pytest.fixture(scope="module", params=list(MAKERS))
def original(
    request: pytest.FixtureRequest, empty_home: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """Each engine's store with both layers, as the engine created it."""
    store = MAKERS[request.param](tmp_path_factory.mktemp(request.param), (linked, perl))
    yield store
    unmounted(store.root)


@pytest.fixture
def store(original: Store, tmp_path: Path) -> Store:
    """A copy of the unmodified store to tamper with."""
    return original.copy(tmp_path / "store")


def found(store: Store) -> set[tuple[DifferenceKind, str]]:
    report = store.image_report()

    assert report.unknown == ()
    assert (report.status is ReportStatus.DIFFERS) == bool(report.differences)
    return {(each.kind, each.path) for each in report.differences}


def test_an_unmodified_store_is_clean(store: Store) -> None:
    """Link headers that repeat, omit or add attributes are no difference in an unmodified store."""
    assert found(store) == set()


@pytest.mark.parametrize("name", ADDED)
@pytest.mark.parametrize("path", ["bin/plain", "bin/plain2", "bin/file", "bin/file2"])
def test_an_attribute_added_to_a_hard_linked_file_is_found(store: Store, path: str, name: str) -> None:
    """An attribute added to a hard-linked file is found under the file's and the link's name, whatever the headers
    have."""
    os.setxattr(store.at(path), name, ADDED[name])

    kind = DifferenceKind.CAPABILITY if name == "security.capability" else DifferenceKind.XATTR

    assert found(store) == {(kind, path.removesuffix("2"))}


@pytest.mark.parametrize("name", ["user.evil", "system.posix_acl_access"])
@pytest.mark.parametrize("path", ["bin/both", "bin/both2", "bin/link", "bin/link2"])
def test_an_attribute_added_beside_a_capability_is_found(store: Store, path: str, name: str) -> None:
    """An attribute added beside an existing capability is found, although the link's header has other attributes."""
    os.setxattr(store.at(path), name, ADDED[name])

    assert found(store) == {(DifferenceKind.XATTR, path.removesuffix("2"))}


def removed(path: Path, name: str) -> None:
    os.removexattr(path, name)


def changed(path: Path, name: str) -> None:
    os.setxattr(path, name, os.getxattr(path, name).replace(b"\x04", b"\xff").replace(b"1", b"2"))


@pytest.mark.parametrize("change", [removed, changed])
@pytest.mark.parametrize("path", ["bin/both", "bin/both2", "bin/link", "bin/link2"])
def test_a_capability_of_a_hard_linked_file_that_is_changed_is_found(
    store: Store, path: str, change: Callable[[Path, str], None]
) -> None:
    """A changed capability of a hard-linked file is found whether both headers have it or only the link's."""
    change(store.at(path), "security.capability")

    assert found(store) == {(DifferenceKind.CAPABILITY, path.removesuffix("2"))}


@pytest.mark.parametrize("change", [removed, changed])
@pytest.mark.parametrize("path", ["bin/both", "bin/both2", "bin/file", "bin/file2", "bin/link", "bin/link2"])
def test_an_attribute_of_a_hard_linked_file_that_is_changed_is_found(
    store: Store, path: str, change: Callable[[Path, str], None]
) -> None:
    """A changed attribute of a hard-linked file is found whichever header has it."""
    change(store.at(path), "user.mine")

    assert found(store) == {(DifferenceKind.XATTR, path.removesuffix("2"))}


def test_a_changed_access_control_list_is_found(store: Store) -> None:
    """An access control list that gives a named user the right to write is found, although the file's mode is equal."""
    os.setxattr(store.at("bin/list2"), "system.posix_acl_access", ACL.replace(b"\x02\0\x05", b"\x02\0\x07"))

    assert found(store) == {(DifferenceKind.XATTR, "bin/list")}


def test_another_mode_of_a_file_with_an_access_control_list_is_found_once(store: Store) -> None:
    """A changed mode of a file with an access control list is one finding, although the kernel changes the list as
    well."""
    store.at("bin/list").chmod(0o4777)

    assert found(store) == {(DifferenceKind.MODE, "bin/list")}


def test_an_attribute_added_to_a_hard_linked_symbolic_link_is_found(store: Store) -> None:
    """An attribute added to a hard-linked symbolic link is found, and a changed owner of it as well."""
    os.setxattr(store.at("lib2"), "trusted.overlay.redirect", b"/etc", follow_symlinks=False)
    os.chown(store.at("lib2"), 1000, 1000, follow_symlinks=False)

    assert found(store) == {(DifferenceKind.XATTR, "lib"), (DifferenceKind.OWNER, "lib")}


@pytest.mark.parametrize("name", ["perl", "perl5.40.1"])
def test_a_capability_given_to_debians_perl_is_found(store: Store, name: str) -> None:
    """A capability as by `setcap cap_setuid+ep`, with which each user of perl can become root, is found."""
    os.setxattr(store.at(f"usr/bin/{name}", 1), "security.capability", struct.pack("<5I", 0x02000001, 1 << 7, 0, 0, 0))

    assert found(store) == {(DifferenceKind.CAPABILITY, "usr/bin/perl")}

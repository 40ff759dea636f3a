"""Manipulations beside the rules of engines: inherited attributes, links in a path, the root folder, folders of builds."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.image import ACL, CAPABILITY, Layer, base
from tests.attacks.scrub.odd_layers import FOLDER, attributes, default_list, through_links
from tests.attacks.scrub.stores import MAKERS, Store
from tests.programs import program
from tests.real.tools import run

pytestmark = [pytest.mark.real, pytest.mark.slow]

GIVING = struct.pack(
    "<I" + "HHI" * 5, 2,
    *(0x01, 6, 0xFFFFFFFF), *(0x02, 6, 1000), *(0x04, 4, 0xFFFFFFFF), *(0x10, 6, 0xFFFFFFFF), *(0x20, 4, 0xFFFFFFFF),
)  # fmt: skip
"""An access control list of a file of mode 0664 that lets user 1000 write."""
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


def upper() -> bytes:
    """Return entries in folders without entries, an opaque mark among them, and the layer's own folder."""
    layer = (
        Layer().add("/", kind=FOLDER, mode=0o750, owner=(1000, 1000)).add("opaque/.wh..wh..opq").add("opaque/c", b"c")
    )
    layer.add("trusted", b"t", pax=attributes(trusted_mine="1")).add("list", b"l", mode=0o644, pax={})
    return layer.add("etc/.wh.passwd").done()


def lists() -> bytes:
    return default_list().done()


def links() -> bytes:
    return through_links().done()


@pytest.fixture(scope="module", params=list(MAKERS))
def original(
    request: pytest.FixtureRequest, empty_home: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """Each engine's store, as the engine created it."""
    store = MAKERS[request.param](tmp_path_factory.mktemp(request.param), (base, upper, lists, links))
    yield store
    servers.unmounted(store.root)


@pytest.fixture
def store(original: Store, tmp_path: Path) -> Store:
    """A copy of the unmodified store to tamper with."""
    return original.copy(tmp_path / "store")


def found(store: Store) -> set[tuple[DifferenceKind, str]]:
    report = store.image_report()

    assert report.unknown == ()
    return {(each.kind, each.path) for each in report.differences}


def test_an_unmodified_store_is_clean(store: Store) -> None:
    """The layers that the other tests tamper with have no findings before."""
    assert found(store) == set()


def inherited_list_removed(store: Store) -> None:
    os.removexattr(store.at("d/f", 2), ACCESS)


def inherited_default_removed(store: Store) -> None:
    os.removexattr(store.at("d/e", 2), DEFAULT)


def inherited_list_changed(store: Store) -> None:
    os.setxattr(store.at("d/e/f", 2), ACCESS, ACL.replace(b"\x02\0\x05", b"\x02\0\x07"))


def list_on_a_file_before_the_default(store: Store) -> None:
    os.setxattr(store.at("before/f", 2), ACCESS, ACL)


def kept_attribute_removed(store: Store) -> None:
    os.removexattr(store.at("before", 2), "user.kept")


def file_behind_a_link_changed(store: Store) -> None:
    path = store.at("usr/lib/libc.so", 3)
    before = path.stat()
    path.write_bytes(b"evil" * 300)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def file_behind_a_link_removed(store: Store) -> None:
    store.at("usr/lib/deep/f", 3).unlink()


def file_added_behind_a_link(store: Store) -> None:
    store.at("usr/lib/evil.so", 3).write_bytes(b"evil")


def link_replaced_by_a_copy(store: Store) -> None:
    store.at("lib", 3).unlink()
    shutil.copytree(store.at("usr/lib", 3), store.at("lib", 3), symlinks=True)


def link_retargeted(store: Store) -> None:
    shutil.copytree(store.at("usr/lib", 3), store.at("usr/evil", 3), symlinks=True)
    store.at("lib", 3).unlink()
    store.at("lib", 3).symlink_to("usr/evil")


def folder_replaced_by_a_link(store: Store) -> None:
    store.at("usr/lib/implied", 3).rename(store.at("usr/lib/other", 3))
    store.at("usr/lib/implied", 3).symlink_to("other")


def mark_removed(store: Store) -> None:
    os.removexattr(store.at("opaque", 1), "trusted.overlay.opaque")


def whiteout_removed(store: Store) -> None:
    store.at("etc/passwd", 1).unlink()


def trusted_attribute_swapped(store: Store) -> None:
    """Set the attribute where the engine does not, and remove it where it does."""
    path = store.at("trusted", 1)
    if "trusted.mine" in os.listxattr(path):
        os.removexattr(path, "trusted.mine")
    else:
        os.setxattr(path, "trusted.mine", b"1")


def root_owner_changed(store: Store) -> None:
    os.chown(store.at("", 1), 1001, 1001)


def root_opened(store: Store) -> None:
    store.at("", 1).chmod(0o777)


@pytest.mark.parametrize(
    ("manipulate", "kinds"),
    [
        (inherited_list_removed, {DifferenceKind.XATTR}),
        (inherited_default_removed, {DifferenceKind.XATTR}),
        (inherited_list_changed, {DifferenceKind.XATTR}),
        (list_on_a_file_before_the_default, {DifferenceKind.XATTR}),
        (kept_attribute_removed, {DifferenceKind.XATTR}),
        (file_behind_a_link_changed, {DifferenceKind.CONTENT}),
        (file_behind_a_link_removed, {DifferenceKind.MISSING}),
        (file_added_behind_a_link, {DifferenceKind.EXTRA}),
        (link_replaced_by_a_copy, {DifferenceKind.TYPE}),
        (link_retargeted, {DifferenceKind.LINK, DifferenceKind.EXTRA}),
        (folder_replaced_by_a_link, {DifferenceKind.TYPE}),
        (mark_removed, {DifferenceKind.OPAQUE}),
        (whiteout_removed, {DifferenceKind.WHITEOUT}),
        (trusted_attribute_swapped, {DifferenceKind.XATTR}),
        (root_owner_changed, {DifferenceKind.OWNER}),
        (root_opened, {DifferenceKind.MODE}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_manipulation_beside_a_rule_is_found(
    store: Store, manipulate: Callable[[Store], None], kinds: set[DifferenceKind]
) -> None:
    """What an engine's rule allows for one file, order or folder is found for any other."""
    manipulate(store)

    assert kinds <= {kind for kind, _ in found(store)}


@pytest.fixture(scope="module")
def built(empty_home: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Docker's classic store with an image that BuildKit built from files with attributes."""
    folder = tmp_path_factory.mktemp("built")
    context = folder / "context"
    (context / "data/sub/deep").mkdir(parents=True)
    (context / "base.tar").write_bytes(
        Layer().folder("bin").add("below", b"x", mode=0o755, pax=attributes(user_mine="1", system_posix_acl_access=ACL.decode("utf-8", "surrogateescape"))).done()
    )  # fmt: skip
    shutil.copy2(program("busybox"), context / "busybox")
    for name in ("mine", "list", "capability", "plain", "sub/f"):
        (context / "data" / name).write_text(name)
    os.setxattr(context / "data/mine", "user.mine", b"1")
    os.setxattr(context / "data/mine", "trusted.mine", b"1")
    os.setxattr(context / "data/list", ACCESS, ACL)
    os.setxattr(context / "data/capability", "security.capability", CAPABILITY.encode("latin-1"))
    os.setxattr(context / "data/sub", DEFAULT, ACL)
    (context / "Dockerfile").write_text(
        """\
FROM scratch
ADD base.tar /
COPY busybox /bin/busybox
COPY data /data
RUN ["/bin/busybox", "chown", "5", "/below", "/data/mine", "/data/list"]
RUN ["/bin/busybox", "touch", "/data/sub/new", "/data/sub/deep/new"]
"""
    )
    with servers.dockerd(folder / "engine", driver="overlay2") as server:
        run(
            *("docker", "-H", f"unix://{server.address}", "build", "--network", "none", "-t", "built:1", context),
            env={"DOCKER_BUILDKIT": "1"},
        ).checked()
    yield folder / "engine/data"
    servers.unmounted(folder)


def report_of(root: Path) -> ScrubReport:
    (report,) = [each for each in scrub(store_at(root), ScrubRequest(), lambda *_: None) if each.what == "image"]
    return report


def tampered(built: Path, to: Path, name: str, path: str, value: bytes) -> ScrubReport:
    """Return the report of a copy of the store in which one file has another attribute."""
    root = Store("docker", built, "").copy(to).root
    folders = [each.read_text() for each in root.glob("image/overlay2/layerdb/sha256/*/cache-id")]
    (file, *_) = [at for each in folders if (at := root / "overlay2" / each / "diff" / path).exists()]
    os.setxattr(file, name, value)
    return report_of(root)


def test_attributes_that_a_build_keeps_are_clean(built: Path) -> None:
    """Docker's tar of a built layer leaves out attributes that its folder has, which is no finding."""
    report = report_of(built)

    assert (report.differences, report.unknown, report.status) == ((), (), ReportStatus.HOLDS)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("security.capability", CAPABILITY.encode("latin-1"), DifferenceKind.CAPABILITY),
        ("security.other", b"1", DifferenceKind.XATTR),
        ("trusted.overlay.redirect", b"/etc", DifferenceKind.XATTR),
        ("trusted.overlay.metacopy", b"", DifferenceKind.XATTR),
        ("user.overlay.redirect", b"/etc", DifferenceKind.XATTR),
    ],
)
def test_an_attribute_of_the_kernel_added_to_a_built_layer_is_found(
    built: Path, tmp_path: Path, name: str, value: bytes, kind: DifferenceKind
) -> None:
    """An attribute by which the kernel decides is a difference in a built layer as in any other."""
    report = tampered(built, tmp_path / "store", name, "data/plain", value)

    assert [(each.kind, each.path) for each in report.differences] == [(kind, "data/plain")]


def minimal(owner: int, group: int, others: int, *more: tuple[int, int, int]) -> bytes:
    """Return an access control list with the rights of owner, group and others; `more`: further entries after the owner's."""
    entries = [(0x01, owner, 0xFFFFFFFF), *more, (0x04, group, 0xFFFFFFFF)]
    entries += [(0x10, group, 0xFFFFFFFF)] if more else []
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *each) for each in [*entries, (0x20, others, 0xFFFFFFFF)]
    )


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("data/plain", ACCESS, GIVING),
        ("data/sub", DEFAULT, GIVING),
        ("data/sub/f", ACCESS, GIVING),
        ("data", DEFAULT, minimal(7, 7, 7)),
        ("data", DEFAULT, minimal(7, 5, 0)),
        ("data/plain", ACCESS, minimal(6, 4, 4, (0x02, 0, 1000))),
    ],
    ids=["user", "default-user", "inherited", "default-writable", "default-private", "denied"],
)
def test_an_access_control_list_that_changes_rights_in_a_built_layer_is_not_proven(
    built: Path, tmp_path: Path, path: str, name: str, value: bytes
) -> None:
    """With a list that changes rights, which may be the build's or an attacker's, the image does not hold."""
    report = tampered(built, tmp_path / "store", name, path, value)

    assert report.status is not ReportStatus.HOLDS
    assert any(path in each for each in (*report.unknown, *(found.path for found in report.differences)))

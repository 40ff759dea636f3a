"""Manipulations of a layer's files that root can make, each with the difference that must be found, for every store."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from typing import Final

from boltseal.host.scrub.differences import DifferenceKind
from tests.attacks.scrub.file_changes import kept_times, rewritten
from tests.attacks.scrub.image import CAPABILITY, LATIN, LONG
from tests.attacks.scrub.stores import Store

Manipulation = Callable[[Store], None]


def content_of_the_same_size(store: Store) -> None:
    rewritten(store.at("bin/tool"), store.at("bin/tool").read_bytes()[:-4] + b"EVIL")


def content_in_a_folder_without_entries(store: Store) -> None:
    rewritten(store.at("usr/lib/deep/file"), b"IN FOLDERS WITHOUT ENTRIES")


def content_of_a_long_name(store: Store) -> None:
    rewritten(store.at(LONG), b"A LONG NAME")


def content_of_a_name_that_is_no_utf8(store: Store) -> None:
    rewritten(store.at(LATIN), b"LATIN")


def content_in_an_upper_layer(store: Store) -> None:
    rewritten(store.at("app", 2), store.at("app", 2).read_bytes().replace(b"sleep", b"SLEEP"))


def grown(store: Store) -> None:
    rewritten(store.at("bin/tool"), store.at("bin/tool").read_bytes() + b"more")


def shortened(store: Store) -> None:
    rewritten(store.at("bin/tool"), store.at("bin/tool").read_bytes()[:-1])


def deleted(store: Store) -> None:
    kept_times(store.at("bin"), store.at("bin/tool").unlink)


def empty_one_deleted(store: Store) -> None:
    kept_times(store.at("etc"), store.at("etc/empty").unlink)


def empty_one_filled(store: Store) -> None:
    rewritten(store.at("etc/empty"), b"evil")


def permissions_changed(store: Store) -> None:
    store.at("bin/tool").chmod(0o4777)


def setuid_added(store: Store) -> None:
    store.at("bin/tool").chmod(0o4755)


def setgid_added(store: Store) -> None:
    store.at("bin/tool").chmod(0o2755)


def setuid_dropped(store: Store) -> None:
    store.at("bin/su").chmod(0o755)


def sticky_dropped_from_a_folder(store: Store) -> None:
    store.at("opaque", 1).chmod(0o777)


def owner_changed(store: Store) -> None:
    os.chown(store.at("etc/passwd"), 1000, 0)


def group_changed(store: Store) -> None:
    os.chown(store.at("etc/passwd"), -1, 42)


def owner_of_a_link_changed(store: Store) -> None:
    os.chown(store.at("lib"), 1000, 1000, follow_symlinks=False)


def mtime_changed(store: Store) -> None:
    os.utime(store.at("bin/tool"), (1, 1))


def nanoseconds_changed(store: Store) -> None:
    at = store.at(LONG)
    os.utime(at, ns=(at.stat().st_atime_ns, at.stat().st_mtime_ns + 1))


def capability_removed(store: Store) -> None:
    os.removexattr(store.at("bin/ping"), "security.capability")


def capability_widened(store: Store) -> None:
    os.setxattr(store.at("bin/ping"), "security.capability", CAPABILITY.encode("latin-1").replace(b"\x04", b"\xff"))


def capability_for_another_root(store: Store) -> None:
    whole = CAPABILITY.encode("latin-1").replace(b"\x02", b"\x03", 1) + (1000).to_bytes(4, "little")
    os.setxattr(store.at("bin/ping"), "security.capability", whole)


def capability_added(store: Store) -> None:
    os.setxattr(store.at("bin/tool"), "security.capability", CAPABILITY.encode("latin-1"))


def attribute_added(store: Store) -> None:
    os.setxattr(store.at("bin/tool"), "user.evil", b"1")


def attribute_of_a_folder_without_an_entry(store: Store) -> None:
    os.setxattr(store.at("usr/lib"), "trusted.overlay.redirect", b"/etc")


def setuid_file_planted(store: Store) -> None:
    def plant() -> None:
        store.at("bin/evil").write_bytes(b"evil")
        store.at("bin/evil").chmod(0o4755)

    kept_times(store.at("bin"), plant)


def file_planted_in_the_root(store: Store) -> None:
    store.at("evil").write_bytes(b"evil")


def file_planted_in_a_folder_without_an_entry(store: Store) -> None:
    store.at("usr/lib/evil").write_bytes(b"evil")


def file_planted_under_an_opaque_folder(store: Store) -> None:
    def plant() -> None:
        store.at("opaque/evil", 1).write_bytes(b"evil")

    kept_times(store.at("opaque", 1), plant)


def folder_planted(store: Store) -> None:
    kept_times(store.at("etc"), store.at("etc/evil").mkdir)


def socket_planted(store: Store) -> None:
    kept_times(store.at("etc"), lambda: os.mknod(store.at("etc/evil"), stat.S_IFSOCK | 0o644))


def link_retargeted(store: Store) -> None:
    before = store.at("lib").lstat()
    store.at("lib").unlink()
    store.at("lib").symlink_to("tmp/ev1")
    os.utime(store.at("lib"), ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)


def link_deleted(store: Store) -> None:
    store.at("lib").unlink()


def _unlinked(store: Store, content: bytes) -> None:
    path = store.at("bin/su2")
    before = path.stat()

    def replace() -> None:
        path.unlink()
        path.write_bytes(content)
        path.chmod(stat.S_IMODE(before.st_mode))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    kept_times(path.parent, replace)


def hard_link_replaced_by_another_file(store: Store) -> None:
    _unlinked(store, b"evil")


def hard_link_replaced_by_a_file_of_the_same_size(store: Store) -> None:
    _unlinked(store, b"ev" * 1000)


def hard_link_replaced_by_a_copy(store: Store) -> None:
    _unlinked(store, b"su" * 1000)


def two_files_made_one(store: Store) -> None:
    path = store.at("etc/passwd")

    def replace() -> None:
        path.unlink()
        path.hardlink_to(store.at("etc/gone"))

    kept_times(path.parent, replace)


def device_swapped(store: Store) -> None:
    path = store.at("dev/null")
    before = path.stat()

    def swap() -> None:
        path.unlink()
        os.mknod(path, before.st_mode, os.makedev(1, 1))
        path.chmod(stat.S_IMODE(before.st_mode))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    kept_times(path.parent, swap)


def device_replaced_by_a_file(store: Store) -> None:
    store.at("dev/null").unlink()
    store.at("dev/null").write_bytes(b"")


def file_replaced_by_a_device(store: Store) -> None:
    store.at("etc/passwd").unlink()
    os.mknod(store.at("etc/passwd"), stat.S_IFCHR | 0o644, os.makedev(1, 5))


def file_replaced_by_a_pipe(store: Store) -> None:
    store.at("bin/tool").unlink()
    os.mkfifo(store.at("bin/tool"))


def file_replaced_by_a_link_to_the_host(store: Store) -> None:
    store.at("etc/passwd").unlink()
    store.at("etc/passwd").symlink_to("/etc/passwd")


def folder_replaced_by_a_link(store: Store) -> None:
    store.at("bin").rename(store.at("bin2"))
    store.at("bin").symlink_to("bin2")


def whiteout_removed(store: Store) -> None:
    kept_times(store.at("etc", 1), store.at("etc/gone", 1).unlink)


def whiteout_replaced_by_a_file(store: Store) -> None:
    def replace() -> None:
        store.at("etc/gone", 1).unlink()
        store.at("etc/gone", 1).write_bytes(b"back")

    kept_times(store.at("etc", 1), replace)


def whiteout_added(store: Store) -> None:
    kept_times(store.at("etc", 1), lambda: os.mknod(store.at("etc/empty", 1), stat.S_IFCHR, os.makedev(0, 0)))


def opaque_mark_removed(store: Store) -> None:
    os.removexattr(store.at("opaque", 1), "trusted.overlay.opaque")


def opaque_mark_added(store: Store) -> None:
    os.setxattr(store.at("etc", 1), "trusted.overlay.opaque", b"y")


def redirect_planted(store: Store) -> None:
    os.setxattr(store.at("etc", 1), "trusted.overlay.redirect", b"/opaque")


def metacopy_planted(store: Store) -> None:
    os.setxattr(store.at("etc/passwd", 1), "trusted.overlay.metacopy", b"")


def whiteout_mark_planted(store: Store) -> None:
    os.setxattr(store.at("etc/empty"), "trusted.overlay.whiteout", b"")


def layer_replaced_by_a_link(store: Store) -> None:
    shutil.move(store.at(""), store.root / "moved")
    store.at("").symlink_to(store.root / "moved")


def root_writable_for_all_users(store: Store) -> None:
    store.at("").chmod(0o777)


OF_FILES: Final[dict[Manipulation, tuple[DifferenceKind, str]]] = {
    content_of_the_same_size: (DifferenceKind.CONTENT, "bin/tool"),
    content_in_a_folder_without_entries: (DifferenceKind.CONTENT, "usr/lib/deep/file"),
    content_of_a_long_name: (DifferenceKind.CONTENT, LONG),
    content_of_a_name_that_is_no_utf8: (DifferenceKind.CONTENT, "etc/caf\\xe9"),
    content_in_an_upper_layer: (DifferenceKind.CONTENT, "app"),
    grown: (DifferenceKind.SIZE, "bin/tool"),
    shortened: (DifferenceKind.SIZE, "bin/tool"),
    deleted: (DifferenceKind.MISSING, "bin/tool"),
    empty_one_deleted: (DifferenceKind.MISSING, "etc/empty"),
    empty_one_filled: (DifferenceKind.SIZE, "etc/empty"),
    permissions_changed: (DifferenceKind.MODE, "bin/tool"),
    setuid_added: (DifferenceKind.MODE, "bin/tool"),
    setgid_added: (DifferenceKind.MODE, "bin/tool"),
    setuid_dropped: (DifferenceKind.MODE, "bin/su"),
    sticky_dropped_from_a_folder: (DifferenceKind.MODE, "opaque"),
    owner_changed: (DifferenceKind.OWNER, "etc/passwd"),
    group_changed: (DifferenceKind.OWNER, "etc/passwd"),
    owner_of_a_link_changed: (DifferenceKind.OWNER, "lib"),
    mtime_changed: (DifferenceKind.MTIME, "bin/tool"),
    nanoseconds_changed: (DifferenceKind.MTIME, LONG),
    capability_removed: (DifferenceKind.CAPABILITY, "bin/ping"),
    capability_widened: (DifferenceKind.CAPABILITY, "bin/ping"),
    capability_for_another_root: (DifferenceKind.CAPABILITY, "bin/ping"),
    capability_added: (DifferenceKind.CAPABILITY, "bin/tool"),
    attribute_added: (DifferenceKind.XATTR, "bin/tool"),
    attribute_of_a_folder_without_an_entry: (DifferenceKind.XATTR, "usr/lib"),
    setuid_file_planted: (DifferenceKind.EXTRA, "bin/evil"),
    file_planted_in_the_root: (DifferenceKind.EXTRA, "evil"),
    file_planted_in_a_folder_without_an_entry: (DifferenceKind.EXTRA, "usr/lib/evil"),
    file_planted_under_an_opaque_folder: (DifferenceKind.EXTRA, "opaque/evil"),
    folder_planted: (DifferenceKind.EXTRA, "etc/evil"),
    socket_planted: (DifferenceKind.EXTRA, "etc/evil"),
    link_retargeted: (DifferenceKind.LINK, "lib"),
    link_deleted: (DifferenceKind.MISSING, "lib"),
    hard_link_replaced_by_another_file: (DifferenceKind.HARDLINK, "bin/su2"),
    hard_link_replaced_by_a_file_of_the_same_size: (DifferenceKind.HARDLINK, "bin/su2"),
    hard_link_replaced_by_a_copy: (DifferenceKind.HARDLINK, "bin/su2"),
    two_files_made_one: (DifferenceKind.HARDLINK, "etc/gone"),
    device_swapped: (DifferenceKind.DEVICE, "dev/null"),
    device_replaced_by_a_file: (DifferenceKind.TYPE, "dev/null"),
    file_replaced_by_a_device: (DifferenceKind.TYPE, "etc/passwd"),
    file_replaced_by_a_pipe: (DifferenceKind.TYPE, "bin/tool"),
    file_replaced_by_a_link_to_the_host: (DifferenceKind.TYPE, "etc/passwd"),
    folder_replaced_by_a_link: (DifferenceKind.TYPE, "bin"),
    whiteout_removed: (DifferenceKind.WHITEOUT, "etc/gone"),
    whiteout_replaced_by_a_file: (DifferenceKind.WHITEOUT, "etc/gone"),
    whiteout_added: (DifferenceKind.WHITEOUT, "etc/empty"),
    opaque_mark_removed: (DifferenceKind.OPAQUE, "opaque"),
    opaque_mark_added: (DifferenceKind.OPAQUE, "etc"),
    redirect_planted: (DifferenceKind.XATTR, "etc"),
    metacopy_planted: (DifferenceKind.XATTR, "etc/passwd"),
    whiteout_mark_planted: (DifferenceKind.XATTR, "etc/empty"),
    layer_replaced_by_a_link: (DifferenceKind.METADATA, ""),
    root_writable_for_all_users: (DifferenceKind.MODE, ""),
}

"""More manipulations of a layer's files: content, planted files, modes, owners, times, attributes, marks of overlayfs."""

from __future__ import annotations

import os
import stat
from typing import Final

from boltseal.host.scrub.differences import DifferenceKind
from tests.attacks.scrub.file_changes import kept_times, rewritten
from tests.attacks.scrub.file_manipulations import Manipulation
from tests.attacks.scrub.image import ACL, CAPABILITY
from tests.attacks.scrub.stores import Store

_CAPABILITY = CAPABILITY.encode("latin-1")

# ---- content


def content_that_an_upper_layer_hides(store: Store) -> None:
    rewritten(store.at("etc/passwd"), b"evil:x:0:0\n")


def contents_of_two_files_exchanged(store: Store) -> None:
    rewritten(store.at("opaque/a"), b"b")
    rewritten(store.at("opaque/b"), b"a")


def blocks_replaced_by_a_hole(store: Store) -> None:
    path = store.at("bin/tool")
    before = path.stat()
    os.truncate(path, 0)
    os.truncate(path, before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def content_through_a_second_name(store: Store) -> None:
    rewritten(store.at("bin/su2"), b"us" * 1000)
    store.at("bin/su2").chmod(0o4755)


def two_files_exchanged(store: Store) -> None:
    def exchange() -> None:
        store.at("bin/tool").rename(store.at("bin/aside"))
        store.at("bin/ping").rename(store.at("bin/tool"))
        store.at("bin/aside").rename(store.at("bin/ping"))

    kept_times(store.at("bin"), exchange)


def renamed_to_other_case(store: Store) -> None:
    kept_times(store.at("etc"), lambda: _none(store.at("etc/passwd").rename(store.at("etc/Passwd"))))


# ---- planted files


def _planted(store: Store, name: str, layer: int = 0) -> None:
    path = store.at(name, layer)
    kept_times(path.parent, lambda: _none(path.write_bytes(b"evil")))


def file_with_a_line_end_in_its_name_planted(store: Store) -> None:
    _planted(store, "etc/evil\n")


def file_with_a_name_that_is_no_utf8_planted(store: Store) -> None:
    _planted(store, "etc/evil\udcff")


def file_with_a_name_that_looks_alike_planted(store: Store) -> None:
    _planted(store, "etc/p\u0430sswd")


def hidden_file_planted(store: Store) -> None:
    _planted(store, "etc/.evil")


def file_planted_over_one_of_a_lower_layer(store: Store) -> None:
    _planted(store, "etc/empty", 1)


def file_named_like_a_whiteout_planted(store: Store) -> None:
    _planted(store, "etc/.wh.passwd")


def setuid_program_linked_under_another_name(store: Store) -> None:
    kept_times(store.at("opaque"), lambda: store.at("opaque/evil").hardlink_to(store.at("bin/su")))


def tree_planted(store: Store) -> None:
    def plant() -> None:
        store.at("etc/evil/deep").mkdir(parents=True)
        store.at("etc/evil/deep/file").write_bytes(b"evil")

    kept_times(store.at("etc"), plant)


def disk_planted(store: Store) -> None:
    kept_times(store.at("dev"), lambda: os.mknod(store.at("dev/sda"), stat.S_IFBLK | 0o666, os.makedev(8, 0)))


def link_planted(store: Store) -> None:
    kept_times(store.at("etc"), lambda: store.at("etc/evil").symlink_to("/"))


# ---- modes, owners, times


def setgid_on_a_folder(store: Store) -> None:
    store.at("opaque", 1).chmod(0o3777)


def folder_writable_for_all_users(store: Store) -> None:
    store.at("etc", 1).chmod(0o777)


def readable_for_no_user(store: Store) -> None:
    store.at("bin/tool").chmod(0)


def sticky_file(store: Store) -> None:
    store.at("bin/tool").chmod(0o1755)


def mode_of_a_device(store: Store) -> None:
    store.at("dev/null").chmod(0o600)


def mode_of_a_pipe(store: Store) -> None:
    store.at("dev/pipe").chmod(0o666)


def mode_through_a_second_name(store: Store) -> None:
    store.at("bin/su2").chmod(0o6755)


def owner_of_a_folder(store: Store) -> None:
    os.chown(store.at("etc", 1), 1000, -1)


def owner_of_a_device(store: Store) -> None:
    os.chown(store.at("dev/null"), 1000, -1)


def owner_through_a_second_name(store: Store) -> None:
    os.chown(store.at("bin/su2"), 1000, -1)
    store.at("bin/su2").chmod(0o4755)


def owner_made_root(store: Store) -> None:
    os.chown(store.at("usr/lib/deep/file"), 0, 0)


def time_of_a_folder(store: Store) -> None:
    os.utime(store.at("bin"), (1, 1))


def time_of_a_link(store: Store) -> None:
    os.utime(store.at("lib"), (1, 1), follow_symlinks=False)


def time_before_1970(store: Store) -> None:
    os.utime(store.at("bin/tool"), (-5, -5))


# ---- attributes


def attribute_of_trusted_programs(store: Store) -> None:
    os.setxattr(store.at("bin/tool"), "trusted.evil", b"1")


def attribute_of_a_security_module(store: Store) -> None:
    os.setxattr(store.at("bin/tool"), "security.evil", b"1")


def attribute_of_a_folder(store: Store) -> None:
    os.setxattr(store.at("bin"), "user.evil", b"1")


def attribute_of_a_link(store: Store) -> None:
    os.setxattr(store.at("lib"), "trusted.evil", b"1", follow_symlinks=False)


def attribute_of_a_device(store: Store) -> None:
    os.setxattr(store.at("dev/null"), "trusted.evil", b"1")


def capability_through_a_second_name(store: Store) -> None:
    os.setxattr(store.at("bin/su2"), "security.capability", _CAPABILITY)


def attribute_through_a_second_name(store: Store) -> None:
    os.setxattr(store.at("bin/su2"), "user.evil", b"1")


def capability_made_effective(store: Store) -> None:
    os.setxattr(store.at("bin/ping"), "security.capability", bytes((_CAPABILITY[0] ^ 1, *_CAPABILITY[1:])))


def capability_moved_to_another_program(store: Store) -> None:
    value = os.getxattr(store.at("bin/ping"), "security.capability")
    os.removexattr(store.at("bin/ping"), "security.capability")
    os.setxattr(store.at("bin/tool"), "security.capability", value)


def list_of_a_file(store: Store) -> None:
    os.setxattr(store.at("bin/tool"), "system.posix_acl_access", ACL)


def list_through_a_second_name(store: Store) -> None:
    os.setxattr(store.at("bin/su2"), "system.posix_acl_access", ACL)
    store.at("bin/su2").chmod(0o4755)


def list_of_a_folder(store: Store) -> None:
    os.setxattr(store.at("bin"), "system.posix_acl_access", ACL)


def list_for_new_files_of_a_folder(store: Store) -> None:
    os.setxattr(store.at("bin"), "system.posix_acl_default", ACL)


# ---- marks of overlayfs


def whiteout_renamed(store: Store) -> None:
    kept_times(store.at("etc", 1), lambda: _none(store.at("etc/gone", 1).rename(store.at("etc/empty", 1))))


def whiteout_replaced_by_a_folder(store: Store) -> None:
    def replace() -> None:
        store.at("etc/gone", 1).unlink()
        store.at("etc/gone", 1).mkdir()

    kept_times(store.at("etc", 1), replace)


def whiteout_replaced_by_a_device(store: Store) -> None:
    def replace() -> None:
        store.at("etc/gone", 1).unlink()
        os.mknod(store.at("etc/gone", 1), stat.S_IFCHR, os.makedev(0, 1))

    kept_times(store.at("etc", 1), replace)


def whiteout_by_attributes_planted(store: Store) -> None:
    def plant() -> None:
        store.at("etc/empty", 1).touch()
        os.setxattr(store.at("etc/empty", 1), "trusted.overlay.whiteout", b"")

    kept_times(store.at("etc", 1), plant)
    os.setxattr(store.at("etc", 1), "trusted.overlay.opaque", b"x")


def whole_layer_hidden_by_a_whiteout(store: Store) -> None:
    os.mknod(store.at("bin", 1), stat.S_IFCHR, os.makedev(0, 0))


def opaque_mark_of_another_value(store: Store) -> None:
    os.setxattr(store.at("opaque", 1), "trusted.overlay.opaque", b"x")


def opaque_mark_of_a_user_namespace_added(store: Store) -> None:
    os.setxattr(store.at("etc", 1), "user.overlay.opaque", b"y")


def redirect_of_a_user_namespace_planted(store: Store) -> None:
    os.setxattr(store.at("etc", 1), "user.overlay.redirect", b"/opaque")


def _none(_: object) -> None:
    return None


MORE_OF_FILES: Final[dict[Manipulation, tuple[DifferenceKind, str]]] = {
    content_that_an_upper_layer_hides: (DifferenceKind.CONTENT, "etc/passwd"),
    contents_of_two_files_exchanged: (DifferenceKind.CONTENT, "opaque/a"),
    blocks_replaced_by_a_hole: (DifferenceKind.CONTENT, "bin/tool"),
    content_through_a_second_name: (DifferenceKind.CONTENT, "bin/su"),
    two_files_exchanged: (DifferenceKind.SIZE, "bin/tool"),
    renamed_to_other_case: (DifferenceKind.EXTRA, "etc/Passwd"),
    file_with_a_line_end_in_its_name_planted: (DifferenceKind.EXTRA, "etc/evil\\n"),
    file_with_a_name_that_is_no_utf8_planted: (DifferenceKind.EXTRA, "etc/evil\\xff"),
    file_with_a_name_that_looks_alike_planted: (DifferenceKind.EXTRA, "etc/p\\u0430sswd"),
    hidden_file_planted: (DifferenceKind.EXTRA, "etc/.evil"),
    file_planted_over_one_of_a_lower_layer: (DifferenceKind.EXTRA, "etc/empty"),
    file_named_like_a_whiteout_planted: (DifferenceKind.EXTRA, "etc/.wh.passwd"),
    setuid_program_linked_under_another_name: (DifferenceKind.EXTRA, "opaque/evil"),
    tree_planted: (DifferenceKind.EXTRA, "etc/evil"),
    disk_planted: (DifferenceKind.EXTRA, "dev/sda"),
    link_planted: (DifferenceKind.EXTRA, "etc/evil"),
    setgid_on_a_folder: (DifferenceKind.MODE, "opaque"),
    folder_writable_for_all_users: (DifferenceKind.MODE, "etc"),
    readable_for_no_user: (DifferenceKind.MODE, "bin/tool"),
    sticky_file: (DifferenceKind.MODE, "bin/tool"),
    mode_of_a_device: (DifferenceKind.MODE, "dev/null"),
    mode_of_a_pipe: (DifferenceKind.MODE, "dev/pipe"),
    mode_through_a_second_name: (DifferenceKind.MODE, "bin/su"),
    owner_of_a_folder: (DifferenceKind.OWNER, "etc"),
    owner_of_a_device: (DifferenceKind.OWNER, "dev/null"),
    owner_through_a_second_name: (DifferenceKind.OWNER, "bin/su"),
    owner_made_root: (DifferenceKind.OWNER, "usr/lib/deep/file"),
    time_of_a_folder: (DifferenceKind.MTIME, "bin"),
    time_of_a_link: (DifferenceKind.MTIME, "lib"),
    time_before_1970: (DifferenceKind.MTIME, "bin/tool"),
    attribute_of_trusted_programs: (DifferenceKind.XATTR, "bin/tool"),
    attribute_of_a_security_module: (DifferenceKind.XATTR, "bin/tool"),
    attribute_of_a_folder: (DifferenceKind.XATTR, "bin"),
    attribute_of_a_link: (DifferenceKind.XATTR, "lib"),
    attribute_of_a_device: (DifferenceKind.XATTR, "dev/null"),
    capability_through_a_second_name: (DifferenceKind.CAPABILITY, "bin/su"),
    attribute_through_a_second_name: (DifferenceKind.XATTR, "bin/su"),
    capability_made_effective: (DifferenceKind.CAPABILITY, "bin/ping"),
    capability_moved_to_another_program: (DifferenceKind.CAPABILITY, "bin/tool"),
    list_of_a_file: (DifferenceKind.XATTR, "bin/tool"),
    list_through_a_second_name: (DifferenceKind.XATTR, "bin/su"),
    list_of_a_folder: (DifferenceKind.XATTR, "bin"),
    list_for_new_files_of_a_folder: (DifferenceKind.XATTR, "bin"),
    whiteout_renamed: (DifferenceKind.WHITEOUT, "etc/gone"),
    whiteout_replaced_by_a_folder: (DifferenceKind.WHITEOUT, "etc/gone"),
    whiteout_replaced_by_a_device: (DifferenceKind.WHITEOUT, "etc/gone"),
    whiteout_by_attributes_planted: (DifferenceKind.EXTRA, "etc/empty"),
    whole_layer_hidden_by_a_whiteout: (DifferenceKind.WHITEOUT, "bin"),
    opaque_mark_of_another_value: (DifferenceKind.OPAQUE, "opaque"),
    opaque_mark_of_a_user_namespace_added: (DifferenceKind.OPAQUE, "etc"),
    redirect_of_a_user_namespace_planted: (DifferenceKind.XATTR, "etc"),
}

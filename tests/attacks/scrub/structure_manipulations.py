"""Manipulations of a layer's structure: types, links, folders without an entry, the layer's own folder, whole layers."""

from __future__ import annotations

import os
import shutil
import stat
import struct
from typing import Final

from boltseal.host.scrub.differences import DifferenceKind
from tests.attacks.scrub.file_manipulations import Manipulation
from tests.attacks.scrub.image import ACL
from tests.attacks.scrub.stores import Store

# ---- types


def _replaced(store: Store, name: str, layer: int = 0) -> None:
    path = store.at(name, layer)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def file_replaced_by_a_folder(store: Store) -> None:
    _replaced(store, "etc/passwd")
    store.at("etc/passwd").mkdir()


def folder_replaced_by_a_file(store: Store) -> None:
    _replaced(store, "opaque")
    store.at("opaque").write_bytes(b"")


def link_replaced_by_a_file(store: Store) -> None:
    _replaced(store, "lib")
    store.at("lib").write_bytes(b"usr/lib")


def link_replaced_by_a_folder(store: Store) -> None:
    _replaced(store, "lib")
    store.at("lib").mkdir()


def pipe_replaced_by_a_socket(store: Store) -> None:
    _replaced(store, "dev/pipe")
    os.mknod(store.at("dev/pipe"), stat.S_IFSOCK | 0o644)


def device_replaced_by_a_disk(store: Store) -> None:
    _replaced(store, "dev/null")
    os.mknod(store.at("dev/null"), stat.S_IFBLK | 0o666, os.makedev(1, 3))


def hard_link_replaced_by_a_symbolic_link(store: Store) -> None:
    _replaced(store, "bin/su2")
    store.at("bin/su2").symlink_to("su")


def file_linked_outside_of_the_store(store: Store) -> None:
    (store.root.parent / "outside").hardlink_to(store.at("bin/tool"))


def target_of_a_hard_link_replaced(store: Store) -> None:
    _replaced(store, "bin/su")
    store.at("bin/su").write_bytes(b"su" * 1000)


# ---- folders without an entry, and the layer's own folder


def folder_without_an_entry_writable_for_all_users(store: Store) -> None:
    store.at("usr/lib").chmod(0o777)


def folder_without_an_entry_given_away(store: Store) -> None:
    os.chown(store.at("usr/lib"), 1000, -1)


def group_of_a_folder_without_an_entry(store: Store) -> None:
    os.chown(store.at("usr/lib"), -1, 1000)


def list_of_a_folder_without_an_entry(store: Store) -> None:
    os.setxattr(store.at("usr/lib"), "system.posix_acl_access", ACL)


def folder_without_an_entry_replaced_by_a_link(store: Store) -> None:
    store.at("usr/lib").rename(store.at("usr/aside"))
    store.at("usr/lib").symlink_to("aside")


def folder_without_an_entry_replaced_by_a_file(store: Store) -> None:
    _replaced(store, "usr/lib")
    store.at("usr/lib").touch()


def folder_without_an_entry_deleted(store: Store) -> None:
    _replaced(store, "usr")


def root_given_away(store: Store) -> None:
    os.chown(store.at(""), 1000, -1)


def group_of_the_root(store: Store) -> None:
    os.chown(store.at(""), -1, 1000)


def list_of_the_root(store: Store) -> None:
    allowed = struct.pack(
        "<I" + "HHI" * 5, 2,
        *(0x01, 7, 0xFFFFFFFF), *(0x02, 7, 1000), *(0x04, 5, 0xFFFFFFFF), *(0x10, 7, 0xFFFFFFFF), *(0x20, 5, 0xFFFFFFFF),
    )  # fmt: skip
    os.setxattr(store.at(""), "system.posix_acl_access", allowed)


def list_for_new_files_of_the_root(store: Store) -> None:
    os.setxattr(store.at(""), "system.posix_acl_default", ACL)


def attribute_of_the_root(store: Store) -> None:
    os.setxattr(store.at(""), "user.evil", b"1")


def redirect_of_the_root(store: Store) -> None:
    os.setxattr(store.at("", 1), "trusted.overlay.redirect", b"/opaque")


def layer_emptied(store: Store) -> None:
    for path in store.at("").iterdir():
        _replaced(store, path.name)


def layer_removed(store: Store) -> None:
    shutil.rmtree(store.at(""))


def two_layers_exchanged(store: Store) -> None:
    first, second, aside = store.at("", 0), store.at("", 1), store.root / "aside"
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


OF_STRUCTURE: Final[dict[Manipulation, tuple[DifferenceKind, str]]] = {
    file_replaced_by_a_folder: (DifferenceKind.TYPE, "etc/passwd"),
    folder_replaced_by_a_file: (DifferenceKind.TYPE, "opaque"),
    link_replaced_by_a_file: (DifferenceKind.TYPE, "lib"),
    link_replaced_by_a_folder: (DifferenceKind.TYPE, "lib"),
    pipe_replaced_by_a_socket: (DifferenceKind.TYPE, "dev/pipe"),
    device_replaced_by_a_disk: (DifferenceKind.TYPE, "dev/null"),
    hard_link_replaced_by_a_symbolic_link: (DifferenceKind.HARDLINK, "bin/su2"),
    file_linked_outside_of_the_store: (DifferenceKind.HARDLINK, "bin/tool"),
    target_of_a_hard_link_replaced: (DifferenceKind.HARDLINK, "bin/su2"),
    folder_without_an_entry_writable_for_all_users: (DifferenceKind.MODE, "usr/lib"),
    folder_without_an_entry_given_away: (DifferenceKind.OWNER, "usr/lib"),
    group_of_a_folder_without_an_entry: (DifferenceKind.OWNER, "usr/lib"),
    list_of_a_folder_without_an_entry: (DifferenceKind.XATTR, "usr/lib"),
    folder_without_an_entry_replaced_by_a_link: (DifferenceKind.TYPE, "usr/lib"),
    folder_without_an_entry_replaced_by_a_file: (DifferenceKind.TYPE, "usr/lib"),
    folder_without_an_entry_deleted: (DifferenceKind.MISSING, "usr"),
    root_given_away: (DifferenceKind.OWNER, ""),
    group_of_the_root: (DifferenceKind.OWNER, ""),
    list_of_the_root: (DifferenceKind.XATTR, ""),
    list_for_new_files_of_the_root: (DifferenceKind.XATTR, ""),
    attribute_of_the_root: (DifferenceKind.XATTR, ""),
    redirect_of_the_root: (DifferenceKind.XATTR, ""),
    layer_emptied: (DifferenceKind.MISSING, "bin"),
    layer_removed: (DifferenceKind.MISSING, ""),
    two_layers_exchanged: (DifferenceKind.MISSING, "bin/tool"),
}

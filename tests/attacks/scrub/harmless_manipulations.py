"""Manipulations of a layer that change nothing that a container sees, each with the reason: none is a finding."""

from __future__ import annotations

import os
import shutil
from typing import Final

from tests.attacks.scrub.file_changes import kept_times, rewritten
from tests.attacks.scrub.file_manipulations import Manipulation
from tests.attacks.scrub.stores import Store


def access_time_changed(store: Store) -> None:
    path = store.at("bin/tool")
    os.utime(path, ns=(1, path.stat().st_mtime_ns))


def mode_changed_and_restored(store: Store) -> None:
    store.at("bin/tool").chmod(0o777)
    store.at("bin/tool").chmod(0o755)


def content_written_again(store: Store) -> None:
    rewritten(store.at("bin/tool"), store.at("bin/tool").read_bytes())


def file_replaced_by_an_equal_copy(store: Store) -> None:
    def replace() -> None:
        shutil.copy2(store.at("bin/tool"), store.at("bin/copy"))
        store.at("bin/copy").rename(store.at("bin/tool"))

    kept_times(store.at("bin"), replace)


def file_renamed_and_restored(store: Store) -> None:
    def rename() -> None:
        store.at("bin/tool").rename(store.at("bin/aside"))
        store.at("bin/aside").rename(store.at("bin/tool"))

    kept_times(store.at("bin"), rename)


def time_of_a_folder_without_an_entry(store: Store) -> None:
    os.utime(store.at("usr/lib"), (1, 1))


def time_of_the_root(store: Store) -> None:
    os.utime(store.at(""), (1, 1))


def owner_of_a_whiteout(store: Store) -> None:
    os.chown(store.at("etc/gone", 1), 1000, 1000)


def mode_of_a_whiteout(store: Store) -> None:
    store.at("etc/gone", 1).chmod(0o777)


def time_of_a_whiteout(store: Store) -> None:
    os.utime(store.at("etc/gone", 1), (1, 1))


def record_of_overlayfs_on_a_file(store: Store) -> None:
    os.setxattr(store.at("bin/tool"), "trusted.overlay.origin", b"")


def record_of_overlayfs_on_a_folder(store: Store) -> None:
    os.setxattr(store.at("bin"), "trusted.overlay.impure", b"y")


def label_of_the_host(store: Store) -> None:
    os.setxattr(store.at("bin/tool"), "security.selinux", b"system_u:object_r:container_file_t:s0\0")


def measurement_of_the_host(store: Store) -> None:
    os.setxattr(store.at("bin/tool"), "security.ima", b"\x04\x04" + bytes(32))


def capability_of_another_version(store: Store) -> None:
    value = os.getxattr(store.at("bin/ping"), "security.capability")
    os.setxattr(store.at("bin/ping"), "security.capability", value[:3] + b"\x03" + value[4:20] + bytes(4))


def opaque_mark_that_hides_nothing(store: Store) -> None:
    os.setxattr(store.at("bin"), "trusted.overlay.opaque", b"y")


HARMLESS: Final[dict[Manipulation, str]] = {
    access_time_changed: "engines do not keep access times, and reading changes them",
    mode_changed_and_restored: "only the change time differs, which no engine can set",
    content_written_again: "the content is the layer's",
    file_replaced_by_an_equal_copy: "only the inode number differs",
    file_renamed_and_restored: "nothing differs",
    time_of_a_folder_without_an_entry: "the layer has no time for it; the engine's is that of unpacking",
    time_of_the_root: "no entry of a layer gives it a time; the engine's is that of unpacking",
    owner_of_a_whiteout: "overlayfs shows no whiteout",
    mode_of_a_whiteout: "overlayfs shows no whiteout",
    time_of_a_whiteout: "overlayfs shows no whiteout",
    record_of_overlayfs_on_a_file: "overlayfs writes it itself and shows it to no program",
    record_of_overlayfs_on_a_folder: "overlayfs writes it itself and shows it to no program",
    label_of_the_host: "the host labels files by its own policy",
    measurement_of_the_host: "the host measures files by its own policy",
    capability_of_another_version: "the same capability; the kernel converts between versions",
    opaque_mark_that_hides_nothing: "overlayfs marks new folders so, and no lower layer has this one",
}

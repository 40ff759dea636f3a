"""Random changes of an unpacked layer, for the differential test: what root can do to one file, folder, link, device or mark.

A change is applied to one path of a layer's folder on disk, chosen by number among those of the right type. Whether it must be
found is not stated here: the container decides.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from tests.attacks.scrub.file_changes import kept_times, rewritten
from tests.attacks.scrub.image import ACL, CAPABILITY

Change = Callable[[Path], None]


# ---- changes of any file, folder, link or device


def nothing(_: Path) -> None:
    pass


def owner(path: Path) -> None:
    os.chown(path, 4242, -1, follow_symlinks=False)


def group(path: Path) -> None:
    os.chown(path, -1, 4242, follow_symlinks=False)


def time_by_a_second(path: Path) -> None:
    found = path.lstat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1_000_000_000), follow_symlinks=False)


def time_by_a_nanosecond(path: Path) -> None:
    found = path.lstat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1), follow_symlinks=False)


def access_time(path: Path) -> None:
    os.utime(path, ns=(1, path.lstat().st_mtime_ns), follow_symlinks=False)


def renamed(path: Path) -> None:
    kept_times(path.parent, lambda: _none(path.rename(path.with_name("evil"))))


def trusted_attribute(path: Path) -> None:
    os.setxattr(path, "trusted.evil", b"1", follow_symlinks=False)


def removed(path: Path) -> None:
    kept_times(path.parent, lambda: shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink())


def replaced_by_a_link(path: Path) -> None:
    removed(path)
    kept_times(path.parent, lambda: path.symlink_to("/proc/1/root/etc"))


def hidden_by_a_whiteout(path: Path) -> None:
    removed(path)
    kept_times(path.parent, lambda: os.mknod(path, stat.S_IFCHR, os.makedev(0, 0)))


# ---- changes of what has a mode


def setuid(path: Path) -> None:
    path.chmod(path.stat().st_mode ^ stat.S_ISUID)


def sticky(path: Path) -> None:
    path.chmod(path.stat().st_mode ^ stat.S_ISVTX)


def world_writable(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o002)


def mode_and_back(path: Path) -> None:
    before = path.stat().st_mode
    path.chmod(0o700)
    path.chmod(before)


def access_control_list(path: Path) -> None:
    os.setxattr(path, "system.posix_acl_access", ACL)


# ---- changes of files


def content(path: Path) -> None:
    rewritten(path, bytes(each ^ 1 for each in path.read_bytes()))


def content_written_again(path: Path) -> None:
    had_capability = "security.capability" in os.listxattr(path)
    if not had_capability:  # a write removes it
        mode = path.stat().st_mode
        rewritten(path, path.read_bytes())
        path.chmod(mode)


def grown(path: Path) -> None:
    rewritten(path, path.read_bytes() + b"x")


def capability(path: Path) -> None:
    os.setxattr(path, "security.capability", CAPABILITY.encode("latin-1").replace(b"\x04", b"\x80"))


def user_attribute(path: Path) -> None:
    os.setxattr(path, "user.evil", b"1")


def without_attributes(path: Path) -> None:
    for name in os.listxattr(path, follow_symlinks=False):
        if not name.startswith(("trusted.overlay.", "user.overlay.")):
            os.removexattr(path, name, follow_symlinks=False)


def copied(path: Path) -> None:
    """Replace a file by a copy that is equal in everything but its inode."""

    def replace() -> None:
        copy = path.with_name("copy")
        shutil.copy2(path, copy)
        found = path.stat()
        os.chown(copy, found.st_uid, found.st_gid)
        copy.chmod(found.st_mode)
        for name in os.listxattr(path):
            os.setxattr(copy, name, os.getxattr(path, name))
        os.utime(copy, ns=(found.st_atime_ns, found.st_mtime_ns))
        copy.rename(path)

    kept_times(path.parent, replace)


def linked_outside(path: Path) -> None:
    """Give a file a second name beside the layer's folder."""
    (_layer_of(path).parent.parent / f"outside-{path.stat().st_ino}").hardlink_to(path)


def second_name(path: Path) -> None:
    kept_times(path.parent, lambda: path.with_name("evil").hardlink_to(path))


# ---- changes of folders


def planted_file(path: Path) -> None:
    kept_times(path, lambda: _none((path / "evil").write_bytes(b"evil")))


def planted_empty_folder(path: Path) -> None:
    kept_times(path, (path / "evil").mkdir)


def planted_link(path: Path) -> None:
    kept_times(path, lambda: (path / "evil").symlink_to("/"))


def planted_socket(path: Path) -> None:
    kept_times(path, lambda: os.mknod(path / "evil", stat.S_IFSOCK | 0o666))


def planted_disk(path: Path) -> None:
    kept_times(path, lambda: os.mknod(path / "evil", stat.S_IFBLK | 0o666, os.makedev(8, 0)))


def planted_whiteout(path: Path) -> None:
    """Hide a name that lower layers often have."""
    if not os.path.lexists(path / "b"):
        kept_times(path, lambda: os.mknod(path / "b", stat.S_IFCHR, os.makedev(0, 0)))


def planted_file_where_a_lower_layer_has_one(path: Path) -> None:
    if not os.path.lexists(path / "a"):
        kept_times(path, lambda: _none((path / "a").write_bytes(b"evil")))


def default_access_control_list(path: Path) -> None:
    os.setxattr(path, "system.posix_acl_default", ACL)


def opaque(path: Path) -> None:
    os.setxattr(path, _mark(path, "opaque"), b"y")


def not_opaque(path: Path) -> None:
    if _mark(path, "opaque") in os.listxattr(path):
        os.removexattr(path, _mark(path, "opaque"))


def redirect(path: Path) -> None:
    os.setxattr(path, _mark(path, "redirect"), b"/a")


def marks_of_overlayfs(path: Path) -> None:
    """Set the marks that overlayfs leaves on folders it has written to, as in BuildKit's layers."""
    os.setxattr(path, _mark(path, "impure"), b"y")


def _mark(path: Path, name: str) -> str:
    """Return the attribute of a mark: overlayfs that a user without root mounts has marks of its own."""
    layer = next((each for each in (path, *path.parents) if each.name in ("diff", "fs")), path)
    return f"{'user' if layer.stat().st_uid else 'trusted'}.overlay.{name}"


# ---- changes of links, devices and whiteouts


def retargeted(path: Path) -> None:
    before = path.lstat()

    def replace() -> None:
        path.unlink()
        path.symlink_to("/proc/1/root/etc/shadow")
        os.chown(path, before.st_uid, before.st_gid, follow_symlinks=False)

    kept_times(path.parent, replace)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)


def other_device(path: Path) -> None:
    before = path.lstat()

    def replace() -> None:
        path.unlink()
        os.mknod(path, before.st_mode, os.makedev(1, 1))
        os.chown(path, before.st_uid, before.st_gid)
        path.chmod(stat.S_IMODE(before.st_mode))

    kept_times(path.parent, replace)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def whiteout_replaced_by_a_file(path: Path) -> None:
    removed(path)
    kept_times(path.parent, lambda: _none(path.write_bytes(b"back")))


# ---- changes beside a layer's folder, in stores that have a list of lower layers


def lower_layer_left_out(folder: Path) -> None:
    """Leave the first layer out of the list of lower layers."""
    lower = folder.with_name("lower")
    if lower.exists() and ":" in lower.read_text():
        lower.write_text(lower.read_text().partition(":")[2])


def linked_to_a_changed_copy(folder: Path) -> None:
    """Point the link by which the layer is mounted to a copy with one more file."""
    if folder.with_name("link").exists():
        link = folder.parent.with_name("l") / folder.with_name("link").read_text()
        link.unlink()
        link.symlink_to(_changed_copy(folder))


def linked_by_a_name_with_a_line_end(folder: Path) -> None:
    """Add a line end to the name of the link, and a link of that name to a copy with one more file."""
    name = folder.with_name("link")
    if name.exists():
        name.write_text(name.read_text() + "\n")
        (folder.parent.with_name("l") / name.read_text()).symlink_to(_changed_copy(folder))


def _changed_copy(folder: Path) -> Path:
    copy = folder.parent.parent.with_name(f"copy-{folder.parent.name}")
    subprocess.run(["cp", "-a", folder, copy], check=True)
    (copy / "evil").write_bytes(b"evil")
    return copy


def second_folder(folder: Path) -> None:
    """Plant a second folder, which Podman mounts below the first."""
    if folder.with_name("link").exists():
        folder.with_name("diff1").mkdir()
        (folder.with_name("diff1") / "evil").write_bytes(b"evil")


def _none(_: object) -> None:
    return None


def _layer_of(path: Path) -> Path:
    return next(
        each for each in path.parents if each.name in ("diff", "fs") or each.parent.parts[-2:] == ("vfs", "dir")
    )


# ---- which paths a change applies to


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _is_file(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode)


def _is_folder(found: os.stat_result) -> bool:
    return stat.S_ISDIR(found.st_mode)


def _is_link(found: os.stat_result) -> bool:
    return stat.S_ISLNK(found.st_mode)


def _is_device(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and not _is_whiteout(found)


def _has_mode(found: os.stat_result) -> bool:
    return not _is_link(found) and not _is_whiteout(found)


def _is_any(_: os.stat_result) -> bool:
    return True


def _is_layer(_: os.stat_result) -> bool:
    return False


CHANGES: dict[Change, Callable[[os.stat_result], bool]] = {
    **dict.fromkeys(
        (nothing, owner, group, time_by_a_second, time_by_a_nanosecond, access_time, renamed, trusted_attribute, removed,
         replaced_by_a_link, hidden_by_a_whiteout), _is_any,
    ),
    **dict.fromkeys((setuid, sticky, world_writable, mode_and_back, access_control_list), _has_mode),
    **dict.fromkeys(
        (content, content_written_again, grown, capability, user_attribute, without_attributes, copied, linked_outside,
         second_name), _is_file,
    ),
    **dict.fromkeys(
        (planted_file, planted_empty_folder, planted_link, planted_socket, planted_disk, planted_whiteout,
         planted_file_where_a_lower_layer_has_one, default_access_control_list, opaque, not_opaque, redirect,
         marks_of_overlayfs), _is_folder,
    ),
    retargeted: _is_link,
    other_device: _is_device,
    whiteout_replaced_by_a_file: _is_whiteout,
    **dict.fromkeys((lower_layer_left_out, linked_to_a_changed_copy, linked_by_a_name_with_a_line_end, second_folder), _is_layer),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Applied:
    """What was changed. `layer`: its number. `idle`: whether it may be found although no container sees it."""

    text: str
    layer: int = 0
    idle: bool = False


@dataclass(frozen=True, slots=True)
class RandomChange:
    """A change of one path of one layer. `layer`, `path`: numbers, taken modulo the number of layers and paths."""

    change: Change
    layer: int
    path: int

    def apply(self, folders: Sequence[Path]) -> Applied:
        """Change one of these layer folders."""
        number = self.layer % len(folders)
        folder = folders[number]
        applies = CHANGES[self.change]
        every = (each for each in sorted(folder.rglob("*")) if each.relative_to(folder).parts[0] != RUNTIME)
        paths = [each for each in every if applies(each.lstat())]
        if applies in (_is_folder, _has_mode, _is_layer) or self.change in (owner, group):
            paths.append(folder)
        if not paths:
            return Applied("nothing")
        path = paths[self.path % len(paths)]
        idle = self.change in IDLE or (path == folder and applies is not _is_layer) or _is_whiteout(path.lstat())
        idle = idle or (self.change is trusted_attribute and folder.stat().st_uid != 0)  # only root's containers see it
        self.change(path)
        return Applied(f"{self.change.__name__} of {str(path.relative_to(folder))!r}", number, idle)


RUNTIME = "bin"
"""The folder of the program that containers run, which is no part of the random layers; with vfs each layer has a copy."""
IDLE = frozenset({opaque, not_opaque, redirect, planted_whiteout, second_folder, linked_outside})
"""Changes of marks, which hide or redirect nothing where no lower layer has the name, or where the kernel or the engine ignores
them; and of names outside of the layer, by which its content can be changed later."""


def random_changes() -> st.SearchStrategy[RandomChange]:
    """Generate changes, each kind equally often."""
    return st.builds(
        RandomChange,
        st.sampled_from(sorted(CHANGES, key=lambda each: each.__name__)),
        st.integers(0, 5),
        st.integers(0, 60),
    )

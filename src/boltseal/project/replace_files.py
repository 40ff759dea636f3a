"""Several files get new texts: all of them or none, each one whole, and whatever they are reached by stays.

    1. Every file is still what it was when it was read, byte for byte. If not, nothing is written.
    2. Beside each, its new text is written, with its mode, owner and attributes (an ACL is one), and the old one gets a second name. Then all new
       ones are brought to the disk: one after the other that costs little, because the first takes the others along.
    3. The new ones are renamed over the files, each only if its file is still what it was: somebody's editor may have saved
       it meanwhile. If one is not, or can't be renamed over, the old ones are renamed back over those before it.
    4. The folders are brought to the disk, and what lies beside is taken away.

A file is replaced where it really lies, so a link that leads to it goes on leading to it. A second name of the same file
(a hard link) keeps the old text, and is told. What no program can promise is
that a power cut in the middle of 3 comes before or after all renames: each file is then old or new, none is half; running
the same again completes it. What then lies beside them (`.boltseal-...`) nobody needs any more.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from boltseal.errors import Unavailable
from boltseal.files.atomic_files import Disk
from boltseal.project.edits import FileEdit

_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FilesNotWritten(Unavailable):
    """The files could not be written. They are as they were, unless the message names some."""


class FileChanged(Unavailable):
    """A file is not any more what it was when it was read. Nothing was written."""


def replace_all(root: Path, changes: Sequence[FileEdit], disk: Disk = Disk()) -> tuple[str, ...]:  # noqa: B008 - it has no state
    """Put the new texts into the project at `root`; the files that have other names, which keep the old text.

    FileChanged, FilesNotWritten.
    """
    paths = [root / change.path for change in changes]
    for path, change in zip(paths, changes, strict=True):  # 1.
        _still(path, change)
    shared: list[str] = []
    mark = os.urandom(6).hex()
    beside: list[tuple[str, str]] = []
    replaced = 0
    try:
        for number, (path, change) in enumerate(zip(paths, changes, strict=True)):  # 2.
            # not with the file's own name in it, which may be as long as a name can be
            new, old = (os.fspath(path.with_name(f".boltseal-{mark}-{number}.{kind}")) for kind in ("new", "old"))
            beside.append((new, old))
            shared += [change.path] if path.stat().st_nlink > 1 else []
            _keep(disk, path, old, change.before.raw)
            _write(disk, new, change.after.raw, path)
        for new, _ in beside:
            _sync(disk, new)
        for path, change, (new, _) in zip(paths, changes, beside, strict=True):  # 3.
            _still(path, change)
            replaced += 1
            disk.rename(new, os.fspath(path))
        for folder in sorted({os.fspath(path.parent) for path in paths}):  # 4.
            disk.sync_folder(folder)
    except FileChanged as changed:
        told = _undo(disk, root, paths[:replaced], beside)
        raise FileChanged(f"{changed.message}; {told}") from changed
    except OSError as error:
        told = _undo(disk, root, paths[:replaced], beside)
        raise FilesNotWritten(f"the files can't be written: {error.strerror or error}; {told}") from error
    finally:
        for name in (name for pair in beside for name in pair):
            with suppress(OSError):
                disk.unlink(name)
    return tuple(shared)


def _still(path: Path, change: FileEdit) -> None:
    if _read(path) != change.before.raw:
        raise FileChanged(f"{change.path} was changed while it was worked on; run it again")


def _undo(disk: Disk, root: Path, paths: Sequence[Path], beside: Sequence[tuple[str, str]]) -> str:
    """Puts the old texts back; what became of the files, as a message ends."""
    kept: list[str] = []
    for path, (_, old) in zip(paths, beside, strict=False):
        try:
            disk.rename(old, os.fspath(path))
        except OSError:
            kept.append(path.relative_to(root).as_posix())
    return f"{', '.join(kept)} could not be put back, and may be new" if kept else "every file is as it was"


def _read(path: Path) -> bytes | None:
    try:
        fd = os.open(path, _READ)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    with os.fdopen(fd, "rb") as file:
        return file.read()


def _write(disk: Disk, name: str, content: bytes, like: Path) -> None:
    found = like.stat(follow_symlinks=False)
    fd = disk.create(name)
    try:
        if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
            with suppress(PermissionError):  # not ours to give away; the mode holds all the same
                os.fchown(fd, found.st_uid, found.st_gid)
        os.fchmod(fd, stat.S_IMODE(found.st_mode))
        _copy_attributes(fd, like)
        disk.append(fd, [content])
    finally:
        disk.close(fd)


def _copy_attributes(fd: int, like: Path) -> None:
    """An ACL, a label, what somebody noted; what the system does not let us set is left to it."""
    if sys.platform == "linux":
        with suppress(OSError):  # the file system knows none
            for name in os.listxattr(like, follow_symlinks=False):
                with suppress(OSError):
                    os.setxattr(fd, name, os.getxattr(like, name, follow_symlinks=False))


def _keep(disk: Disk, path: Path, old: str, content: bytes) -> None:
    """The file under a second name; a copy of it where the file system knows no second names."""
    try:
        disk.link(os.fspath(path), old)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _write(disk, old, content, path)


def _sync(disk: Disk, name: str) -> None:
    fd = disk.open_to_append(name)
    try:
        disk.sync(fd)
    finally:
        disk.close(fd)

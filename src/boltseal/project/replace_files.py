"""Replace several files together: all of them or none, each atomically, with links and file attributes preserved.

    1. Check that every file is still what was read, byte for byte. If not, write nothing.
    2. Write each new text beside its file, with the same mode, owner and attributes (ACLs among them), and hard-link
       the old file under a second name. Then fsync all new files: in sequence, as the first fsync flushes the others
       too.
    3. Rename the new files over the old ones, each only if its file is still unchanged: an editor may have saved it
       meanwhile. If one changed or can't be renamed, rename the old files back over those already replaced, but for
       files that were changed again.
    4. fsync the folders, and delete the files beside.

Step 3 holds the lock of the project's folder, and each comparison and rename that of the file's folder (`files.folder_lock`), so that
no other process of boltseal replaces a file in between, also one that edits another part of the project. Locks are taken from the
top down. A file is replaced at its real path, so links to it stay valid. Another hard link to the same file keeps the old
text, and the caller learns its name. A power cut during step 3 may leave some files old and some new, but none partial;
running the edit again completes it. The files left beside them (`.boltseal-...`) can then be deleted.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Final

from boltseal.errors import Unavailable
from boltseal.files.atomic_files import Disk
from boltseal.files.folder_lock import folder_locked
from boltseal.project.edits import FileEdit

_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FilesNotWritten(Unavailable):
    """The files could not be written. They are unchanged unless the message names some."""


class FileChanged(Unavailable):
    """A file changed after it was read. Nothing was written."""

    @classmethod
    def of(cls, name: str) -> FileChanged:
        """Return the error for a file that another program wrote meanwhile."""
        return cls(f"{name} changed while boltseal worked on it; run the command again")


def replace_all(root: Path, changes: Sequence[FileEdit], disk: Disk = Disk()) -> tuple[str, ...]:  # noqa: B008 - it has no state
    """Write the new texts into the project at `root`. Return the files with other hard links, which keep the old text.

    Raises: FileChanged: a file changed meanwhile. FilesNotWritten: the disk refused a write.
    """
    paths = [root / change.path for change in changes]
    for path, change in zip(paths, changes, strict=True):  # 1.
        _check_unchanged(path, change)
    shared: list[str] = []
    random = os.urandom(6).hex()
    temporary: list[tuple[str, str]] = []
    at = "a file"
    try:
        for number, (path, change) in enumerate(zip(paths, changes, strict=True)):  # 2.
            at = change.path
            # without the file's own name, which may already have the maximum length
            new, old = (os.fspath(path.with_name(f".boltseal-{random}-{number}.{kind}")) for kind in ("new", "old"))
            temporary.append((new, old))
            shared += [change.path] if path.stat().st_nlink > 1 else []
            _keep_old(disk, path, old, change.before.raw)
            _write(disk, new, change.after.raw, path)
        for new, _ in temporary:
            _sync(disk, new)
        with folder_locked(root):
            _rename(disk, root, changes, temporary)
    except OSError as error:
        raise FilesNotWritten(f"{at} can't be written: {error.strerror or error}; every file is unchanged") from error
    finally:
        for name in (name for pair in temporary for name in pair):
            with suppress(OSError):
                disk.unlink(name)
    return tuple(shared)


def _rename(disk: Disk, root: Path, changes: Sequence[FileEdit], temporary: Sequence[tuple[str, str]]) -> None:
    """Rename the new files over the old ones and sync the folders (steps 3 and 4), with the lock of `root`.

    Raises: FileChanged, FilesNotWritten.
    """
    replaced, at = 0, "a file"
    try:
        for change, (new, _) in zip(changes, temporary, strict=True):
            at, path = change.path, root / change.path
            with _folder_locked(root, path):
                _check_unchanged(path, change)
                replaced += 1
                disk.rename(new, os.fspath(path))
        for folder in sorted({os.fspath((root / change.path).parent) for change in changes}):
            disk.sync_folder(folder)
    except FileChanged as changed:
        outcome = _undo(disk, root, changes[:replaced], temporary)
        raise FileChanged(f"{changed.message}; {outcome}") from changed
    except OSError as error:
        outcome = _undo(disk, root, changes[:replaced], temporary)
        raise FilesNotWritten(f"{at} can't be written: {error.strerror or error}; {outcome}") from error


def _folder_locked(root: Path, path: Path) -> AbstractContextManager[None]:
    """Lock the folder of a file, for processes that edit it with another root; with the lock of `root`."""
    same = path.parent.samefile(root)  # also by a link, through which a second lock would wait for the first one
    return nullcontext() if same else folder_locked(path.parent)


def _check_unchanged(path: Path, change: FileEdit) -> None:
    if _read(path) != change.before.raw:
        raise FileChanged.of(change.path)


def _undo(disk: Disk, root: Path, replaced: Sequence[FileEdit], temporary: Sequence[tuple[str, str]]) -> str:
    """Rename the old files back. Return the end of an error message: which files could not be restored.

    A file that still has its old content needs no restoring: an immutable one refuses both renames. One that another program wrote
    after it was replaced keeps that content.
    """
    not_restored: list[str] = []
    for change, (_, old) in zip(replaced, temporary, strict=False):
        path = root / change.path
        restored = False
        with suppress(OSError), _folder_locked(root, path):
            if _read(path) == change.after.raw:
                disk.rename(old, os.fspath(path))
                restored = True
        if not restored and _read(path) != change.before.raw:
            not_restored.append(change.path)
    return (
        f"{', '.join(not_restored)} could not be restored and may be new" if not_restored else "every file is unchanged"
    )


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


def _write(disk: Disk, name: str, content: bytes, original: Path) -> None:
    status = original.stat(follow_symlinks=False)
    fd = disk.create(name)
    try:
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            with suppress(PermissionError):  # only root may change the owner; the mode is kept anyway
                os.fchown(fd, status.st_uid, status.st_gid)
        os.fchmod(fd, stat.S_IMODE(status.st_mode))
        _copy_attributes(fd, original)
        disk.append(fd, [content])
    finally:
        disk.close(fd)


def _copy_attributes(fd: int, original: Path) -> None:
    """Copy the extended attributes (ACLs, labels); skip those that the system does not allow this process to set."""
    if sys.platform == "linux":
        with suppress(OSError):  # the file system has no attributes
            for name in os.listxattr(original, follow_symlinks=False):
                with suppress(OSError):
                    os.setxattr(fd, name, os.getxattr(original, name, follow_symlinks=False))


def _keep_old(disk: Disk, path: Path, old: str, content: bytes) -> None:
    """Hard-link the old file under a second name, or copy it if the file system has no hard links."""
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

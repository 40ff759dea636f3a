"""Snapshots of a project's own files: read for the record of a release, and restored by a rollback.

The release's text already has their resolved content. The files are recorded for people, and to restore the project's
sources to the state of a release.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.deploy.compose_program import ProjectFiles
from boltseal.deploy.project_files import NoProject, project_folder
from boltseal.errors import BoltsealError, NotFound
from boltseal.lockfile.document import LOCK_NAME
from boltseal.lockfile.parse import parse_lock
from boltseal.project.edits import FileEdit
from boltseal.project.replace_files import replace_all
from boltseal.project.scan import scan_project
from boltseal.project.source_files import MAX_FILE_BYTES, ProjectTree, SourceFile

MAX_RECORDED_BYTES: Final = 16 * 1024 * 1024


class ProjectFileDenied(NoProject):
    """A file of a project belongs to another user, and can't be read by this one."""


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """The files' contents by their path relative to `root`; by absolute path for files outside of it."""

    root: Path
    files: Mapping[str, bytes]


def recorded_files(project: ProjectFiles) -> SourceSnapshot:
    """Return the files that define the project: Compose files, those they include or extend, and `.env` files.

    Files of `env_file` are not included: `settings_files` records them.

    Raises: NoProject: if a file can't be read, or they exceed MAX_RECORDED_BYTES.
    """
    root = project_folder(project).resolve()
    scanned = ProjectTree(root)
    inside = [file for file in project.files if file.resolve().is_relative_to(root)]
    scan_project(scanned, inside)
    files = {name: source.raw for name, source in scanned.texts().items()}
    for file in (*project.files, *project.env_files, project.directory / ".env"):
        raw = _raw(file)
        if raw is not None:
            real = file.resolve()
            name = real.relative_to(root).as_posix() if real.is_relative_to(root) else str(real)
            files[name] = raw
    if sum(map(len, files.values())) > MAX_RECORDED_BYTES:
        raise NoProject(
            f"the project's files are too large to record: expected at most {MAX_RECORDED_BYTES // 2**20} MiB"
        )
    return SourceSnapshot(root, files)


def _raw(file: Path) -> bytes | None:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NoProject(f"{file} can't be read: {error.strerror}") from error


def with_lock(root: Path, files: Mapping[str, bytes], lock: bytes | None) -> Mapping[str, bytes]:
    """Return the recorded files, and the release's lock if the lock in the project's own folder has other images.

    A lock in a parent folder also belongs to other projects and is left alone.
    """
    now = _raw(root / LOCK_NAME)
    if lock is None or now is None or _images(now) == _images(lock):
        return files
    return {**files, LOCK_NAME: lock}


def _images(lock: bytes) -> object:
    try:
        return {each.reference: each.digest for each in parse_lock(lock).images}
    except BoltsealError:
        return None


def changed_files(root: Path, files: Mapping[str, bytes]) -> Sequence[str]:
    """Return the recorded files whose content has changed since, or can't be read by this user."""
    return [name for name, raw in sorted(files.items()) if not _has(root / name, raw)]


def _has(path: Path, raw: bytes) -> bool:
    try:
        return content_now(path) == raw
    except ProjectFileDenied:
        return False


def writable(path: Path) -> bool:
    """Return whether this user can write a file again, so that it has the owner that it has now."""
    try:
        status, folder = path.stat(), path.parent
    except FileNotFoundError:
        status, folder = None, next(each for each in path.parents if each.exists())
    except OSError:
        return False
    own = status is None or os.geteuid() in (0, status.st_uid)
    return own and os.access(folder, os.W_OK | os.X_OK)


def content_now(path: Path) -> bytes | None:
    """Return the content of a file that a release names; None if there is no regular file, or a larger one than is recorded.

    A release may come from an engine that lies: its names may be those of devices or pipes. Raises: ProjectFileDenied, NoProject.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        denied = isinstance(error, PermissionError)
        raise (ProjectFileDenied if denied else NoProject)(f"{path} can't be read: {error.strerror}") from error
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        raw = file.read(MAX_FILE_BYTES + 1)
    return raw if len(raw) <= MAX_FILE_BYTES else None


def restore_files(root: Path, before: Mapping[str, bytes | None], files: Mapping[str, bytes]) -> None:
    """Write files of the project again, by their names in `before`: all of them or none. `before`: what they were when read.

    Raises: NotFound: if a file is gone or outside the project; FileChanged, FilesNotWritten.
    """
    changes = []
    for name, now in before.items():
        if now is None or Path(name).is_absolute():
            raise NotFound(f"{name} is no longer in the project: no file was restored; restore it by hand")
        changes.append(FileEdit(SourceFile(name, "", now), SourceFile(name, "", files[name])))
    replace_all(root.resolve(), changes)

"""A project's own files, read as they are for the record of a release, and put back as they were.

What they say is in the release's text already, as Compose resolved it; they are recorded for people, and for a project that is
to say again what it said then.
"""

from __future__ import annotations

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


class FilesGone(NotFound):
    """A recorded file has no place any more to which it could be put back."""


@dataclass(frozen=True, slots=True)
class SourceSnapshot:
    """The files as they are, by their path in the project; those outside of it by their whole path."""

    root: Path
    files: Mapping[str, bytes]


def recorded_files(project: ProjectFiles) -> SourceSnapshot:
    """Every file that says something of the project: Compose files, what they include or extend, and `.env`s.

    The files of `env_file` are not among them: what they say is in the project as Compose resolved it.
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
        raise NoProject(f"the project's files have more than {MAX_RECORDED_BYTES // 2**20} MiB; that is no project")
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
    """The recorded files and the release's lock, if the project has one in its own folder that says something else of images.

    One in a folder above is other projects' too, and stays.
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
    """The recorded files of the project that are not any more what was recorded."""
    return [name for name, raw in sorted(files.items()) if _raw(root / name) != raw]


def restore_files(root: Path, files: Mapping[str, bytes], names: Sequence[str]) -> None:
    """Write these recorded files into the project again: all of them or none. FileChanged, FilesNotWritten, FilesGone.

    A file that is not there any more, or that is not in the project, is not made: it is told.
    """
    changes = []
    for name in names:
        now = None if Path(name).is_absolute() else _raw(root / name)
        if now is None:
            raise FilesGone(f"{name} is not in the project any more; nothing was put back: bring it back by hand")
        changes.append(FileEdit(SourceFile.of(name, now), SourceFile.of(name, files[name])))
    replace_all(root.resolve(), changes)

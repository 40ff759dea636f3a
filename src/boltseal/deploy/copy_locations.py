"""Finds or makes the copy of a file that a service mounts: this administrator's own, or one that another administrator made.

Copies are equal if owner, mode and content are: then no container is replaced, independent of who deploys.

1. A file that this user can read: its copy in the own folder. If it can't be made with the file's owner, one that a release mounts.
2. A file that only another user can read is taken from the record of what runs, if the file has not changed since: its ctime and that
   of the folders that lead to it, which only the clock of the machine sets, are older than the deploy that recorded it. Those are the
   folders below the project's, and behind links those that do not contain it.
3. An engine on another machine can't read this user's folder, nor can an engine of a user without root read root's. For it nothing
   is copied: a file with the recorded content is mounted from where the release that recorded it mounts it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.deploy.compose_model import is_copy, mounted_files
from boltseal.deploy.mounted_copies import FileDenied, MountedFile, read_mounted, recorded_files
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import Release, ReleaseInvalid, last_good
from boltseal.engines.address import EngineAddress

CLOCK_US: Final = 50_000
"""How much later than the ctime of a file the clock may be: the kernel's time for files moves in steps."""


@dataclass(frozen=True, slots=True)
class CopyLocations:
    """Where the files of one project's services are mounted from. `local`: whether the engine reads this user's copies."""

    folder: ReleaseFolder
    local: bool = True

    def of_file(self, path: Path) -> Path:
        """Return the copy of a file of the project, or the file if it is not copied.

        Raises: FileDenied; ReleaseInvalid: it can't be read.
        """
        if is_copy(path):
            return self.of_copy(path)
        if not self.local:
            return self._on_engine(path) or path
        try:
            file = read_mounted(path)
        except FileDenied as error:
            file = self.unread(path)
            if file is None:
                raise _denied(path) from error
        return path if file is None else self._copy(file)

    def of_copy(self, path: Path) -> Path:
        """Return an own copy that is equal to a recorded one, or the recorded one if it can't be made."""
        own = self.folder.copy_named(path.name) if self.local else path
        if own is not None:
            return own
        equal = (each for each in self._recorded() if each.name == path.name and each.can_be_made)
        file = next(equal, None)
        return path if file is None else self.folder.make_copy(file)

    def unread(self, path: Path) -> MountedFile | None:
        """Return the recorded content of a file that this user can't read; None if it may have changed since."""
        last = last_good(self.folder.all())
        first = None if last is None else self._origin(last)
        if last is None or first is None:
            return None
        file, root = self._file_of(last, path), Path(last.directory)
        try:
            status = path.lstat()
            real, root_real = Path(os.path.realpath(path)), root.resolve()
            below = {*path.parents, *real.parents} - {root, *root.parents, root_real, *root_real.parents}
            folders = [each.lstat() for each in below]
        except OSError:
            return None
        changed_us = max(each.st_ctime_ns for each in (status, *folders)) // 1000
        seen = ((status.st_uid, status.st_gid), stat.S_IMODE(status.st_mode), status.st_size)
        if file is None or not stat.S_ISREG(status.st_mode) or seen != (file.owner, file.mode, len(file.content)):
            return None
        return file if changed_us < first.started_us - CLOCK_US else None

    def _copy(self, file: MountedFile) -> Path:
        own = self.folder.copy_named(file.name)
        other = None if own is not None or file.can_be_made else self._elsewhere(file.name)
        return own or other or self.folder.make_copy(file)

    def _on_engine(self, path: Path) -> Path | None:
        """Return the copy that the running release mounts, if it is that of a file with this content."""
        last = last_good(self.folder.all())
        file = None if last is None else self._file_of(last, path)
        if file is None:
            return None
        try:
            present = read_mounted(path)
        except ReleaseInvalid:
            return None
        same = present is not None and present.content == file.content
        return self._elsewhere(file.name) if same else None

    def _file_of(self, release: Release, path: Path) -> MountedFile | None:
        name = Path(path.name) if not path.is_absolute() else path
        for folder in (Path(release.directory), Path(release.directory).resolve()):
            if name.is_relative_to(folder):
                name = name.relative_to(folder)
                break
        found = dict(recorded_files(self.folder.contents(release.number)))
        return found.get(name.as_posix())

    def _origin(self, release: Release) -> Release | None:
        """Return the deploy that recorded the files of a release, which a rollback takes over. None if it is not known."""
        by_number = {each.number: each for each in self.folder.all()}
        found: Release | None = release
        while found is not None and found.of is not None:
            found = by_number.get(found.of) if found.of < found.number else None
        return found

    def _recorded(self) -> Iterator[MountedFile]:
        for stored in reversed(self.folder.stored()):
            if stored.contents is not None:
                yield from (file for _, file in recorded_files(stored.contents))

    def _elsewhere(self, name: str) -> Path | None:
        """Return where a release mounts a copy from."""
        for stored in reversed(self.folder.stored()):
            if stored.contents is not None and name.encode() in stored.contents.compose:
                for path in mounted_files(json.loads(stored.contents.compose)):
                    if path.name == name and is_copy(path):
                        return path
        return None


def reads_copies(address: EngineAddress) -> bool:
    """Return whether an engine can read copies of this user: it runs on this machine, as root or as this user."""
    if address.scheme != "unix":
        return False
    try:
        owner = os.stat(address.path).st_uid  # noqa: PTH116 - a string
    except OSError:  # the connection has the cause
        return True
    return owner in (0, os.geteuid())


def _denied(path: Path) -> FileDenied:
    return FileDenied(
        f"{path}, which a service mounts, can't be read by this user, and what runs has no record of its present content; deploy as a "
        "user who can read it"
    )

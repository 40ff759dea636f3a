"""Copies of files that become secrets and configs. Containers mount the copies, so that an edit of the file changes no release.

    FOLDER/HEX      HEX: the SHA-256 of a line with owner, group and mode, and of the content

A copy has the file's owner and mode, since containers see them. Each administrator has copies in a folder of their own; a release
records content, owner and mode, so that another administrator can make an equal copy. Without root that is possible only
for files of this user: of other files the copy is used where it was made, which the engine can read.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.deploy.releases import ReleaseContents, ReleaseInvalid
from boltseal.files.atomic_files import Disk, write_file

MAX_CONTENT_BYTES: Final = 64 * 1024 * 1024
CONTENT_FOLDER: Final = "content"
"""The name of the folder with copies."""


class FileDenied(ReleaseInvalid):
    """A file that a service mounts belongs to another user, and can't be read by this one."""


@dataclass(frozen=True, slots=True)
class MountedFile:
    """A file with what a container sees of it. `owner`: user and group."""

    content: bytes
    owner: tuple[int, int]
    mode: int

    @property
    def name(self) -> str:
        """The name of its copies."""
        line = f"{self.owner[0]}:{self.owner[1]}:{self.mode:o}\n"
        return hashlib.sha256(line.encode() + self.content).hexdigest()

    @property
    def can_be_made(self) -> bool:
        """Whether this user can make a file with this owner."""
        return os.geteuid() == 0 or (self.owner[0] == os.geteuid() and self.owner[1] in {os.getegid(), *os.getgroups()})


def read_mounted(path: Path) -> MountedFile | None:
    """Return a file that services mount; None if it is not a regular file of at most MAX_CONTENT_BYTES.

    Raises: FileDenied; ReleaseInvalid: it can't be read for another reason.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        denied = isinstance(error, PermissionError)
        raise (FileDenied if denied else ReleaseInvalid)(
            f"{path}, which a service mounts, can't be read: {error.strerror}"
        ) from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_CONTENT_BYTES:
        os.close(fd)
        return None
    with os.fdopen(fd, "rb") as file:
        content = file.read(MAX_CONTENT_BYTES + 1)
    return MountedFile(content, (status.st_uid, status.st_gid), stat.S_IMODE(status.st_mode))


def recorded_files(contents: ReleaseContents) -> Iterator[tuple[str, MountedFile]]:
    """Yield the files of a release whose owners it has recorded, by their names in the project."""
    for name, owner in contents.owners.items():
        if name in contents.files and name in contents.modes:
            yield name, MountedFile(contents.files[name], owner, contents.modes[name])


@dataclass(frozen=True, slots=True)
class MountedCopies:
    """The copies in one folder, which exists. Its methods raise OSError."""

    folder: Path
    disk: Disk

    def at(self, name: str) -> Path | None:
        """Return the path of a copy, None if there is none."""
        path = self.folder / name
        return path if path.exists() else None

    def make(self, file: MountedFile) -> Path:
        """Make a copy. Without root it belongs to this user."""
        made = self.folder / file.name
        if not made.exists():
            write_file(self.disk, made, file.content, file.mode, whatever_umask=True, owner=file.owner)
        return made

    def prune(self, texts: Iterable[bytes]) -> None:
        """Delete copies to which none of these texts refers."""
        named = b"".join(texts)
        for copy in self.folder.glob("*"):
            if copy.name.encode() not in named:
                copy.unlink()

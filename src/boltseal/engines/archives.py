"""Image layouts and archives as named files: `oci-layout`, `index.json`, `blobs/...`, `manifest.json`.

A folder is read in place. An archive (plain tar) is scanned once for the names in it; its files are then read in place,
and nothing is extracted. Links within an archive are followed by name, a few times, as `docker load` does.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from boltseal.engines.safe_open import SafeFolder, StoreMalformed, StoreMissing, explained
from boltseal.errors import quote

MAX_MEMBERS: Final = 200_000
MAX_LINKS: Final = 8
MAX_EXTENSION_BYTES: Final = 1024 * 1024
MAX_NAME_BYTES: Final = 4096
"""The longest path. All names of an archive are held in memory."""
_BLOCK: Final = 512
_HOP_KINDS: Final = (b"1", b"2")


@dataclass(frozen=True, slots=True)
class FileLocation:
    """Where a named file is: the file below the root, offset, and size in bytes (-1: all of it)."""

    file: bytes
    start: int = 0
    size: int = -1


class NamedFiles(Protocol):
    """Files by name, in a folder or an archive. Raises: StoreMissing, StoreUnreadable, StoreMalformed."""

    root: Path

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""

    def read(self, name: str, limit: int) -> bytes:
        """Return the content of a small file."""

    def place(self, name: str) -> FileLocation:
        """Return the location of a file, for readers of large ones."""


class LayoutFolder:
    """A layout in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files = SafeFolder(root)

    def has(self, name: str) -> bool:
        return self._files.exists(name.encode())

    def read(self, name: str, limit: int) -> bytes:
        return self._files.read(name.encode(), limit)

    def place(self, name: str) -> FileLocation:
        return FileLocation(name.encode())


class ArchiveFile:
    """A layout in a tar archive."""

    def __init__(self, file: Path) -> None:
        self.root = file.absolute().parent
        self._name = os.fsencode(file.name)
        self._files = SafeFolder(self.root)
        with self._files.opened(self._name) as fd:
            try:
                self._members = _members(fd, str(file))
            except OSError as error:
                raise explained(error, str(file)) from error

    def has(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str, limit: int) -> bytes:
        place = self.place(name)
        if place.size > limit:
            raise StoreMalformed(f"{quote(name)} in the archive is too large (expected at most {limit} bytes)")
        with self._files.opened(self._name) as fd:
            return os.pread(fd, place.size, place.start)

    def place(self, name: str) -> FileLocation:
        at = posixpath.normpath(name)
        for _ in range(MAX_LINKS):
            member = self._members.get(at)
            if member is None:
                break
            if member.kind not in _HOP_KINDS:
                return FileLocation(self._name, member.start, member.size)
            base = posixpath.dirname(at) if member.kind == b"2" else ""
            at = posixpath.normpath(posixpath.join(base, member.link))
        raise StoreMissing(f"{quote(name)} is not in the archive {quote(os.fsdecode(self._name))}")


@dataclass(frozen=True, slots=True)
class _Member:
    start: int
    size: int
    kind: bytes
    link: str


def open_image_files(path: Path) -> NamedFiles:
    """Open a layout folder or an archive. Raises: StoreMissing."""
    if path.is_dir():
        return LayoutFolder(path)
    if path.exists():
        return ArchiveFile(path)
    raise StoreMissing(f"{quote(str(path), 200)[1:-1]} does not exist")


def _members(fd: int, title: str) -> dict[str, _Member]:
    """Return the files of a tar by name; of duplicates the last one, which extraction would leave."""
    found: dict[str, _Member] = {}
    size, at = os.fstat(fd).st_size, 0
    long_name = long_link = None
    while at + _BLOCK <= size:
        block = os.pread(fd, _BLOCK, at)
        at += _BLOCK
        if not any(block):
            break
        kind, stored = block[156:157], _number(block[124:136], title)
        if kind in (b"x", b"g", b"L", b"K"):
            if stored > MAX_EXTENSION_BYTES:
                raise StoreMalformed(f"{title}: an extended header of {stored} bytes")
            data = os.pread(fd, stored, at)
            if kind == b"x":
                records = _records(data)
                long_name, long_link = records.get(b"path", long_name), records.get(b"linkpath", long_link)
            elif kind in (b"L", b"K"):
                text = data.split(b"\0", 1)[0]
                long_name, long_link = (text, long_link) if kind == b"L" else (long_name, text)
        else:
            prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
            short = block[:100].split(b"\0", 1)[0]
            name = long_name or (prefix + b"/" + short if prefix else short)
            link = long_link or block[157:257].split(b"\0", 1)[0]
            _bounded(max(len(name), len(link)), title)
            if at + stored > size:
                raise StoreMalformed(
                    f"{title} is truncated: {quote(os.fsdecode(name))} is longer than the rest of the archive"
                )
            if kind in (b"0", b"\0", *_HOP_KINDS):
                member = _Member(at, stored, kind, os.fsdecode(link))
                found[posixpath.normpath(os.fsdecode(name))] = member
            long_name = long_link = None
            if len(found) > MAX_MEMBERS:
                raise StoreMalformed(f"{title} holds more than {MAX_MEMBERS} files")
        at += (stored + _BLOCK - 1) // _BLOCK * _BLOCK
    return found


def _bounded(size: int, title: str) -> None:
    if size > MAX_NAME_BYTES:
        raise StoreMalformed(f"{title}: a name of {size} bytes; paths have at most {MAX_NAME_BYTES}")


def _records(data: bytes) -> dict[bytes, bytes]:
    """Parse PAX records, up to the first malformed one."""
    records: dict[bytes, bytes] = {}
    while data:
        length, space, _ = data.partition(b" ")
        if not space or not length.isdigit() or not len(length) < int(length) <= len(data) or len(length) > 9:
            break
        key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        records[key] = value
        data = data[int(length) :]
    return records


def _number(field: bytes, title: str) -> int:
    try:
        value = int.from_bytes(field[1:]) if field[0] & 0x80 else int(field.strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise StoreMalformed(f"{title} is not an uncompressed tar archive") from error
    if not 0 <= value < 1 << 62:
        raise StoreMalformed(f"{title}: a file of {value} bytes")
    return value

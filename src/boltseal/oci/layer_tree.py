"""The files of an image, as its layers write and delete them (image-spec "layer.md"). Pure.

A layer is a list of changes. Its deletions apply to the layers below it only, so they are applied before its files.
Times are not part of a file's state: a rebuild changes them all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from boltseal.errors import Invalid, quote

MAX_FILES: Final = 1_000_000
"""Maximum number of files of an image; at about 500 bytes each."""
MAX_PATH_BYTES: Final = 256 * 1024 * 1024
"""Maximum length of all their paths together."""
MAX_LINKS: Final = 40
"""Maximum number of symbolic links that a look-up follows, as in the kernel."""


class TreeUnsuitable(Invalid):
    """Layers that no image of this size can have, or that refer to a missing file."""


class FileKind(StrEnum):
    """The kind of a file."""

    REGULAR = "file"
    FOLDER = "folder"
    SYMLINK = "symbolic link"
    SPECIAL = "device or pipe"


class FileState(NamedTuple):
    """A file without its name and times. `owner`: user and group.

    `content`: a hash of a regular file's bytes; the target of a symbolic link; the numbers of a device. `attributes`: a hash
    of the extended attributes, b"" for none.
    """

    kind: FileKind
    mode: int = 0
    owner: tuple[int, int] = (0, 0)
    content: bytes = b""
    attributes: bytes = b""


IMPLIED_FOLDER: Final = FileState(FileKind.FOLDER, 0o755)
"""A folder that no entry of a layer describes."""


class ChangeKind(StrEnum):
    """What an entry of a layer does at its path."""

    WRITE = "write"
    LINK = "link"
    DELETE = "delete"
    CLEAR = "clear"


class LayerChange(NamedTuple):
    """One entry of a layer. `path`: relative to the image's root, without empty or dotted parts; b"" for the root.

    `file`: what a WRITE writes. `target`: the path of the other name of a hard link (LINK). DELETE is a whiteout, CLEAR an
    opaque folder.
    """

    kind: ChangeKind
    path: bytes
    file: FileState = IMPLIED_FOLDER
    target: bytes = b""


class LayerTree:
    """The files of an image after some of its layers."""

    def __init__(self, max_files: int = MAX_FILES, max_path_bytes: int = MAX_PATH_BYTES) -> None:
        self._max_files = max_files
        self._max_path_bytes = max_path_bytes
        self._path_bytes = 0
        self._files: dict[bytes, FileState] = {b"": IMPLIED_FOLDER}
        self._names: dict[bytes, set[bytes]] = {b"": set()}

    def apply(self, changes: Iterable[LayerChange]) -> None:
        """Apply a layer. Raises: TreeUnsuitable: there are too many files, or a hard link's other name is missing."""
        changes = tuple(changes)
        for change in changes:
            if change.kind is ChangeKind.DELETE:
                self._remove(change.path)
            elif change.kind is ChangeKind.CLEAR:
                self._clear(change.path)
        for change in changes:
            if change.kind is ChangeKind.WRITE:
                self._write(change.path, change.file)
            elif change.kind is ChangeKind.LINK:
                found = self._files.get(change.target)
                if found is None or found.kind is FileKind.FOLDER:
                    raise TreeUnsuitable(
                        f"a hard link {shown(change.path)} names {shown(change.target)}, which is no file of the image"
                    )
                self._write(change.path, found)

    def file(self, path: bytes) -> FileState | None:
        """Return the file at a path, without following links; None if there is none."""
        return self._files.get(path)

    def paths(self) -> Iterable[bytes]:
        """Return the paths of all files."""
        return self._files.keys()

    def followed(self, path: bytes) -> FileState | None:
        """Return the file at a path whose symbolic links are followed; None if there is none, or too many links."""
        todo, done, links = path.split(b"/")[::-1], b"", 0
        while todo:
            part = todo.pop()
            if part == b"..":
                done = parent(done)
            elif part not in (b"", b"."):
                done = done + b"/" + part if done else part
            found = self._files.get(done)
            if found is None:
                return None
            if found.kind is FileKind.SYMLINK:
                links += 1
                if links > MAX_LINKS:
                    return None
                done = b"" if found.content.startswith(b"/") else parent(done)
                todo += found.content.split(b"/")[::-1]
        return self._files[done]

    def _write(self, path: bytes, file: FileState) -> None:
        for above in ancestors(path):
            found = self._files.get(above)
            if found is None or found.kind is not FileKind.FOLDER:
                self._put(above, IMPLIED_FOLDER)
        self._put(path, file)

    def _put(self, path: bytes, file: FileState) -> None:
        if not path and file.kind is not FileKind.FOLDER:
            raise TreeUnsuitable("the root of the image is not a folder")
        if file.kind is not FileKind.FOLDER and path in self._names:
            self._clear(path)
            del self._names[path]
        elif file.kind is FileKind.FOLDER:
            self._names.setdefault(path, set())
        self._path_bytes += len(path)
        self._files[path] = file
        if path:
            self._names[parent(path)].add(path)
        if len(self._files) > self._max_files or self._path_bytes > self._max_path_bytes:
            raise TreeUnsuitable(f"the image has more than {self._max_files} files, or longer paths than are compared")

    def _remove(self, path: bytes) -> None:
        if self._files.pop(path, None) is None:
            return
        self._names[parent(path)].discard(path)
        self._clear(path)
        self._names.pop(path, None)

    def _clear(self, path: bytes) -> None:
        waiting = [*self._names.get(path, ())]
        if path in self._names:
            self._names[path] = set()
        while waiting:
            below = waiting.pop()
            del self._files[below]
            waiting += self._names.pop(below, ())


class ChangedPaths:
    """The paths at which two images differ."""

    def __init__(self, old: LayerTree, new: LayerTree) -> None:
        every = {*old.paths(), *new.paths()}
        self._paths = sorted(path for path in every if old.file(path) != new.file(path))
        self._set = frozenset(self._paths)

    def __contains__(self, path: bytes) -> bool:
        return path in self._set

    def __len__(self) -> int:
        return len(self._paths)

    def first_below(self, folder: bytes) -> bytes | None:
        """Return the first changed path inside of a folder; None if there is none."""
        begin = folder + b"/" if folder else b""
        at = bisect_left(self._paths, begin)
        at += at < len(self._paths) and self._paths[at] == folder  # the root itself
        return self._paths[at] if at < len(self._paths) and self._paths[at].startswith(begin) else None


def parent(path: bytes) -> bytes:
    """Return the folder of a path; b"" for the root's own."""
    return path.rpartition(b"/")[0]


def ancestors(path: bytes) -> Iterator[bytes]:
    """Yield the folders above a path, the root's children first; without the root."""
    at = path.find(b"/")
    while at >= 0:
        yield path[:at]
        at = path.find(b"/", at + 1)


def shown(path: bytes) -> str:
    """Return a path for a message, from the root."""
    return quote("/" + path.decode("utf-8", "backslashreplace"), 300)[1:-1]

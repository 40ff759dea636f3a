"""Read a layer's tar as a list of changes to the files below it. The tar is hostile input: everything is bounded.

The rules for names are those of engines (`host.scrub.layer_comparison`): a name is relative to the layer, symbolic links of the
same tar are followed, `.wh.NAME` deletes NAME of the layers below, `.wh..wh..opq` all that they have in its folder. Of all
contents only hashes stay in memory, besides those of os-release files and the versions in C libraries.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from boltseal.errors import Unavailable
from boltseal.host.scrub.layer_blob import BlobTar, Readable
from boltseal.host.scrub.tar_header import (
    FOLDER,
    GLOBAL,
    HARDLINK,
    MAX_NAME_BYTES,
    REGULAR,
    SYMLINK,
    Header,
    TarMalformed,
    clean,
)
from boltseal.host.scrub.tar_links import TarLinks
from boltseal.oci.layer_tree import ChangeKind, FileKind, FileState, LayerChange, LayerTree, shown
from boltseal.policy.rebase_conflicts import CLibrary, Release, parse_os_release

MAX_TAR_BYTES: Final = 64 * 1024**3
MAX_ENTRIES: Final = 1_000_000
MAX_NAMES_BYTES: Final = 256 * 1024 * 1024
"""Maximum length of all names, link targets and resolved paths of a layer together."""
MAX_DEPTH: Final = 255
MAX_RELEASE_BYTES: Final = 64 * 1024
MAX_LIBRARY_BYTES: Final = 16 * 1024 * 1024
_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_OVERLAY: Final = (b"trusted.overlay.", b"user.overlay.")
_is_glibc: Final = re.compile(rb"libc\.so\.6(?:\.1)?|libc-2\.[0-9.]+\.so").fullmatch
_is_musl: Final = re.compile(rb"ld-musl-[^/]+\.so\.1").fullmatch
_is_library: Final = re.compile(rb"libc(?:\.musl-[^/]+)?\.so[0-9.]*|libc-2\.[0-9.]+\.so|ld-musl-[^/]+\.so\.1").fullmatch
_glibc_version: Final = re.compile(
    rb"GNU C Library [^\n]{0,200}? release version ([0-9]{1,4}(?:\.[0-9]{1,4}){1,3})"
).search
_musl_version: Final = re.compile(rb"\0([0-9]\.[0-9]{1,3}\.[0-9]{1,3})\0").search


class NotCompared(Unavailable):
    """An image that can't be compared: it is damaged, exceeds a limit, or a layer has not the content that the config states."""


@dataclass(frozen=True, slots=True)
class LayerLimits:
    """Limits for the layer of an image."""

    tar_bytes: int = MAX_TAR_BYTES
    entries: int = MAX_ENTRIES
    names_bytes: int = MAX_NAMES_BYTES


@dataclass(slots=True)
class LayerContents:
    """A layer's changes, in the order of its tar.

    By hashes of contents: texts of os-release files, versions of C libraries, and the files that the caller asked for.
    """

    changes: list[LayerChange] = field(default_factory=list)
    releases: dict[bytes, bytes] = field(default_factory=dict)
    versions: dict[bytes, tuple[int, ...]] = field(default_factory=dict)
    kept: dict[bytes, bytes] = field(default_factory=dict)
    tar_bytes: int = 0


@dataclass(frozen=True, slots=True)
class KeptFiles:
    """Which files' contents to keep: those at some paths, up to a size each, and together in a layer."""

    at: Callable[[bytes], bool]
    file_bytes: int
    layer_bytes: int


_NO_FILES: Final = KeptFiles(lambda _: False, 0, 0)


def read_layer(
    file: Readable,
    diff_id: str,
    count_read: Callable[[int], None],
    limits: LayerLimits,
    keep: KeptFiles = _NO_FILES,
) -> LayerContents:
    """Read a layer's blob. `diff_id`: the digest of its tar, as the config states it. Raises: NotCompared."""
    tar = BlobTar(file, "sha256", count_read, limits.tar_bytes)
    reading = _Reading(tar, keep)
    found = reading.found
    names_bytes = 0
    try:
        for header in tar.entries():
            if header.kind == GLOBAL:
                continue
            changes = [*reading.changes(header)]
            names_bytes += len(header.name) + len(header.link)
            # a short name may stand for a long path, through a symbolic link of the same tar
            names_bytes += sum(len(change.path) + len(change.target) for change in changes)
            if len(found.changes) >= limits.entries or names_bytes > limits.names_bytes:
                raise TarMalformed(f"more than {limits.entries} entries, or longer names than are compared")
            found.changes += changes
    except TarMalformed as error:
        raise NotCompared(f"a layer can't be compared: {error.message}") from error
    if f"sha256:{tar.diff_id}" != diff_id:
        raise NotCompared(
            f"a layer has not the content that the config states: its tar is sha256:{tar.diff_id[:12]}, expected {diff_id[:19]}"
        )
    found.tar_bytes = tar.tar_bytes
    return found


class _Reading:
    """One layer while it is read. `keep`: whose contents are kept."""

    def __init__(self, tar: BlobTar, keep: KeptFiles) -> None:
        self.found = LayerContents()
        self._tar = tar
        self._keep = keep
        self._kept_bytes = 0
        self._links = TarLinks()

    def changes(self, header: Header) -> Iterator[LayerChange]:
        """Yield the changes of the current entry. Raises: TarMalformed."""
        links = self._links
        folder, _, name = clean(header.name).rpartition(b"/")
        folder = links.resolved(folder) if links.targets else folder
        path = folder + b"/" + name if folder else name
        if path.count(b"/") >= MAX_DEPTH:
            raise TarMalformed(f"a path has more than {MAX_DEPTH} folders: {shown(path[:100])}")
        if not path and header.kind != FOLDER:
            raise TarMalformed("the layer's root is not a folder")
        if any(key.startswith(_OVERLAY) for key in header.xattrs):
            raise TarMalformed(f"{shown(path)} has an attribute that only overlayfs itself may set")
        if name == _OPAQUE:
            yield LayerChange(ChangeKind.CLEAR, folder)
        elif name.startswith(_WHITEOUT):
            hidden = name[len(_WHITEOUT) :]
            if hidden in (b"", b".", b".."):
                raise TarMalformed(f"{shown(path)} is a whiteout of no file")
            yield LayerChange(ChangeKind.DELETE, folder + b"/" + hidden if folder else hidden)
        elif header.kind == HARDLINK:
            links.targets.pop(path, None)
            target_folder, _, target = clean(header.link).rpartition(b"/")
            target_folder = links.resolved(target_folder) if links.targets else target_folder
            yield LayerChange(ChangeKind.LINK, path, target=target_folder + b"/" + target if target_folder else target)
        else:
            links.targets.pop(path, None)
            if header.kind == SYMLINK:
                links.targets[path] = header.link
            yield LayerChange(ChangeKind.WRITE, path, self._state(header, path))

    def _state(self, header: Header, path: bytes) -> FileState:
        owner, attributes = header.traits.owner, b""
        if header.xattrs:
            attributes = hashlib.sha256(repr(sorted(header.xattrs.items())).encode()).digest()
        if header.kind == REGULAR:
            return FileState(FileKind.REGULAR, header.mode, owner, self._content(header, path), attributes)
        if header.kind == FOLDER:
            return FileState(FileKind.FOLDER, header.mode, owner, b"", attributes)
        if header.kind == SYMLINK:
            if len(header.link) > MAX_NAME_BYTES:
                raise TarMalformed(f"a symbolic link has a target of {len(header.link)} bytes")
            return FileState(FileKind.SYMLINK, 0o777, owner, header.link, attributes)
        numbers = b"%s %d %d" % (header.kind, *header.traits.device)
        return FileState(FileKind.SPECIAL, header.mode, owner, numbers, attributes)

    def _content(self, header: Header, path: bytes) -> bytes:
        """Hash a regular file's content; keep what later checks need of it."""
        running = hashlib.sha256(repr((header.size, header.sparse)).encode())
        name = path.rpartition(b"/")[2]
        is_release = name == b"os-release" and header.stored <= MAX_RELEASE_BYTES
        is_library = _is_library(name) is not None and header.stored <= MAX_LIBRARY_BYTES
        is_kept = header.stored <= self._keep.file_bytes and self._keep.at(path)
        if is_kept:
            self._kept_bytes += header.stored
            if self._kept_bytes > self._keep.layer_bytes:
                raise TarMalformed(f"the files to keep have more than {self._keep.layer_bytes} bytes")
        pieces = []
        for piece in self._tar.content():
            running.update(piece)
            if is_release or is_library or is_kept:
                pieces.append(piece)
        content = running.digest()
        if is_release:
            self.found.releases[content] = b"".join(pieces)
        elif is_library and (version := _version(b"".join(pieces))) is not None:
            self.found.versions[content] = version
        if is_kept and content not in self.found.kept:
            self.found.kept[content] = b"".join(pieces)
        return content


def _version(library: bytes) -> tuple[int, ...] | None:
    matched = _musl_version(library) if b"musl libc (" in library else _glibc_version(library)
    return None if matched is None else tuple(map(int, matched[1].split(b".")))


def release_of(tree: LayerTree, releases: dict[bytes, bytes]) -> Release | None:
    """Return the distribution of an image; None if it has no os-release. Raises: NotCompared."""
    for path in (b"etc/os-release", b"usr/lib/os-release"):
        file = tree.followed(path)
        if file is None:
            continue
        if file.kind is not FileKind.REGULAR or file.content not in releases:
            raise NotCompared(
                f"{shown(path)} of a base can't be read: it is a {file.kind}, is too long or has another name"
            )
        return parse_os_release(releases[file.content].decode("utf-8", "replace"))
    return None


def libraries_of(tree: LayerTree, versions: dict[bytes, tuple[int, ...]]) -> list[CLibrary]:
    """Return the C libraries of an image."""
    found = {}
    for path in tree.paths():
        name = path.rpartition(b"/")[2]
        kind = "glibc" if _is_glibc(name) else "musl" if _is_musl(name) else ""
        file = tree.followed(path) if kind else None
        if file is not None and file.kind is FileKind.REGULAR:
            found[kind, file.content] = CLibrary(kind, shown(path), file.content, versions.get(file.content))
    return sorted(found.values(), key=lambda library: (library.kind, library.path))

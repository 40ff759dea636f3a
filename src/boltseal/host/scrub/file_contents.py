"""A layer's digest, computed from the files themselves.

With a tar-split the tar is put together again on a `LayerDigester`: its headers from there, the content of each file from the disk.
If the SHA-256 of it all is the diff ID, every header and every byte of every file is proven at once. If it is not, a second
reading says which files: those whose CRC64 is not the one that tar-split has. That is no proof, since a forger can write
another CRC; then the layer as a whole stands as changed, and no file is named.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Final, Protocol

from fastcrc import crc64

from boltseal.engines.safe_open import (
    SafeFolder,
    StoreMalformed,
    StoreMissing,
    StoreUnreadable,
    explained,
    open_quietly,
)
from boltseal.host.scrub.tar_header import BLOCK, Header, TarMalformed, clean
from boltseal.host.scrub.tar_split import SLOT, read

PIECE_BYTES: Final = 256 * 1024
"""So much is read and hashed at a time: it stays in the core's own cache."""
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_QUIETLY: Final = _FILE | os.O_NOATIME

Spend = Callable[[int], None]
"""Called with the bytes about to be read, or just read; may wait, so that a rate is kept."""


class ChangedWhileRead(Exception):
    """A file is not the one that was looked at a moment ago."""


class Sink(Protocol):
    """What takes bytes."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...


class FileReader:
    """Plain files of one folder. `from_disk`: what was read is taken out of the page cache, before and after."""

    def __init__(self, tree: SafeFolder, spend: Spend, *, from_disk: bool = False) -> None:
        self.tree = tree
        self.spend = spend
        self.from_disk = from_disk

    def open(self, path: bytes, before: os.stat_result | None = None) -> tuple[int, os.stat_result]:
        """A file's descriptor and what it was before it was opened. StoreMissing, StoreMalformed, StoreUnreadable.

        Only what is known to be a plain file is opened: a device may do something, a pipe may wait.
        """
        found = before or self.tree.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise StoreMalformed(f"{self.tree.shown(path)} is no plain file")
        above, _, name = path.rpartition(b"/")
        try:
            return self.open_in(self.tree.folder(above), name), found
        except OSError as error:
            raise explained(error, self.tree.shown(path)) from error

    def open_in(self, parent: int, name: bytes) -> int:
        """What is known to be a plain file, in an open folder. OSError."""
        try:
            fd = os.open(name, _QUIETLY, dir_fd=parent)
        except PermissionError:
            fd = open_quietly(name, _FILE, parent)
        if self.from_disk:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return fd

    def close(self, fd: int) -> None:
        if self.from_disk:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)

    def feed(self, path: bytes, size: int, sink: Sink) -> None:
        """Gives a file's `size` bytes to `sink`. Changed if it is not that long, or moves."""
        fd, before = self.open(path)
        try:
            if before.st_size != size:
                raise ChangedWhileRead(f"{before.st_size} bytes")
            for piece in pieces_of(fd, 0, size):
                self.spend(len(piece))
                sink.update(piece)
            if written_since(before, os.fstat(fd)):
                raise ChangedWhileRead("a file that changes while it is read")
        except OSError as error:
            raise explained(error, self.tree.shown(path)) from error
        finally:
            self.close(fd)


def pieces_of(fd: int, offset: int, length: int) -> Iterator[bytes]:
    """A part of an open file. Changed if it is shorter. OSError."""
    while length > 0:
        data = os.pread(fd, min(length, PIECE_BYTES), offset)
        if not data:
            raise ChangedWhileRead("a shorter file")
        yield data
        offset += len(data)
        length -= len(data)


def written_since(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether an open file was written to since it was looked at."""
    return (before.st_ctime_ns, before.st_size) != (after.st_ctime_ns, after.st_size)


class LayerDigester:
    """A layer's tar as it is put together: hashed, and not kept. `write` and `file`, in the tar's order; then `digest`.

    `broken`: files that were not what was looked at, so that there is no digest. `mapless`: sparse files whose map
    tar-split did not keep, so that none can be had. `guessed`: such a map was made up; if it was not the right one, the
    digest is wrong, and says nothing.
    """

    def __init__(self, files: FileReader) -> None:
        self.broken: dict[bytes, str] = {}
        self.mapless: list[bytes] = []
        self.guessed = False
        self.fed = 0
        self.files = files
        self._hash = hashlib.sha256()
        self._view = memoryview(bytearray(PIECE_BYTES))
        self._at = 0

    def _turn(self) -> None:
        """Hash what is gathered: in pieces that stay near the core, and are worth the call."""
        self.files.spend(self._at)
        self._hash.update(self._view[: self._at])
        self._at = 0

    def write(self, data: bytes) -> None:
        """Bytes of the tar itself."""
        end = self._at + len(data)
        if end > PIECE_BYTES:
            self._turn()
            end = len(data)
            if end > PIECE_BYTES:
                self.files.spend(end)
                self._hash.update(data)
                return
        self._view[self._at : end] = data
        self._at = end

    def small(self, raw: bytes, fd: int, size: int) -> bool:
        """Bytes of the tar and the plain file behind them, if both fit in a piece; else nothing is taken. OSError."""
        begin = self._at + len(raw)
        end = begin + size
        if end > PIECE_BYTES:
            if end - self._at > PIECE_BYTES:
                return False
            self._turn()
            begin, end = len(raw), len(raw) + size
        if os.readv(fd, (self._view[begin:end],)) != size:
            os.lseek(fd, 0, os.SEEK_SET)
            return False
        self._view[self._at : begin] = raw
        self._at = end
        self.fed += 1
        return True

    def file(self, path: bytes, fd: int, _: os.stat_result, header: Header) -> None:
        """The content of an open file, which has the size that it must have. OSError.

        That nobody writes to it meanwhile is not looked at: if the digest holds, what was read is what it must be.
        """
        if header.sparse is None:
            self.plain(path, fd, header.size)
            return
        self.fed += 1
        try:
            self._sparse(fd, header)
        except ChangedWhileRead as changed:
            self.broken[path] = str(changed)

    def plain(self, path: bytes, fd: int, size: int) -> None:
        """The same of a file that the tar stores whole."""
        self.fed += 1
        end = self._at + size
        if end <= PIECE_BYTES and os.readv(fd, (self._view[self._at : end],)) == size:
            self._at = end
            return
        try:
            os.lseek(fd, 0, os.SEEK_SET)
            self._whole(fd, size)
        except ChangedWhileRead as changed:
            self.broken[path] = str(changed)

    def _whole(self, fd: int, left: int) -> None:
        while left > 0:
            if left > PIECE_BYTES - self._at:
                self._turn()
            got = os.readv(fd, (self._view[self._at : self._at + left],))
            if not got:
                raise ChangedWhileRead("a shorter file")
            self._at += got
            left -= got

    def _sparse(self, fd: int, header: Header) -> None:
        pieces: Sequence[tuple[int, int]] = header.sparse or ()
        if not pieces:  # format 1.0: the map was in the content, which tar-split did not keep
            found = guessed_map(fd, header.size, header.stored)
            if found is None:
                self.mapless.append(header.name)
                return
            text, pieces = found
            self.guessed = True
            self.write(text)
        for offset, length in pieces:
            for piece in pieces_of(fd, offset, length):
                self.write(piece)

    def digest(self) -> str:
        """The SHA-256 of all of it, in hex. Nothing may be written after it."""
        self._turn()
        return self._hash.hexdigest()


def guessed_map(fd: int, size: int, stored: int) -> tuple[bytes, list[tuple[int, int]]] | None:
    """The map that GNU tar (format 1.0) most likely wrote of a file: what is not zeros, in blocks of the file system.

    None where it is not as long as what the tar stored. Whether it is the right one only the digest tells. OSError.
    """
    for block in (4096, 512):
        zeros = bytes(block)
        pieces: list[tuple[int, int]] = []
        for start in range(0, size, PIECE_BYTES):
            data = os.pread(fd, min(PIECE_BYTES, size - start), start)
            for at in range(0, len(data), block):
                part = data[at : at + block]
                if part == zeros[: len(part)]:
                    continue
                offset, length = pieces[-1] if pieces else (-1, 0)
                if offset + length == start + at:
                    pieces[-1] = offset, length + len(part)
                else:
                    pieces.append((start + at, len(part)))
        if not pieces or sum(pieces[-1]) < size:
            pieces.append((size, 0))
        text = f"{len(pieces)}\n" + "".join(f"{offset}\n{length}\n" for offset, length in pieces)
        filled = text.encode().ljust(-(-len(text) // BLOCK) * BLOCK, b"\0")
        if len(filled) + sum(length for _, length in pieces) == stored:
            return filled, pieces
    return None


def suspects(split: IO[bytes], files: FileReader, since_ns: int) -> Iterator[tuple[bytes, str]]:
    """The files whose content has not the CRC64 that tar-split has, or that were written to since then, and which it is.

    Those that can't be read are passed over.
    """
    for line in read(split):
        if line.type == SLOT and line.size > 0 and line.payload is not None:
            running = _Crc()
            try:
                path = clean(line.path)
                written = files.tree.stat(path).st_ctime_ns > since_ns
                files.feed(path, line.size, running)
            except (ChangedWhileRead, StoreMissing, StoreMalformed, StoreUnreadable, TarMalformed):
                continue
            if written:
                yield path, "a file that was written to while it was checked"
            elif running.value.to_bytes(8) != line.payload:
                yield path, "other content"


class _Crc:
    """A running CRC64 (ISO)."""

    def __init__(self) -> None:
        self.value = 0
        self._begun = False

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        self.value = crc64.go_iso(data, self.value if self._begun else None)
        self._begun = True

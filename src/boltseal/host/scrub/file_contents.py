"""Computes a layer's digest from its files.

A `LayerDigester` reassembles the tar: headers from the tar-split, the content of each file from disk. If its SHA-256 is the
diff ID, every header and every byte of every file is proven at once. If not, a second reading finds the files whose CRC64
differs from that in the tar-split. That is no proof, since an attacker can change the CRC; then the layer as a whole is
reported as changed, and no file is named.
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
)
from boltseal.host.scrub.tar_header import BLOCK, Header, TarMalformed
from boltseal.host.scrub.tar_split import SLOT, read

PIECE_BYTES: Final = 256 * 1024
"""The number of bytes read and hashed at a time; they fit in the core's cache."""
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_QUIETLY: Final = _FILE | os.O_NOATIME

CountRead = Callable[[int], None]
"""Called with the number of bytes about to be read, or just read; may wait to keep a rate limit."""


class ChangedWhileRead(Exception):
    """A file changed while it was read."""


class Sink(Protocol):
    """A consumer of bytes, such as a hash."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...


class FileReader:
    """Reads regular files of one folder. `from_disk`: drop files from the page cache before and after reading."""

    def __init__(self, tree: SafeFolder, count_read: CountRead, *, from_disk: bool = False) -> None:
        self.tree = tree
        self._open_at = tree.open_at
        self.count_read = count_read
        self.from_disk = from_disk

    def open(self, path: bytes, before: os.stat_result | None = None) -> tuple[int, os.stat_result]:
        """Open a file, and return its descriptor and its status before it was opened.

        Only a known regular file is opened: opening a device may have effects, opening a pipe may block.

        Raises: StoreMissing, StoreMalformed, StoreUnreadable.
        """
        found = before or self.tree.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise StoreMalformed(f"{self.tree.shown(path)} is not a regular file")
        above, _, name = path.rpartition(b"/")
        try:
            return self.open_in(self.tree.folder(above), name), found
        except OSError as error:
            raise explained(error, self.tree.shown(path)) from error

    def open_in(self, parent: int, name: bytes) -> int:
        """Open a known regular file in an open folder.

        Raises: OSError.
        """
        try:
            fd = self._open_at(name, _QUIETLY, parent) if self._open_at else os.open(name, _QUIETLY, dir_fd=parent)
        except PermissionError:
            fd = self.tree.open_in(name, _FILE, parent)
        if self.from_disk:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return fd

    def opener(self) -> Callable[[int, bytes], int]:
        """Return a function that does what `open_in` does, without a check per file of how files are opened."""
        open_at, open_in = self._open_at, self.open_in
        if open_at is None or self.from_disk:
            return open_in

        def open_(parent: int, name: bytes) -> int:
            try:
                return open_at(name, _QUIETLY, parent)
            except PermissionError:
                return open_in(parent, name)

        return open_

    def closer(self) -> Callable[[int], None]:
        """Return a function that does what `close` does."""
        return self.close if self.from_disk else os.close

    def close(self, fd: int) -> None:
        if self.from_disk:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)

    def feed(self, path: bytes, size: int, sink: Sink) -> None:
        """Feed a file's `size` bytes to `sink`.

        Raises: ChangedWhileRead: if it has another size or changes; StoreUnreadable.
        """
        fd, before = self.open(path)
        try:
            if before.st_size != size:
                raise ChangedWhileRead(f"{before.st_size} bytes")
            for piece in pieces_of(fd, 0, size):
                self.count_read(len(piece))
                sink.update(piece)
            if written_since(before, os.fstat(fd)):
                raise ChangedWhileRead("a file that changes while it is read")
        except OSError as error:
            raise explained(error, self.tree.shown(path)) from error
        finally:
            self.close(fd)


def pieces_of(fd: int, offset: int, length: int) -> Iterator[bytes]:
    """Yield a part of an open file.

    Raises: ChangedWhileRead: if the file is shorter; OSError.
    """
    while length > 0:
        data = os.pread(fd, min(length, PIECE_BYTES), offset)
        if not data:
            raise ChangedWhileRead("a shorter file")
        yield data
        offset += len(data)
        length -= len(data)


def written_since(before: os.stat_result, after: os.stat_result) -> bool:
    """Return whether an open file was written to between two calls of stat."""
    return (before.st_ctime_ns, before.st_size) != (after.st_ctime_ns, after.st_size)


class LayerDigester:
    """Hashes a layer's tar while it is reassembled. Call `write` and `add_file` in the tar's order, then `digest`.

    `broken`: files that changed while they were read, so that there is no digest. `mapless`: sparse files whose map is not in
    the tar-split and can't be reconstructed. `guessed`: whether such a map was reconstructed; if wrongly, the digest is
    wrong too and proves nothing. `fed`: the number of files read.
    """

    def __init__(self, files: FileReader) -> None:
        self.broken: dict[bytes, str] = {}
        self.mapless: list[bytes] = []
        self.guessed = False
        self.fed = 0
        self.files = files
        self._hash = hashlib.sha256()
        self._buffer = memoryview(bytearray(PIECE_BYTES))
        self._used = 0

    def _hash_buffer(self) -> None:
        """Hash the collected bytes: pieces that fit in the core's cache and are large enough for the call."""
        self.files.count_read(self._used)
        self._hash.update(self._buffer[: self._used])
        self._used = 0

    def write(self, data: bytes) -> None:
        """Add bytes of the tar itself."""
        end = self._used + len(data)
        if end > PIECE_BYTES:
            self._hash_buffer()
            end = len(data)
            if end > PIECE_BYTES:
                self.files.count_read(end)
                self._hash.update(data)
                return
        self._buffer[self._used : end] = data
        self._used = end

    def add_small(self, raw: bytes, fd: int, size: int) -> bool:
        """Add bytes of the tar and the small file after them; return False, and add nothing, if they do not fit in a piece.

        Raises: OSError.
        """
        begin = self._used + len(raw)
        end = begin + size
        if end > PIECE_BYTES:
            if end - self._used > PIECE_BYTES:
                return False
            self._hash_buffer()
            begin, end = len(raw), len(raw) + size
        if os.readv(fd, (self._buffer[begin:end],)) != size:
            os.lseek(fd, 0, os.SEEK_SET)
            return False
        self._buffer[self._used : begin] = raw
        self._used = end
        self.fed += 1
        return True

    def add_file(self, path: bytes, fd: int, _: os.stat_result, header: Header) -> None:
        """Add the content of an open file of the expected size.

        Concurrent writes are not detected here: if the digest matches, the bytes that were read are right.

        Raises: OSError.
        """
        if header.sparse is None:
            self.add_regular(path, fd, header.size)
            return
        self.fed += 1
        try:
            self._add_sparse(fd, header)
        except ChangedWhileRead as changed:
            self.broken[path] = str(changed)

    def add_regular(self, path: bytes, fd: int, size: int) -> None:
        """Add the content of a file that the tar stores completely.

        Raises: OSError.
        """
        self.fed += 1
        end = self._used + size
        if end <= PIECE_BYTES and os.readv(fd, (self._buffer[self._used : end],)) == size:
            self._used = end
            return
        try:
            os.lseek(fd, 0, os.SEEK_SET)
            self._add_large(fd, size)
        except ChangedWhileRead as changed:
            self.broken[path] = str(changed)

    def _add_large(self, fd: int, left: int) -> None:
        while left > 0:
            if left > PIECE_BYTES - self._used:
                self._hash_buffer()
            got = os.readv(fd, (self._buffer[self._used : self._used + left],))
            if not got:
                raise ChangedWhileRead("a shorter file")
            self._used += got
            left -= got

    def _add_sparse(self, fd: int, header: Header) -> None:
        pieces: Sequence[tuple[int, int]] = header.sparse or ()
        if not pieces:  # format 1.0 has the map in the content, which is not in the tar-split
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
        """Return the SHA-256 of everything, in hex. Nothing may be added after it."""
        self._hash_buffer()
        return self._hash.hexdigest()


def guessed_map(fd: int, size: int, stored: int) -> tuple[bytes, list[tuple[int, int]]] | None:
    """Reconstruct the sparse map that GNU tar (format 1.0) most likely wrote: the blocks that are not zeros.

    Returns None if its length does not fit the stored size. Only the digest shows whether it is right.

    Raises: OSError.
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


def suspects(
    split: IO[bytes], files: FileReader, since_ns: int, located: Callable[[bytes], bytes]
) -> Iterator[tuple[bytes, str]]:
    """Yield files whose CRC64 differs from the tar-split's, or that were written to since `since_ns`, each with what it is.

    `located`: returns the path of an entry's name. Unreadable files are skipped.
    """
    for line in read(split):
        if line.type == SLOT and line.size > 0 and line.payload is not None:
            running = _Crc()
            try:
                path = located(line.path)
                written = files.tree.stat(path).st_ctime_ns > since_ns
                files.feed(path, line.size, running)
            except (ChangedWhileRead, StoreMissing, StoreMalformed, StoreUnreadable, TarMalformed):
                continue
            if written:
                yield path, "a file that was written to during the check"
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

"""A layer's digest, computed from the files themselves.

With a tar-split the tar is put together again: its headers from there, the content of each file from the disk. If the
SHA-256 of it all is the diff ID, every header and every byte of every file is proven at once. If it is not, a second
reading says which files: those whose CRC64 is not the one that tar-split has. That is no proof, since a forger can write
another CRC; then the layer as a whole stands as changed, and no file is named.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import IO, Final, Protocol

from fastcrc import crc64

from boltseal.runtimes.beneath import Beneath, StoreMalformed, StoreMissing, StoreUnreadable, explained, open_quietly
from boltseal.scrub.comparison import clean
from boltseal.scrub.tarheader import Header, TarMalformed, parse_group
from boltseal.scrub.tarsplit import Segment, Slot, read

PIECE_BYTES: Final = 1024 * 1024
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

Spend = Callable[[int], None]
"""Called with the bytes about to be read, or just read; may wait, so that a rate is kept."""


class Changed(Exception):
    """A file is not the one that was looked at a moment ago."""


class Sink(Protocol):
    """What takes bytes: a running hash."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...


class FileReader:
    """Plain files of one folder. `from_disk`: what was read is taken out of the page cache, before and after."""

    def __init__(self, tree: Beneath, spend: Spend, *, from_disk: bool = False) -> None:
        self._tree = tree
        self._spend = spend
        self._from_disk = from_disk
        self.buffer = bytearray(PIECE_BYTES)

    def open(self, path: bytes) -> tuple[int, os.stat_result]:
        """A file's descriptor and what it was before it was opened. StoreMissing, StoreMalformed, StoreUnreadable."""
        above, _, name = path.rpartition(b"/")
        parent = self._tree.folder(above)
        try:
            before = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISREG(before.st_mode):
                raise StoreMalformed(f"{self._tree.shown(path)} is no plain file")
            fd = open_quietly(name, _FILE, parent)
        except OSError as error:
            raise explained(error, self._tree.shown(path)) from error
        if self._from_disk:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return fd, before

    def close(self, fd: int) -> None:
        if self._from_disk:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)

    def feed(self, path: bytes, size: int, sink: Sink, sparse: tuple[tuple[int, int], ...] | None = None) -> None:
        """Gives a file's `size` bytes, or only these pieces of it, to `sink`. Changed if it is not that long, or moves."""
        fd, before = self.open(path)
        try:
            if before.st_size != size:
                raise Changed(f"{before.st_size} bytes")
            if sparse is None:
                self._all(fd, size, sink)
            else:
                for offset, length in sparse:
                    self._piece(fd, offset, length, sink)
            _unchanged(before, os.fstat(fd))
        except OSError as error:
            raise explained(error, self._tree.shown(path)) from error
        finally:
            self.close(fd)

    def _all(self, fd: int, size: int, sink: Sink) -> None:
        self._spend(size if size <= PIECE_BYTES else 0)
        if size <= PIECE_BYTES:
            data = os.read(fd, size + 1)
            if len(data) != size:
                raise Changed(f"{len(data)} bytes")
            sink.update(data)
            return
        view = memoryview(self.buffer)
        left = size
        while left > 0:
            got = os.readv(fd, [view[: min(left, PIECE_BYTES)]])
            if not got:
                raise Changed(f"{size - left} bytes")
            self._spend(got)
            sink.update(view[:got])
            left -= got

    def _piece(self, fd: int, offset: int, length: int, sink: Sink) -> None:
        while length > 0:
            data = os.pread(fd, min(length, PIECE_BYTES), offset)
            if not data:
                raise Changed("a shorter file")
            self._spend(len(data))
            sink.update(data)
            offset += len(data)
            length -= len(data)


def _unchanged(before: os.stat_result, after: os.stat_result) -> None:
    if (before.st_ino, before.st_dev, before.st_mtime_ns, before.st_ctime_ns, before.st_size) != (
        after.st_ino,
        after.st_dev,
        after.st_mtime_ns,
        after.st_ctime_ns,
        after.st_size,
    ):
        raise Changed("a file that changes while it is read")


class Reassembled:
    """What came of putting a layer's tar together.

    `digest`: its SHA-256 in hex, or None where a file was not there to be read, or not as long as it must be.
    `broken`: those files, and why. `mapless`: sparse files whose map tar-split did not keep, so that no digest can be had.
    """

    def __init__(self) -> None:
        self.digest: str | None = None
        self.broken: dict[bytes, str] = {}
        self.unreadable: list[str] = []
        self.mapless: list[bytes] = []


def reassemble(split: IO[bytes], files: FileReader) -> Reassembled:
    """The digest of a layer's tar, from its tar-split and its files. TarMalformed."""
    result = Reassembled()
    running = hashlib.sha256()
    pending = bytearray()
    for each, header in _with_headers(split):
        if isinstance(each, Segment):
            pending += each.data
        elif each.size:
            sparse = header.sparse if header is not None else None
            small = each.size < PIECE_BYTES // 4 and sparse is None
            if not small or len(pending) >= PIECE_BYTES:
                running.update(pending)
                pending.clear()
            _feed(each, sparse, files, _Joined(pending) if small else running, result)
    running.update(pending)
    if not (result.broken or result.unreadable or result.mapless):
        result.digest = running.hexdigest()
    return result


def _feed(
    slot: Slot, sparse: tuple[tuple[int, int], ...] | None, files: FileReader, sink: Sink, result: Reassembled
) -> None:
    """One file's content. What keeps it from being read is noted, and the others are read all the same."""
    if sparse == ():
        result.mapless.append(slot.name)
        return
    try:
        files.feed(clean(slot.name), slot.size, sink, sparse)
    except Changed as changed:
        result.broken[slot.name] = str(changed)
    except (StoreMissing, StoreMalformed) as error:
        result.broken[slot.name] = error.message
    except StoreUnreadable as error:
        result.unreadable.append(error.message)


class _Joined:
    """Small files are gathered: hashing a few bytes at a time costs more than the bytes."""

    def __init__(self, pending: bytearray) -> None:
        self._pending = pending

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        self._pending += data


def _with_headers(split: IO[bytes]) -> Iterator[tuple[Segment | Slot, Header | None]]:
    """The lines, and with those of sparse files their header. Only they need it here."""
    group = bytearray()
    pad = 0
    for each in read(split):
        if isinstance(each, Segment):
            if len(group) < PIECE_BYTES:
                group += each.data
            yield each, None
            continue
        header = None
        stored = each.size
        if b"GNU.sparse." in group:
            header = parse_group(bytes(group[pad:]))
            stored = header.stored
        yield each, header
        group.clear()
        pad = -stored % 512


def suspects(split: IO[bytes], files: FileReader) -> Iterator[bytes]:
    """The files whose content has not the CRC64 that tar-split has. Those that can't be read are passed over."""
    for each in read(split):
        if isinstance(each, Slot) and each.size and each.crc is not None:
            running = _Crc()
            try:
                files.feed(clean(each.name), each.size, running)
            except (Changed, StoreMissing, StoreMalformed, StoreUnreadable, TarMalformed):
                continue
            if running.value.to_bytes(8) != each.crc:
                yield each.name


class _Crc:
    """A running CRC64 (ISO)."""

    def __init__(self) -> None:
        self.value = 0
        self._begun = False

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        self.value = crc64.go_iso(bytes(data), self.value if self._begun else None)
        self._begun = True

"""Reads a layer's blob once: hashes it, decompresses it, hashes the tar, and parses the entries.

`digest` is the hash of the blob, `diff_id` that of the tar in it; both are complete only after the last entry. gzip (any
number of members), zstd and uncompressed tars are detected by their first bytes, as engines do.
"""

from __future__ import annotations

import hashlib
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from boltseal.host.scrub.tar_header import BLOCK, Header, TarMalformed, group_size, parse_group
from boltseal.oci.digest import Digest, hasher

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES: Final = 256 * 1024
OUT_BYTES: Final = 1024 * 1024
MAX_GROUP_BYTES: Final = 16 * 1024 * 1024
MAX_DIGITS: Final = 20
MAX_PIECES: Final = 2_000_000
MAX_WINDOW_LOG: Final = 27
"""A zstd frame can request a window of 2^41 bytes; engines and boltseal accept up to 128 MiB."""
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


class Readable(Protocol):
    """A source of bytes."""

    def read(self, limit: int, /) -> bytes: ...


class BlobTar:
    """One blob, read once from its beginning. `count_read`: called with the number of bytes read.

    `max_tar_bytes`: a longer tar is malformed; None for any length.
    """

    def __init__(
        self, file: Readable, algorithm: str, count_read: Callable[[int], None], max_tar_bytes: int | None = None
    ) -> None:
        self._file = file
        self._count_read = count_read
        self._blob = hasher(algorithm)
        self._algorithm = algorithm
        self._tar = hashlib.sha256()
        self._rest = b""
        self._content_left = 0
        self._max_tar_bytes = max_tar_bytes
        self.tar_bytes = 0
        self._pieces = self._decompressed()

    @property
    def digest(self) -> Digest:
        """The digest of what was read of the blob so far."""
        return Digest(self._algorithm, self._blob.hexdigest())

    @property
    def diff_id(self) -> str:
        """The SHA-256 of the tar so far, in hex."""
        return self._tar.hexdigest()

    def entries(self) -> Iterator[Header]:
        """Yield the entries. `content` yields the stored content of the current one; what is not read is skipped."""
        while True:
            group = self._read_exactly(BLOCK)
            if len(group) < BLOCK or not any(group):
                break
            while (more := group_size(group[-BLOCK:])) is not None:
                is_global = group[-BLOCK:][156:157] == b"g"
                group += self._read_exactly(more)
                if is_global:
                    break
                group += self._read_exactly(BLOCK)
                if len(group) > MAX_GROUP_BYTES:
                    raise TarMalformed("an entry's headers are too long (engines would not read them)")
            header = parse_group(group)
            self._content_left = header.stored
            yield header
            for _ in self.content():
                pass
            self._read_exactly(-header.stored % BLOCK)
        self.drain()

    def content(self) -> Iterator[bytes]:
        """Yield the stored content of the current entry.

        Raises: TarMalformed: if the tar is truncated.
        """
        while self._content_left > 0:
            piece = self._read_some(min(self._content_left, PIECE_BYTES))
            if not piece:
                raise TarMalformed("the layer's tar ends in the middle of a file")
            self._content_left -= len(piece)
            yield piece

    def exactly(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes of the stored content.

        Raises: TarMalformed: if the tar is truncated.
        """
        while size > 0:
            piece = self._read_some(min(size, self._content_left, PIECE_BYTES)) if self._content_left > 0 else b""
            if not piece:
                raise TarMalformed("the layer's tar ends in the middle of a file")
            self._content_left -= len(piece)
            size -= len(piece)
            yield piece

    def sparse_map(self) -> tuple[tuple[int, int], ...]:
        """Read GNU's sparse map 1.0 from before the content: decimal lines, padded to a block.

        Raises: TarMalformed.
        """
        text, wanted = b"", 1
        numbers: list[int] = []
        while len(numbers) < wanted:
            text += b"".join(self.exactly(BLOCK))
            *lines, text = text.split(b"\n")
            for line in lines:
                if not line.isdigit() or len(line) > MAX_DIGITS:
                    raise TarMalformed("the map of a sparse file is damaged")
                numbers.append(int(line))
            wanted = 1 + 2 * numbers[0] if numbers else 1
            if len(numbers) < wanted and len(text) > MAX_DIGITS:
                raise TarMalformed("the map of a sparse file is damaged")
            if wanted > MAX_PIECES:
                raise TarMalformed(f"the map of a sparse file has too many pieces (expected at most {MAX_PIECES})")
        return tuple(zip(numbers[1:wanted:2], numbers[2:wanted:2], strict=True))

    def pieces(self) -> Iterator[bytes]:
        """Yield the whole tar. Raises: TarMalformed: its compression is damaged."""
        return self._pieces

    def skip(self, piece: bytes) -> None:
        """Hash bytes of the blob that the caller read itself."""
        self._blob.update(piece)

    def drain(self) -> None:
        """Read to the end, so that both hashes are complete."""
        self._rest = b""
        for _ in self._pieces:
            pass

    def _read_exactly(self, size: int) -> bytes:
        taken = []
        while size > 0 and (piece := self._read_some(size)):
            taken.append(piece)
            size -= len(piece)
        return taken[0] if len(taken) == 1 else b"".join(taken)

    def _read_some(self, limit: int) -> bytes:
        if not self._rest:
            self._rest = next(self._pieces, b"")
        piece, self._rest = self._rest[:limit], self._rest[limit:]
        return piece

    def _blob_pieces(self) -> Iterator[bytes]:
        while piece := self._file.read(PIECE_BYTES):
            self._count_read(len(piece))
            self._blob.update(piece)
            yield piece

    def _decompressed(self) -> Iterator[bytes]:
        raw = self._blob_pieces()
        first = next(raw, b"")
        if first.startswith(_GZIP):
            pieces = _gunzip(_chain(first, raw))
        elif first.startswith(_ZSTD):
            pieces = _unzstd(_chain(first, raw))
        else:
            pieces = _chain(first, raw)
        for piece in pieces:
            self._tar.update(piece)
            self.tar_bytes += len(piece)
            if self._max_tar_bytes is not None and self.tar_bytes > self._max_tar_bytes:
                raise TarMalformed(f"the layer's tar has more than {self._max_tar_bytes} bytes")
            yield piece


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _gunzip(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress the members of a gzip file.

    Raises: TarMalformed.
    """
    member = None
    for raw in pieces:
        while raw and (member is not None or any(raw)):  # zeros after the last member are padding
            member = member or zlib.decompressobj(zlib.MAX_WBITS | 16)
            try:
                out = member.decompress(raw, OUT_BYTES)
            except zlib.error as error:
                raise TarMalformed(f"the layer's gzip is damaged: {error}") from error
            if out:
                yield out
            raw = member.unused_data if member.eof else member.unconsumed_tail
            member = None if member.eof else member
    if member is not None:
        yield member.flush()
        if not member.eof:
            raise TarMalformed("the layer's gzip is truncated")


def _unzstd(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress the frames of a zstd file, including skippable ones.

    Raises: TarMalformed.
    """
    frame = None
    for raw in pieces:
        while raw or frame is not None:
            frame = frame or _frame()
            try:
                out = frame.decompress(raw, OUT_BYTES)
            except zstd.ZstdError as error:
                raise TarMalformed(f"the layer's zstd is damaged: {error}") from error
            if out:
                yield out
            if frame.eof:
                raw, frame = frame.unused_data, None
            elif frame.needs_input:
                break
            else:
                raw = b""
    if frame is not None:
        raise TarMalformed("the layer's zstd is truncated")


def _frame() -> zstd.ZstdDecompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG})

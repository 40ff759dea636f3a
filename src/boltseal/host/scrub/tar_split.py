"""Reads tar-split files: a layer's tar without the contents of its files, from which the tar can be reassembled.

    {"type":2,"payload":BASE64}                                          bytes of the tar: headers, padding
    {"type":1,"name":"etc/passwd","size":12,"payload":CRC64,...}         the place of this file's content
    {"type":1,"name_raw":BASE64,...}                                     for a name that is not UTF-8

one per line, compressed by gzip. Every entry of the tar has a line of type 1, folders and links too (without a size); the
bytes before it are its header. The file is not trusted: the reassembled tar must have the digest in the config.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import IO, Final

import msgspec

from boltseal.errors import quote
from boltseal.host.scrub.tar_header import BLOCK, GLOBAL, REGULAR, Header, TarMalformed, parse_group

MAX_LINE_BYTES: Final = 32 * 1024 * 1024
"""Padding at the end of a tar comes in lines of 1 MiB; a header group is smaller."""
MAX_PENDING_BYTES: Final = 64 * 1024 * 1024
END_BYTES: Final = 1024
"""Two blocks of zeros end a tar; readers ignore what follows."""
_READ: Final = 256 * 1024


class TarSplitLine(msgspec.Struct, gc=False):
    """One line. `payload`: bytes of the tar (type SEGMENT), or the CRC64 (ISO) of the file's content (type SLOT)."""

    type: int
    name: str = ""
    name_raw: bytes = b""
    size: int = 0
    payload: bytes | None = None

    @property
    def path(self) -> bytes:
        """The name as in the header."""
        return self.name_raw or self.name.encode()


SEGMENT: Final = 2
SLOT: Final = 1
_decoder = msgspec.json.Decoder(TarSplitLine)


def read(file: IO[bytes]) -> Iterator[TarSplitLine]:
    """Return the lines of a tar-split file.

    Raises: TarMalformed, OSError.
    """
    return chain.from_iterable(_batches(file))


def _batches(file: IO[bytes]) -> Iterator[list[TarSplitLine]]:
    for text in _whole_lines(file):
        try:
            yield _decoder.decode_lines(text)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise TarMalformed(f"invalid line in the tar-split: {quote(str(error))}") from error


TakeEntry = Callable[[bytes, int, TarSplitLine], bool]
"""Receives the bytes before an entry's content, the number of padding bytes among them, and its line; returns whether it
handled the entry."""


def entries(file: IO[bytes], taken: TakeEntry = lambda _, __, ___: False) -> Iterator[tuple[bytes, Header | None]]:
    """Yield each entry's header with all bytes of the tar before its content; at the end the remaining bytes and None.

    `taken` is called for files before their header is parsed; entries that it handles are not yielded.

    Every byte must be padding, part of one header per entry, or zeros at the end. Otherwise an attacker could write a file's
    content or a whole entry into a raw segment, and the digest would match without the file.

    Raises: TarMalformed.
    """
    raw = b""
    pad = 0
    for line in read(file):
        if line.type == SEGMENT:
            raw = raw + line.payload if raw and line.payload else raw or line.payload or b""
            if len(raw) > MAX_PENDING_BYTES:
                raise TarMalformed(f"the tar-split has more than {MAX_PENDING_BYTES} bytes without an entry")
            continue
        if line.type != SLOT:
            raise TarMalformed(f"unknown type of a line in the tar-split (got {line.type}, expected 1 or 2)")
        if line.size and len(raw) == pad + BLOCK and taken(raw, pad, line):
            raw, pad = b"", -line.size % BLOCK
            continue
        header = parse_group(raw, pad)
        same_size = header.size == line.size or header.kind != REGULAR  # others may have a size, but no content
        if (header.name != line.path or not same_size) and header.kind != GLOBAL:
            raise TarMalformed(
                f"the tar-split has {quote(repr(line.path))} of {line.size} bytes "
                f"where its header has {quote(repr(header.name))} of {header.size}"
            )
        yield raw, header
        raw, pad = b"", -header.stored % BLOCK
    if any(raw[pad : pad + END_BYTES]):
        raise TarMalformed("the tar-split has bytes other than zeros after its last entry")
    yield raw, None


def _whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the text of a gzip file in pieces of whole lines, each at most slightly longer than MAX_LINE_BYTES."""
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    rest: list[bytes] = []  # of an incomplete line
    size = 0
    ended = False
    while piece := file.read(_READ):
        while piece:
            if ended:
                inflate, ended = zlib.decompressobj(zlib.MAX_WBITS | 16), False
            try:
                text = inflate.decompress(piece, _READ * 4)
            except zlib.error as error:
                raise TarMalformed(f"the tar-split is not a gzip file or is damaged: {error}") from error
            piece = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            ended = inflate.eof
            whole, newline, begun = text.rpartition(b"\n")
            if newline:
                yield b"".join((*rest, whole))
                rest, size = [], 0
            rest.append(begun)
            size += len(begun)
            if size > MAX_LINE_BYTES:
                raise TarMalformed(f"the tar-split has a line of more than {MAX_LINE_BYTES} bytes")
    if not ended:
        raise TarMalformed("the tar-split is truncated")
    if size:
        yield b"".join(rest)
